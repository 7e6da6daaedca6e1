"""A client's connection as the worker's loop sees it: heads come in, answers go out."""

import io
import socket
import time
from typing import Any

from gunicorn.http.errors import InvalidHeader, LimitRequestHeaders
from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader

from media_storage.head import HEAD_BYTES, HEAD_SECONDS

KEEPALIVE_SECONDS = 5.0  # for the first byte of a request, on a new connection or a kept one


class Connection:
    """A client's connection: what was read of its next request, and until when it may be silent."""

    def __init__(self, sock: socket.socket, client: Any, server: Any) -> None:
        self.sock = sock
        self.client = client
        self.server = server
        self.unreader = SocketUnreader(sock)
        self.requests = 0
        self.queued = False  # the loop has yet to answer a request that was read
        self.deadline = time.monotonic() + KEEPALIVE_SECONDS
        self._tail = b""

    def feed(self, data: bytes) -> bool:
        """Adds what was read; whether that makes a whole head, or more than one may have."""
        unparsed = self.unreader.buf
        if not unparsed.seek(0, io.SEEK_END):
            self.deadline = time.monotonic() + HEAD_SECONDS
        unparsed.write(data)  # gunicorn's unread() puts it behind what is there, or in newer versions before it
        seen = self._tail + data
        self._tail = seen[-3:]
        return b"\r\n\r\n" in seen or unparsed.tell() > HEAD_BYTES

    def next_request(self) -> bool:
        """Goes on to the next request; whether it was read already, together with the last one."""
        self.deadline = time.monotonic() + KEEPALIVE_SECONDS
        self._tail = b""
        unused = self.unreader.buf.getvalue()
        if not unused:
            return False
        self.unreader.buf = io.BytesIO()
        return self.feed(unused)

    def parse(self, cfg: Any) -> Any:
        """The request whose head was fed. Raises what gunicorn's parser raises, and ParseException for a coding that it passes over."""
        self.unreader.sock = self
        self.requests += 1
        req = Request(cfg, self.unreader, self.client, self.requests)
        # A proxy may read any other coding, or a list of them, otherwise than gunicorn.
        if any(name == "TRANSFER-ENCODING" and value.lower() != "chunked" for name, value in req.headers):
            raise InvalidHeader("TRANSFER-ENCODING", req=req)
        return req

    def recv(self, _size: int) -> bytes:
        """Where the parser gets more of a head than was fed: there is no more."""
        raise LimitRequestHeaders("the head is too long")


class Output:
    """Collects an answer, which is small, to send it at once; an interim answer (100 Continue) goes out directly."""

    def __init__(self, sock: socket.socket, flags: int) -> None:
        self._sock = sock
        self._flags = flags
        self._parts: list[bytes] = []
        self.sendall = self._parts.append

    def send(self, data: bytes) -> int:
        return self._sock.send(data, self._flags)

    def flush(self) -> None:
        """Raises OSError when the client does not take the whole answer."""
        data = b"".join(self._parts)
        sent = self._sock.send(data, self._flags)
        if sent < len(data):
            if self._flags:
                raise BlockingIOError("the client does not take its answers")
            self._sock.sendall(data[sent:])
