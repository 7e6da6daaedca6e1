"""Calls to one HTTP server, over kept connections, with a limit on the time of every step.

A socket's own timeout bounds each wait for a byte, so a peer that sends one byte at a time never runs into it. Here
an answer is read under one deadline, from the end of the request to its last byte. And of an answer a caller needs status
and body only: the standard library's reading of its headers costs more than the rest of a call, urllib3 twice that.
"""

import contextlib
import io
import math
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urlsplit

from urllib3.util import wait_for_read

KEPT_CONNECTIONS = 64  # more callers at once open connections of their own
BLOCK_BYTES = 65_536
BODY_BYTES = 65_536  # of an answer
LINE_BYTES = 65_536
MAX_HEADERS = 100

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")


class CallFailed(Exception):
    """There is no answer; the text says why."""


class Unreachable(CallFailed):
    """Nobody took the request."""


class TooLate(CallFailed):
    """The answer was not whole in time, or a block of the request not taken."""


class Broken(CallFailed):
    """The connection ended before the answer."""


class Malformed(CallFailed):
    """What came is not HTTP, or cannot be told where it ends."""


@dataclass(frozen=True)
class Answer:
    """Status, content coding and body; of a body, at most `BODY_BYTES` and one more."""

    status: int
    coding: str
    body: bytes


class Peer:
    """The server of `url`. Safe to share between threads, not between processes. Follows no redirect, keeps no cookie, heeds no proxy."""

    def __init__(self, url: str) -> None:
        self._kept: list[socket.socket] = []
        parts = urlsplit(url)
        self._host = {"Host": parts.netloc}
        self._address = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None

    def __del__(self) -> None:
        for sock in self._kept:
            sock.close()

    def call(
        self, method: str, target: str, headers: Mapping[str, str], seconds: float, *, body: BinaryIO | None = None, until: float = math.inf
    ) -> Answer:
        """One request, with all of `body`, whose length `headers` tell. A connection that ends before an answer is replaced once.

        `seconds` bounds connecting, each block sent, and the whole answer; `until` (monotonic time) all of it. Raises CallFailed.
        """
        headers = {**self._host, **headers}
        text = "".join((f"{method} {target} HTTP/1.1\r\n", *(f"{name}: {value}\r\n" for name, value in headers.items()), "\r\n"))
        if not text.count("\r") == text.count("\n") == len(headers) + 2:
            raise Malformed("a header cannot hold a line break")
        try:
            head = text.encode("latin-1")
        except UnicodeEncodeError as exc:
            raise Malformed("a header cannot hold characters beyond latin-1") from exc
        for last_try in (False, True):
            sock = self._connection(min(seconds, until - time.monotonic()), new=last_try)
            try:
                return self._exchange(sock, head, body, seconds, until)
            except Broken:
                if last_try:
                    raise
        raise AssertionError("unreachable")

    def _connection(self, seconds: float, *, new: bool) -> socket.socket:
        """A kept connection, or a new one. `seconds` are for connecting. Raises Unreachable or TooLate."""
        while not new and self._kept:
            with contextlib.suppress(IndexError):  # another thread was quicker
                sock = self._kept.pop()
                if not _speaks(sock):
                    return sock
                sock.close()
        if seconds <= 0:
            raise TooLate("there was no time left to connect")
        try:
            sock = socket.create_connection(self._address, seconds)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._tls.wrap_socket(sock, server_hostname=self._address[0]) if self._tls else sock
        except (OSError, UnicodeError) as exc:
            raise Unreachable(f"no connection: {exc}") from exc

    def _exchange(self, sock: socket.socket, head: bytes, body: BinaryIO | None, seconds: float, until: float) -> Answer:
        keep = False
        try:
            # A server that refuses while it is being sent to hangs up, and what it said is there all the same.
            with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
                _send(sock, head, body, seconds, until)
            answer, keep = _receive(_Incoming(sock, min(until, time.monotonic() + seconds)))
        except TimeoutError as exc:
            raise TooLate("the answer was not whole in time") from exc
        except OSError as exc:
            raise Broken(f"the connection broke: {exc}") from exc
        finally:
            if keep and len(self._kept) < KEPT_CONNECTIONS:
                self._kept.append(sock)
            else:
                sock.close()
        return answer


def _speaks(sock: socket.socket) -> bool:
    """Whether there is something to read before anything was asked: the connection's end, or what belongs to no answer."""
    return wait_for_read(sock, timeout=0) or (isinstance(sock, ssl.SSLSocket) and sock.pending() > 0)


def _send(sock: socket.socket, head: bytes, body: BinaryIO | None, seconds: float, until: float) -> None:
    """Raises OSError; TimeoutError among them."""
    seconds = min(seconds, until - time.monotonic())
    if seconds <= 0:
        raise TimeoutError
    if sock.gettimeout() != seconds:
        sock.settimeout(seconds)
    if body is None:
        sock.sendall(head)
        return
    body.seek(0)
    block = body.read(BLOCK_BYTES)
    sock.sendall(head + block)
    if len(block) == BLOCK_BYTES:
        sock.sendfile(body, BLOCK_BYTES)  # the kernel copies it, where it can


class _Incoming(io.RawIOBase):
    """A socket's bytes, giving each read only the time that is left; raises TimeoutError after that."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self.over = False  # nothing more is to be received

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is 3.12's
        if self.over:
            return 0
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the answer was not complete in time")
        if remaining < (self._sock.gettimeout() or math.inf) - 0.01:  # setting it is a system call
            self._sock.settimeout(remaining)
        return self._sock.recv_into(buffer)


def _receive(incoming: _Incoming) -> tuple[Answer, bool]:
    """The answer, and whether the connection may be used again. Raises CallFailed or OSError."""
    file: io.BufferedReader = io.BufferedReader(incoming)
    status = 100
    while status < 200:  # interim ones
        match = _STATUS_LINE.fullmatch(_line(file))
        if match is None:
            raise Malformed("the answer does not begin as one of HTTP")
        version, status = match[1], int(match[2])
        headers = _headers(file)
    close = version == b"0" or headers.get(b"connection", b"").lower() == b"close"
    try:
        body, whole = _body(file, status, headers)
    except (OSError, CallFailed):
        if status == 200:
            raise
        body, whole = b"", False  # the status says it all
    incoming.over = True
    keep = whole and not close and not file.peek()  # what came with the answer belongs to none
    return Answer(status, headers.get(b"content-encoding", b"").decode("latin-1").lower(), body), keep


def _line(file: io.BufferedReader) -> bytes:
    line = file.readline(LINE_BYTES)
    if not line.endswith(b"\n"):
        # A line that was cut off is a broken connection; one that is no line at all is another protocol.
        raise Malformed("a line is too long") if len(line) == LINE_BYTES else Broken("the answer was cut off")
    return line


def _headers(file: io.BufferedReader) -> dict[bytes, bytes]:
    """Names in lower case."""
    headers: dict[bytes, bytes] = {}
    for _ in range(MAX_HEADERS + 1):
        line = _line(file)
        if line in (b"\r\n", b"\n"):
            return headers
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        if not colon or (name == b"content-length" and headers.get(name, value) != value):
            raise Malformed("a header makes no sense")
        headers[name] = value
    raise Malformed("there are too many headers")


def _body(file: io.BufferedReader, status: int, headers: dict[bytes, bytes]) -> tuple[bytes, bool]:
    """The body, as far as `Answer` holds it, and whether that is all."""
    if status in (204, 304):
        return b"", True
    if b"transfer-encoding" in headers:
        if headers[b"transfer-encoding"].lower() != b"chunked":
            raise Malformed("the answer's transfer coding is unknown")
        return _chunks(file)
    length = headers.get(b"content-length")
    if length is None:
        return file.read(BODY_BYTES + 1), False  # until the connection ends
    if not _LENGTH.fullmatch(length):
        raise Malformed("the answer's length is no number")
    wanted = min(int(length), BODY_BYTES + 1)
    return _exactly(file, wanted), wanted == int(length)


def _chunks(file: io.BufferedReader) -> tuple[bytes, bool]:
    body = b""
    while len(body) <= BODY_BYTES:
        match = _CHUNK_LINE.fullmatch(_line(file))
        if match is None:
            raise Malformed("a chunk has no length")
        size = int(match[1], 16)
        if size == 0:
            _headers(file)  # trailers
            return body, True
        body += _exactly(file, min(size, BODY_BYTES + 1 - len(body)))
        if len(body) <= BODY_BYTES and _line(file) not in (b"\r\n", b"\n"):
            raise Malformed("a chunk is longer than it says")
    return body, False


def _exactly(file: io.BufferedReader, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise Broken("the answer was cut off")
    return data
