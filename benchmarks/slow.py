"""Clients on bad connections: each sends the beginning of an upload at once and the rest a little every second."""

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from types import TracebackType

from benchmarks.load import Request

FIRST_BYTES = 32_768  # what a connection's buffers take at once
BYTES_PER_SECOND = 4096
_CONNECT_SECONDS = 10
_TURNS = 10  # a second's clients are served in so many groups


@dataclass
class _Client:
    sock: socket.socket
    sent: int


class SlowUploads:
    """`count` uploads under way to 127.0.0.1:`port` while the context lasts; none of them comes to its end."""

    def __init__(self, port: int, request: Request, count: int) -> None:
        self._port, self._count = port, count
        self._bytes = _raw(request)
        self._clients: list[_Client] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._trickle, daemon=True)
        self.lost = 0  # connections that the server closed or answered

    def __enter__(self) -> "SlowUploads":
        for _ in range(self._count):
            sock = socket.create_connection(("127.0.0.1", self._port), timeout=_CONNECT_SECONDS)
            sock.setblocking(False)
            self._clients.append(_Client(sock, 0))
            self._send(self._clients[-1], FIRST_BYTES)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self._thread.ident:
            self._thread.join()
        for client in self._clients:
            client.sock.close()

    def _trickle(self) -> None:
        turn = 0
        while not self._over.wait(1 / _TURNS):
            for client in self._clients[turn::_TURNS]:
                if client.sock.fileno() >= 0:
                    self._send(client, BYTES_PER_SECOND)
            turn = (turn + 1) % _TURNS

    def _send(self, client: _Client, size: int) -> None:
        try:
            with contextlib.suppress(BlockingIOError):  # the server does not read: nothing to add
                client.sent += client.sock.send(self._bytes[client.sent : client.sent + size])
            with contextlib.suppress(BlockingIOError):
                client.sock.recv(1)  # an answer or an end, and neither may come yet
                raise ConnectionResetError
        except OSError:
            self.lost += 1
            client.sock.close()


def timed(port: int, request: Request, seconds: float) -> float | None:
    """How long one whole upload takes, in seconds; None when it fails or takes longer than `seconds`."""
    start = time.monotonic()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=seconds) as sock:
            sock.sendall(_raw(request))
            status = sock.makefile("rb").readline()
    except OSError:
        return None
    return time.monotonic() - start if status.split()[1:2] == [str(request.status).encode()] else None


def _raw(request: Request) -> bytes:
    body = request.body.read_bytes() if request.body else b""
    headers = {"Host": "127.0.0.1", "Content-Length": str(len(body)), **request.headers}
    head = f"{request.method} {request.path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return head.encode() + b"\r\n" + body
