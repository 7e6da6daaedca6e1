"""The files in deploy/ held to the code, and to what judges them without a machine to deploy on. Where they run is in tests/e2e."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("gunicorn, and with it what is deployed, is for Unix", allow_module_level=True)

import nginx
import servers
import tls
from deployed import DEPLOY, EXPOSURE, ROOT, UNIT, arguments, compose, unit
from media_storage import connection_unix, server_unix, worker_unix
from media_storage.settings import Settings

DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}


# --- nginx ---


def uncommented(text: str) -> str:
    """The site with what it suggests in comments: limits for each address, HSTS, a second server."""
    return re.sub(r"^( *)# (limit_|add_header |server )", r"\1\2", text, flags=re.MULTILINE)


def test_nginx_accepts_it(tmp_path: Path) -> None:
    """The site, and the site with every suggestion in it."""
    site = nginx.media_site("127.0.0.1:1", tls.self_signed(tmp_path), tmp_path)
    text = nginx.on_loopback(site, servers.free_port(), servers.free_port())
    assert len(re.findall(r"^ *(limit_|add_header Strict|server 127)", uncommented(text), re.MULTILINE)) == 7
    for number, variant in enumerate((text, uncommented(text))):
        done = nginx.verdict(variant, tmp_path / str(number))
        assert done.returncode == 0, done.stderr


def test_nginx_is_more_patient_than_the_service() -> None:
    """With the default settings it is the service that ends a slow body or an idle connection, and that refuses what is too large."""
    text = (DEPLOY / "nginx.conf").read_text()
    seconds = {name: int(value) for name, value in re.findall(r"^ +(\w+_timeout) (\d+)s;", text, re.MULTILINE)}
    for name in ("client_body_timeout", "proxy_send_timeout", "proxy_read_timeout"):
        assert seconds[name] >= DEFAULTS["upload_timeout_seconds"] + 60
    assert seconds["client_header_timeout"] == connection_unix.HEAD_SECONDS
    assert seconds["keepalive_timeout"] < connection_unix.KEEPALIVE_SECONDS
    assert "client_max_body_size 0;" in text
    assert f"server 127.0.0.1:{DEFAULTS['port']};" in text


# --- systemd ---


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not here: on Debian `apt-get install systemd`")
    return subprocess.run(["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """No unknown name, no value out of place; its program is replaced by one that is here."""
    text = UNIT.read_text()
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(unit()["ExecStart"].split()[0], sys.executable))
    done = analyze("--man=no", "verify", str(copy))
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line or "Unknown" in line]
    assert (done.returncode, complaints) == (0, [])


def test_the_unit_is_hardened() -> None:
    """systemd's own judgement."""
    done = analyze("security", "--offline=true", f"--threshold={round(EXPOSURE * 10)}", str(UNIT))
    assert done.returncode == 0, done.stdout
    assert re.search(rf"Overall exposure level for {UNIT.name}: {EXPOSURE}", done.stdout), "the threshold can be lowered"


def test_the_unit_agrees_with_the_service() -> None:
    """Time to finish uploads, files, threads, the status that a restart does not mend, and where temporary files go."""
    service = unit()
    assert int(service["TimeoutStopSec"]) > DEFAULTS["shutdown_grace_seconds"] + server_unix.KILL_SECONDS
    files = 3 * DEFAULTS["max_concurrent_uploads"] + worker_unix.IDLE_CONNECTIONS + server_unix.OTHER_THREADS
    assert int(service["LimitNOFILE"]) > files
    assert service["RestartPreventExitStatus"] == "2"
    assert service["Environment"] == "TMPDIR=/var/tmp"
    assert (service["PrivateTmp"], service["TasksMax"], service["KillMode"]) == ("yes", "infinity", "mixed")


# --- containers ---


def test_the_image_is_of_the_tested_python_and_not_run_by_root() -> None:
    """A tag, the locked minor version, a numeric user."""
    locked = re.search(r'^python = "(\d+\.\d+)\.\*"', (ROOT / "pixi.toml").read_text(), re.MULTILINE)
    assert locked is not None
    assert arguments("FROM") == [f"python:{locked[1]}-slim"]
    assert arguments("USER") == ["65532:65532"]
    assert arguments("EXPOSE") == [str(DEFAULTS["port"])]
    assert json.loads(arguments("ENTRYPOINT")[0]) + json.loads(arguments("CMD")[0]) == ["media-storage", "serve"]


def test_the_build_sees_what_it_copies_and_no_more() -> None:
    """.dockerignore lets through exactly what COPY names, so that no .env and no key gets into an image."""
    copied = [name.removeprefix("./") for line in arguments("COPY") for name in line.split()[:-1]]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(copied)
    assert all((ROOT / name).exists() for name in copied)


def test_compose_sets_what_exists_and_asks_for_what_is_required() -> None:
    """Every variable is a setting; every setting without a default must be given."""
    environment = compose()["environment"]
    settings = {name.upper(): field for name, field in Settings.model_fields.items()}
    assert set(environment) <= set(settings)
    assert {name for name, field in settings.items() if field.is_required()} <= set(environment)
    for name, value in environment.items():
        asked = re.fullmatch(r"\$\{(\w+)(:\?.+|:-.*)\}", str(value))
        assert asked is None or asked[1] == name
        if settings[name].is_required():
            assert asked is not None
            assert asked[2].startswith(":?")
    fixed = {name: str(value) for name, value in environment.items() if not str(value).startswith("$")}
    required = {name: "http://127.0.0.1:1" for name, field in settings.items() if field.is_required()}
    Settings.model_validate({**required, **fixed})


def mebibytes(text: str) -> int:
    return int(text.removesuffix("m"))


def test_compose_has_room_for_every_upload() -> None:
    """The temporary space holds the worst case, and the memory holds that and the processes."""
    service = compose()
    environment = service["environment"]
    uploads = environment["WORKERS"] * environment["MAX_CONCURRENT_UPLOADS"]
    (mount,) = service["tmpfs"]
    found = re.fullmatch(r"/tmp:size=(\d+m),mode=1777", mount)
    assert found is not None
    assert mebibytes(found[1]) == uploads * environment["MAX_UPLOAD_MB"]
    assert mebibytes(service["mem_limit"]) > mebibytes(found[1]) + environment["WORKERS"] * 50 + uploads / 8
    assert int(service["stop_grace_period"].removesuffix("s")) > environment["SHUTDOWN_GRACE_SECONDS"] + server_unix.KILL_SECONDS


def test_compose_gives_the_container_no_rights() -> None:
    """Read-only, no capability, no new one, no root, reachable from this machine alone."""
    service = compose()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == arguments("USER")[0]
    assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in (DEFAULTS["port"], DEFAULTS["metrics_port"])]
    assert not {"privileged", "cap_add", "volumes", "network_mode"} & set(service)
