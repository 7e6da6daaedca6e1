"""Moving from one store to another, with the commands of docs/operating.md."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

import servers
from deployed import ROOT
from rawclient import picture

if sys.platform == "win32":
    pytest.skip("the documented commands are for a Unix shell", allow_module_level=True)


def commands() -> str:
    """The page's script, which has both stores' addresses and keys in it."""
    (script,) = re.findall(r"```sh\n(rclone .*?)```", (ROOT / "docs" / "operating.md").read_text(), re.DOTALL)
    return str(script)


@pytest.mark.parametrize(("old", "new"), [("minio", "seaweedfs"), ("seaweedfs", "minio")])
def test_a_move_keeps_what_browsers_are_told(backend: servers.ChatBackend, tmp_path: Path, old: str, new: str) -> None:
    """Bytes, content type and caching, and the public may read them there; run again, it brings what is new."""
    if shutil.which("rclone") is None:
        pytest.skip("rclone is not here: on Debian `apt-get install rclone`")
    with servers.running_store(old, tmp_path / "old") as source, servers.running_store(new, tmp_path / "new") as target:
        for store in (source, target):
            made = servers.media_storage("init-bucket", environ=store.environ, folder=tmp_path)
            assert made.returncode == 0, made.stderr
        environ = source.environ | {"BACKEND_VERIFY_URL": backend.url, "WORKERS": "1"}
        with servers.running_service(environ, tmp_path / "service") as service:
            sizes = {upload(service, size): size for size in (100, 5_000_000)}
            move(source, target, tmp_path)
            sizes[upload(service, 1000)] = 1000
            move(source, target, tmp_path)
        assert target.object_keys() == set(sizes)
        for key, size in sizes.items():
            before, after = (requests.get(f"{store.endpoint}/{servers.BUCKET}/{key}", timeout=30) for store in (source, target))
            assert before.content == after.content == picture(size)
            for name in ("Content-Type", "Cache-Control"):
                assert before.headers[name] == after.headers[name]
            assert after.headers["Content-Type"] == "image/png"
            assert after.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def upload(service: servers.RunningService, size: int) -> str:
    files = {"file": ("a.png", picture(size))}
    answer = requests.post(f"{service.url}/media/upload", files=files, headers={"Cookie": "session=alice"}, timeout=30)
    return str(answer.json()["key"])


def move(source: servers.RunningStore, target: servers.RunningStore, folder: Path) -> None:
    script = commands()
    values = {"http://old.example:9000": source.endpoint, "http://new.example:9000": target.endpoint}
    values |= dict.fromkeys(("OLD-KEY", "NEW-KEY"), servers.ACCESS_KEY) | dict.fromkeys(("OLD-SECRET", "NEW-SECRET"), servers.SECRET_KEY)
    for name, value in values.items():
        assert name in script
        script = script.replace(name, value)
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(["bash", "-euc", script], env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
