"""Clients on bare sockets, which can be slow, cut off or impolite, and a clock for what others notice of them."""

import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, Self

from pictures import make

UUID = "6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f"


def picture(size: int) -> bytes:
    """A PNG of exactly `size` bytes."""
    start = make.png()
    return start + b"\xa5" * (size - len(start))


PART = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
END = b"\r\n--B--\r\n"


def body_of(content: bytes) -> bytes:
    return PART + content + END


def head_for(length: int | None, cookie: str = "session=alice", more: str = "") -> bytes:
    """The head of an upload; no length means chunks."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    cookies = f"Cookie: {cookie}\r\n" if cookie else ""
    kind = "Content-Type: multipart/form-data; boundary=B"
    return f"POST /media/upload HTTP/1.1\r\nHost: x\r\n{cookies}{kind}\r\n{more}{framing}\r\n\r\n".encode()


def connect(url: str, seconds: float = 60) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=seconds)


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def code(self) -> str:
        """Of a refusal."""
        return str(self.document.get("code", ""))

    @property
    def key(self) -> str:
        """Of a 201."""
        assert self.status == 201, self.body
        return str(self.document["key"])


def read_answer(sock: socket.socket) -> Answer | None:
    """The next answer on the connection; None when it ends without one."""
    response = http.client.HTTPResponse(sock)
    try:
        response.begin()
        return Answer(response.status, response.headers, response.read())
    except (ConnectionError, http.client.BadStatusLine):
        return None
    finally:
        response.close()


class Sampler:
    """Asks for `path` on a new connection every `pause` seconds while the context lasts, and keeps the times."""

    def __init__(self, url: str, path: str = f"/media/uploads/7/{UUID}.jpg", status: int = 302, pause: float = 0.02) -> None:
        self._url, self._status, self._pause = url, status, pause
        self._request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seconds: list[float] = []
        self.failures: list[object] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            began = time.perf_counter()
            try:
                with connect(self._url, 20) as sock:
                    sock.sendall(self._request)
                    answer = read_answer(sock)
            except OSError as exc:
                self.failures.append(exc)
                continue
            self.seconds.append(time.perf_counter() - began)
            if answer is None or answer.status != self._status:
                self.failures.append(answer)

    @property
    def p99(self) -> float:
        """Seconds; fails when an answer was not the expected one, or when there are too few."""
        assert not self.failures, self.failures[:3]
        assert len(self.seconds) >= 20
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]
