"""`media-storage dev` as a new user meets it: one command, a page, an upload, and nothing left behind."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest
import requests

import servers
from media_storage.dev import store as embedded
from pictures import make

PORTS = (9000, 8102, 9101, 9102)
ROOT = Path(__file__).parent.parent.parent

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process of a console there"),
    pytest.mark.xdist_group("dev"),  # whose ports are everyone's
]


@pytest.fixture(autouse=True)
def ports_are_free() -> Iterator[None]:
    """`dev` uses the usual ports, so they must be free; and it must leave them free."""
    taken = [port for port in (*PORTS, 8002) if embedded.is_taken(port)]
    if taken:
        pytest.skip(f"ports {taken} are taken by something on this machine")
    yield
    servers.wait_for(lambda: not [port for port in PORTS if embedded.is_taken(port)], 10)


class Dev:
    """A running `media-storage dev` and what it printed."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MINIO_", "BACKEND_"))}
        self._log = folder / "dev.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "media_storage", "dev"],
                cwd=folder,
                env={**own, "WORKERS": "1", "LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1", **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def text(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def wait_until_ready(self) -> None:
        servers.wait_for(lambda: "Ctrl-C stops" in self.text or self.process.poll() is not None)
        assert self.process.poll() is None, self.text

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, words: str) -> psutil.Process:
        """The one process of `dev` itself, not of a piece, whose command line has `words` in it."""
        (found,) = [child for child in psutil.Process(self.process.pid).children() if words in " ".join(child.cmdline())]
        return found


@contextlib.contextmanager
def dev(folder: Path, **environ: str) -> Iterator[Dev]:
    running = Dev(folder, environ)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGINT)
        running.process.wait(30)


def path_with(tmp_path: Path, store: str) -> str:
    """A PATH on which `dev` finds this store and no other."""
    binary = servers.binary(store)
    link = tmp_path / "bin" / ("minio" if store == "minio" else "weed")
    link.parent.mkdir()
    link.symlink_to(binary)
    return os.pathsep.join([str(link.parent), "/usr/bin", "/bin"])


def round_trip() -> str:
    """Signs in at the stand-in, uploads through it, and reads the picture by its URL. Returns the URL."""
    with requests.Session() as session:
        session.trust_env = False
        page = "http://127.0.0.1:8102"
        assert session.post(f"{page}/auth/sign-in", json={"name": "alice", "password": "picture"}, timeout=10).status_code == 200
        answer = session.post(f"{page}/media/upload", files={"file": ("a.jpg", make.jpeg(40, 30))}, timeout=30)
        assert answer.status_code == 201, answer.text
        url = str(answer.json()["url"])
        assert url.startswith("http://localhost:9101/media/uploads/1/")
        shown = session.get(url, timeout=10)
        assert (shown.content, shown.headers["Content-Type"]) == (make.jpeg(40, 30), "image/jpeg")
        return url


@pytest.mark.parametrize("store", ["seaweedfs", "minio"])
def test_one_command_then_a_picture(tmp_path: Path, store: str) -> None:
    """With nothing installed but a store: it starts everything, says where to go, keeps the pictures, and stops on Ctrl-C."""
    environ = {"PATH": path_with(tmp_path, store)}
    with dev(tmp_path, **environ) as running:
        running.wait_until_ready()
        assert {"seaweedfs": "SeaweedFS", "minio": "MinIO"}[store] in running.text
        assert "Open http://localhost:8102" in running.text
        url = round_trip()
        children = running.children()
        assert len(children) >= 4  # store, backend, gunicorn's arbiter and worker
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 0
        assert not psutil.wait_procs(children, timeout=10)[1]
        assert "Traceback" not in running.text
    with dev(tmp_path, **environ) as running:
        running.wait_until_ready()
        # SeaweedFS takes requests before its own volumes have told it where they are, and answers 500 meanwhile.
        servers.wait_for(lambda: requests.get(url, timeout=10).content == make.jpeg(40, 30), 10)


@pytest.mark.parametrize("words", ["media_storage.dev.backend", "media_storage.dev.service", "mini"])
def test_when_a_piece_dies_everything_stops(tmp_path: Path, words: str) -> None:
    """Status 1, the piece is named, and no process is left."""
    with dev(tmp_path, PATH=path_with(tmp_path, "seaweedfs")) as running:
        running.wait_until_ready()
        children = running.children()
        running.child(words).kill()
        assert running.process.wait(30) == 1
        assert re.search(r"(the stand-in backend|the service|SeaweedFS) ended with status -9", running.text)
        assert not psutil.wait_procs(children, timeout=10)[1]


def test_a_terminal_that_closes_stops_everything(tmp_path: Path) -> None:
    """SIGHUP and SIGTERM are like Ctrl-C."""
    for number in (signal.SIGHUP, signal.SIGTERM):
        folder = tmp_path / number.name
        folder.mkdir()
        with dev(folder, PATH=path_with(folder, "seaweedfs")) as running:
            running.wait_until_ready()
            children = running.children()
            running.process.send_signal(number)
            assert running.process.wait(30) == 0
            assert not psutil.wait_procs(children, timeout=10)[1]


class Something(BaseHTTPRequestHandler):
    """A server that is none of ours: says 404 to everything."""

    def log_message(self, *args: object) -> None:
        pass


class ChatBackendOn8002(Something):
    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextlib.contextmanager
def listening(port: int, handler: type[BaseHTTPRequestHandler]) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("port", PORTS)
def test_a_port_that_something_else_has_is_named(tmp_path: Path, port: int) -> None:
    """Status 2 at once, the port in the message, and nothing started."""
    with listening(port, Something), dev(tmp_path) as running:
        assert running.process.wait(20) == 2
        assert str(port) in running.text
        assert "Traceback" not in running.text
        assert not [other for other in PORTS if other != port and embedded.is_taken(other)]


def test_what_already_answers_is_used_and_named(tmp_path: Path) -> None:
    """A MinIO on port 9000 with its default keys and the real backend on 8002, as the usual workflow has them."""
    (tmp_path / "data").mkdir()
    program = embedded.minio(servers.binary("minio"), tmp_path / "data", 9000, "minioadmin", "minioadmin")
    minio = subprocess.Popen(program.command, env={**os.environ, **program.environ}, stdout=subprocess.DEVNULL)
    try:
        servers.wait_for(lambda: embedded.is_taken(9000))
        with listening(8002, ChatBackendOn8002), dev(tmp_path) as running:
            running.wait_until_ready()
            assert "http://127.0.0.1:9000 (was running)" in running.text
            assert "http://127.0.0.1:8002/auth/me (was running)" in running.text
            assert not embedded.is_taken(8102)
            answer = requests.post(
                "http://127.0.0.1:9101/media/upload",
                files={"file": ("a", make.png())},
                headers={"Cookie": "a=b"},
                timeout=10,
            )
            assert answer.json()["code"] == "unauthenticated"
            assert requests.get("http://127.0.0.1:9101/readyz", timeout=10).status_code == 200
        assert minio.poll() is None  # what `dev` did not start, it does not stop
    finally:
        minio.terminate()
        minio.wait(20)


def test_what_is_configured_is_used(tmp_path: Path) -> None:
    """A configured store and backend: neither is started, and the service uses them."""
    backend = servers.ChatBackend()
    try:
        with (
            servers.running_store("seaweedfs", tmp_path / "store") as store,
            dev(tmp_path, **store.environ, BACKEND_VERIFY_URL=backend.url) as running,
        ):
            running.wait_until_ready()
            assert f"{store.endpoint} (configured)" in running.text
            assert f"{backend.url} (configured)" in running.text
            assert not embedded.is_taken(8102)
            assert not embedded.is_taken(9000)
            answer = requests.post(
                "http://127.0.0.1:9101/media/upload",
                files={"file": ("a", make.png())},
                headers={"Cookie": "session=alice"},
                timeout=10,
            )
            assert answer.status_code == 201
    finally:
        backend.close()


def test_without_any_store_it_says_how_to_get_one(tmp_path: Path) -> None:
    """Status 2 and a sentence. (An interpreter without SeaweedFS beside it is made for this.)"""
    environ = {"PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    code = "import sys, sysconfig; sysconfig.get_path = lambda name: '.'; from media_storage.cli import main; main(['dev'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2, done.stderr
    assert "There is no object store" in done.stderr


def test_wrong_settings_are_listed(tmp_path: Path) -> None:
    """Status 2 with every problem, as `serve` does."""
    with dev(tmp_path, PORT="x", MAX_UPLOAD_MB="0") as running:
        assert running.process.wait(20) == 2
        assert "PORT: " in running.text
        assert "MAX_UPLOAD_MB: " in running.text


def test_the_readme_round_trip_works_as_printed(tmp_path: Path) -> None:
    """The lines of the README, in a shell, while `dev` runs."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = readme.split("## A round trip with curl", 1)[1].split("```sh\n", 1)[1].split("```", 1)[0]
    (tmp_path / "holiday.jpg").write_bytes(make.jpeg(64, 48))
    with dev(tmp_path, PATH=path_with(tmp_path, "seaweedfs")) as running:
        running.wait_until_ready()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "the same picture" in done.stdout
