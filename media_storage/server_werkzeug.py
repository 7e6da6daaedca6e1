"""Werkzeug's threaded server, set up for uploads. For development: each connection has a thread, and is closed after its answer."""

import contextlib
import io
import logging
import math
import socket
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from media_storage import head
from media_storage.errors import UploadTimeout
from media_storage.head import HEAD_BYTES, HEAD_SECONDS
from media_storage.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# A client that is still sending when it is refused sees the refusal only if somebody goes on reading, which Werkzeug does.
DISCARD_SECONDS = 5.0
LINE_BYTES = 65_537  # http.server asks for as much, and calls it too long
READ_BYTES = 1_048_576

log = logging.getLogger(__name__)


def serve(app: Flask, settings: Settings, listener: socket.socket) -> None:
    """Serves until KeyboardInterrupt, which ends uploads that are under way."""
    handler = type("ConfiguredHandler", (_Handler,), {"upload_seconds": settings.upload_timeout_seconds})
    with listener:
        server = make_server(settings.host, settings.port, app, threaded=True, request_handler=handler, fd=listener.fileno())
    server.serve_forever()


class _Incoming(io.RawIOBase):
    """What arrives on a connection, as long as there is time for it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._end = math.inf
        self._late: Exception = TimeoutError()

    def allow(self, seconds: float, late: Exception) -> None:
        """From now on, whatever is read must arrive within `seconds`; after that, reads raise `late`."""
        self._end = time.monotonic() + seconds
        self._late = late

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        remaining = self._end - time.monotonic()
        if remaining <= 0:
            raise self._late
        self._sock.settimeout(remaining)
        try:
            return self._sock.recv_into(buffer)
        except TimeoutError:
            raise self._late from None
        finally:
            self._sock.settimeout(None)


class _Reader(io.BufferedReader):
    """Werkzeug asks for chunk sizes of any length, and throws away what is left of a body 10 MB at a time."""

    def readline(self, size: int | None = -1) -> bytes:
        return super().readline(_at_most(LINE_BYTES, size))

    def read(self, size: int | None = -1) -> bytes:
        return super().read(_at_most(READ_BYTES, size))


def _at_most(limit: int, size: int | None) -> int:
    return limit if size is None or size < 0 else min(size, limit)


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written apart: each answer would cost a delayed ACK, 200 ms on Windows
    upload_seconds: float

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._incoming = _Incoming(self.connection)
        self._incoming.allow(HEAD_SECONDS, TimeoutError())
        self.rfile = _Reader(self._incoming)

    def parse_request(self) -> bool:
        """As http.server's, which passes over much that is malformed."""
        raw, line = self.raw_requestline, b""
        while line not in (b"\r\n", b"\n"):
            line = self.rfile.readline()
            raw += line
            if not line:  # the client has gone
                return False
            if len(raw) > HEAD_BYTES:
                self.send_error(431)
                return False
        reader, self.rfile = self.rfile, io.BytesIO(raw[len(self.raw_requestline) :])
        try:
            if not super().parse_request():
                return False
            head.check(raw)
        except ValueError:
            self.send_error(400)
            return False
        finally:
            self.rfile = reader
        self._cookies = head.joined_cookies(raw)
        return True

    def handle_expect_100(self) -> bool:
        return True  # Werkzeug answers it, too

    def make_environ(self) -> "WSGIEnvironment":
        self._incoming.allow(self.upload_seconds, UploadTimeout("the whole body took too long"))
        environ = super().make_environ()
        environ["RAW_URI"] = self.requestline.split()[1]  # http.server makes one slash of // at its start
        environ["HTTP_COOKIE"] = self._cookies
        return environ

    def send_response(self, code: int, message: str | None = None) -> None:
        self._incoming.allow(DISCARD_SECONDS, TimeoutError())
        super().send_response(code, message)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - http.server's
        """A plain 400 or 431 to what http.server cannot parse; its own page quotes the request, and may be a 505."""
        status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if code == 431 else HTTPStatus.BAD_REQUEST
        log.warning("a request that cannot be parsed: %d", code)
        self.close_connection = True
        self.request_version = self.protocol_version  # or there is no status line, where the request has no version
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Connection", "close")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def version_string(self) -> str:
        return "Werkzeug"  # and not its version

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Silent: the application writes a line of its own."""
