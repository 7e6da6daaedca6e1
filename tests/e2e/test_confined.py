"""The service as the unit and the container run it: no root, nothing to write to but a little temporary space, few system calls.

Docker is not needed: the image is built by the Dockerfile's own lines, in a fresh environment from the files that it copies.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

import confined
import servers
from deployed import ROOT, UNIT, arguments, unit
from live import Live
from media_storage.dev.pieces import Piece, PieceDied
from rawclient import picture

if sys.platform != "linux":
    pytest.skip("namespaces, systemd and containers are Linux's", allow_module_level=True)

on_one_store = pytest.mark.parametrize("store", ["seaweedfs"], indirect=True, scope="session")  # any will do

MIB = 1_048_576
ROOM = "12m"  # for one picture of 10 MB, not for two


@contextlib.contextmanager
def running(inner: list[str], live: Live, folder: Path, calls: frozenset[str] = frozenset(), **environ: str) -> Iterator[tuple[str, Piece]]:
    """The service, confined, with its temporary files in a folder that is there only for it; its URL."""
    temporary = folder / "temporary"
    temporary.mkdir()
    port = str(servers.free_port())
    url = f"http://127.0.0.1:{port}"
    own = {"PORT": port, "PUBLIC_BASE_URL": url, "TMPDIR": str(temporary), "WORKERS": "1", "METRICS_PORT": "0"}
    whole = {**live.service.elsewhere, **own, **environ}
    piece = Piece("the service", confined.command(inner, temporary, ROOM, calls), whole, folder / "service.log", cwd=Path("/"))
    try:
        piece.wait_until(lambda: servers.answers(f"{url}/healthz"), servers.START_SECONDS)
        yield url, piece
    finally:
        piece.stop()


def takes_pictures(url: str, piece: Piece, live: Live) -> None:
    """Small ones and the largest; it runs as nobody, and what it wrote is nowhere else."""
    for size in (1000, 10 * MIB, 10 * MIB):
        files = {"file": ("a.png", picture(size))}
        answer = requests.post(f"{url}/media/upload", files=files, headers={"Cookie": "session=alice"}, timeout=60)
        assert answer.status_code == 201, answer.text
        assert live.stored(answer.json()["key"]).content == picture(size)
    for process in (psutil.Process(piece.pid), *psutil.Process(piece.pid).children()):
        assert set(process.uids()) == {65532}
    status = Path(f"/proc/{piece.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status


def stops(piece: Piece) -> None:
    """SIGTERM ends it with status 0, long before it would be killed."""
    piece.send_signal(signal.SIGTERM)
    with pytest.raises(PieceDied, match="status 0"):
        piece.wait_until(lambda: False, 10)


def allowed() -> frozenset[str]:
    """What the unit's SystemCallFilter= lines leave."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not here: on Debian `apt-get install systemd`")
    found: frozenset[str] = frozenset()
    for line in UNIT.read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "SystemCallFilter":
            named = frozenset().union(*(confined.calls(word) for word in value.removeprefix("~").split()))
            found = found - named if value.startswith("~") else found | named
    return found


@on_one_store
def test_the_unit_leaves_the_service_what_it_needs(live: Live, tmp_path: Path) -> None:
    """Under its system calls and without writable code; and systemd is told when the service listens, as Type=notify promises."""
    assert unit()["Type"] == "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.settimeout(servers.START_SECONDS)
        address = f"\0media-storage-{os.getpid()}"
        told.bind(address)
        inner = [sys.executable, "-m", "media_storage", "serve"]
        with running(inner, live, tmp_path, allowed(), NOTIFY_SOCKET=f"@{address[1:]}") as (url, piece):
            assert b"READY=1" in told.recv(4096)
            status = Path(f"/proc/{piece.pid}/status").read_text()
            assert "Seccomp:\t2" in status
            takes_pictures(url, piece, live)
            stops(piece)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment, in which the Dockerfile's own lines were run on exactly the files that it copies."""
    folder = tmp_path_factory.mktemp("image")
    source, environment = folder / "src", folder / "environment"
    source.mkdir()
    for line in arguments("COPY"):
        *names, target = line.split()
        for name in names:
            ignored = shutil.ignore_patterns("__pycache__")
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / target, ignore=ignored)
            else:
                shutil.copy(ROOT / name, source / target)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    (install,) = [line for line in arguments("RUN") if line.startswith("pip ")]
    cached = install.replace("--no-cache-dir ", "")  # the same packages; only this machine need not fetch them again
    subprocess.run([str(environment / "bin" / "python"), "-m", *shlex.split(cached), "-q"], cwd=source, check=True, timeout=110)
    return environment / "bin"


@on_one_store
def test_the_image_serves(image: Path, live: Live, tmp_path: Path) -> None:
    """Entry point, health check and stop, as a user without rights on a read-only root."""
    entry = shutil.which("media-storage", path=str(image))
    assert entry is not None
    (health,) = arguments("HEALTHCHECK")
    check = json.loads(health[health.index("[") :])
    with running([entry, "serve"], live, tmp_path) as (url, piece):
        takes_pictures(url, piece, live)
        port = url.rpartition(":")[2]
        assert _healthy(image, check, port)
        assert not _healthy(image, check, str(servers.free_port()))
        stops(piece)


def _healthy(image: Path, check: list[str], port: str) -> bool:
    assert check[0] == "python"
    command = [str(image / "python"), *check[1:]]
    return subprocess.run(command, env={"PORT": port}, capture_output=True, timeout=30, check=False).returncode == 0


def test_the_images_libmagic_is_the_wheels_here(image: Path) -> None:
    """On x86-64 the Dockerfile's second RUN finds it, and installs nothing."""
    condition = next(line for line in arguments("RUN") if "pylibmagic" in line).partition(" || ")[0]
    assert shlex.split(condition)[:2] == ["python", "-c"]
    done = subprocess.run([str(image / "python"), *shlex.split(condition)[1:]], capture_output=True, check=False)
    assert done.returncode == (0 if os.uname().machine == "x86_64" else 1)
