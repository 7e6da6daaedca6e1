"""The chat backends that people copy, each as its real server, with records of what passes between them and the service."""

import contextlib
import http.client
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

import install_express
import servers
from media_storage.dev import store as embedded
from media_storage.dev.pieces import Piece
from rawclient import Answer

ROOT = Path(__file__).resolve().parent.parent
FASTAPI = ROOT / "examples" / "fastapi"
EXPRESS = ROOT / "examples" / "express"
MULTIPART = {"Content-Type": "multipart/form-data; boundary=B"}
PAGES = "https://chat.example"  # the origin of the pages that belong to a backend


class Wire(servers.Pipe):
    """What a backend takes for media-storage: keeps a record of what is sent, and can be held so that nobody reads."""

    def __init__(self, port: int, target: tuple[str, int]) -> None:
        self.sent = bytearray()
        self.free = threading.Event()
        self.free.set()
        super().__init__(port, target)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # what is held is held by the backend, not here

    @property
    def head(self) -> bytes:
        """Of the first request."""
        return bytes(self.sent).partition(b"\r\n\r\n")[0]

    def lines(self, name: str) -> list[bytes]:
        """The values of a header of the first request, as they were sent."""
        pairs = [line.partition(b": ") for line in self.head.split(b"\r\n")[1:]]
        return [value for given, _, value in pairs if given.lower() == name.lower().encode()]

    @property
    def connections(self) -> int:
        """How many there have been."""
        return (len(self._open) - 1) // 2

    def cut(self) -> None:
        """Hangs up on everyone, and takes no more."""
        self.__exit__()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            onward = sink.getpeername() == self._target
            while not onward or self.free.wait(60):
                piece = source.recv(65_536)
                if not piece:
                    sink.shutdown(socket.SHUT_WR)
                    return
                if onward:
                    self.sent += piece
                sink.sendall(piece)
        except OSError:  # one side has hung up without a word: so does the other
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()


class Relay(servers.Answering):
    """Asks a backend's `/auth/me` for the service, and remembers the cookies; one service can stand behind several backends."""

    def __init__(self) -> None:
        self.target = ""
        self.cookies: list[bytes] = []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                cookie = self.headers.get("Cookie", "").encode("latin-1")
                relay.cookies.append(cookie)
                with contextlib.closing(http.client.HTTPConnection(urlsplit(relay.target).netloc, timeout=10)) as connection:
                    connection.request("GET", "/auth/me", headers={"Cookie": cookie})
                    answer = connection.getresponse()
                    body = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.listen(Handler)


@dataclass
class ChatBackend:
    """An example as it runs, with alice signed in."""

    url: str
    origin: str  # of its own pages
    wire_port: int
    log: Path
    cookie: str = ""

    @property
    def host(self) -> bytes:
        return urlsplit(self.url).netloc.encode()

    def sign_in(self, password: str = "picture") -> requests.Response:
        return requests.post(f"{self.url}/auth/sign-in", json={"name": "alice", "password": password}, timeout=20)


def flask(port: int, storage_url: str) -> tuple[list[str], dict[str, str], str]:
    options = ["--port", str(port), "--storage", storage_url, "--public", storage_url]
    return [sys.executable, "-m", "media_storage.dev.backend", *options], {}, f"http://127.0.0.1:{port}"


def fastapi(port: int, storage_url: str) -> tuple[list[str], dict[str, str], str]:
    for name in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(name, reason=f"{name} is not here: the project's [test] extra brings it")
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(FASTAPI), "app:app", "--port", str(port), "--log-level", "warning"]
    return command, {"MEDIA_STORAGE_URL": storage_url, "CHAT_ORIGINS": PAGES}, PAGES


def express(port: int, storage_url: str) -> tuple[list[str], dict[str, str], str]:
    node = shutil.which("node")
    if node is None or not install_express.modules().is_dir():
        pytest.skip("Node or Express is not here: python tests/install_express.py installs the latter with npm")
    environ = {"PORT": str(port), "NODE_PATH": str(install_express.modules()), "MEDIA_STORAGE_URL": storage_url, "CHAT_ORIGINS": PAGES}
    return [str(node), str(EXPRESS / "server.js")], environ, PAGES


COMMANDS: dict[str, Callable[[int, str], tuple[list[str], dict[str, str], str]]] = {"flask": flask, "fastapi": fastapi, "express": express}


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[ChatBackend]:
    """The example `name`, with its log in `folder`; media-storage is where a `Wire` on `wire_port` leads."""
    port, wire_port = servers.free_port(), servers.free_port()
    command, environ, origin = COMMANDS[name](port, f"http://127.0.0.1:{wire_port}")
    log = folder / f"{name}.log"
    piece = Piece(name, command, environ, log)
    try:
        piece.wait_until(lambda: embedded.is_taken(port), servers.START_SECONDS)
        backend = ChatBackend(f"http://127.0.0.1:{port}", origin, wire_port, log)
        backend.cookie = "; ".join(f"{cookie.name}={cookie.value}" for cookie in backend.sign_in().cookies)
        yield backend
    finally:
        piece.stop()


def send(url: str, body: Any, **headers: str) -> Answer:
    """Posts a body, an iterator in chunks, as a client that reads nothing before it has sent all, and that nothing may hinder."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        connection.request("POST", "/media/upload", body, MULTIPART | headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())


def is_problem(answer: Answer | None, status: int, code: str) -> None:
    """Fails unless it is a refusal in the form that media-storage uses, which says nothing about the machines behind."""
    assert answer
    assert (answer.status, answer.code) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert set(answer.document) == {"type", "title", "status", "detail", "code", "requestId"}
    assert answer.document["status"] == status
    assert b"127.0.0.1" not in answer.body


def log_line(service: servers.RunningService, request_id: str) -> dict[str, Any]:
    """What the service logged about a request; waits for it."""

    def found() -> list[dict[str, Any]]:
        return [line for line in service.log_lines() if line.get("id") == request_id]

    servers.wait_for(found, 20)
    return found()[-1]


def send_until_stuck(sock: socket.socket, data: bytes) -> int:
    """Sends until nothing has been taken for a second; how much was."""
    sock.settimeout(1)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < len(data):
            sent += sock.send(data[sent : sent + 65_536])
    return sent
