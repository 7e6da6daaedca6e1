"""gunicorn, set up for uploads: the only module that may assume Unix."""

import io
import logging
import socket
import threading
import time
from typing import Any

from flask import Flask
from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import ThreadWorker

from media_storage import storage
from media_storage.app import create_app
from media_storage.settings import Settings

# A thread waits wherever its client is slow, so there must be enough that slow uploads leave some to everyone else;
# gunicorn starts them only when they are needed.
THREADS = 512
CONNECTIONS = 2048  # per worker; what is above THREADS waits idle, on keep-alive
KEEPALIVE_SECONDS = 5
READ_BYTES = 65_536  # gunicorn itself reads 8 KiB at a time
# A client that is still sending when it is refused sees the refusal only if somebody goes on reading.
DISCARD_BYTES = 32 * 1_048_576
DISCARD_SECONDS = 5.0


def serve(settings: Settings) -> None:
    """Runs gunicorn until SIGTERM or SIGINT; exits the process."""
    _Application(settings).run()


class _Application(BaseApplication):
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        options = {
            "bind": f"{host}:{self._settings.port}",
            "workers": self._settings.workers,
            "worker_class": Worker,
            "threads": THREADS,
            "worker_connections": CONNECTIONS,
            "keepalive": KEEPALIVE_SECONDS,
            "logger_class": _Logger,
            "proc_name": "media-storage",
            "post_worker_init": self._warn_once,
        }
        if "control_socket_disable" in self.cfg.settings:  # gunicorn 25 opens one below $HOME
            options["control_socket_disable"] = True
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return create_app(self._settings)  # in each worker: connections must not cross a fork

    def _warn_once(self, worker: Any) -> None:
        if worker.age == 1:
            threading.Thread(target=storage.warn_if_listable, args=(self._settings,), daemon=True).start()


class _Logger(glogging.Logger):
    """gunicorn's own messages, through this process's logging."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log = logging.getLogger("gunicorn")
        self.access_log = logging.getLogger("gunicorn.access")

    def access(self, *args: Any) -> None:
        """Silent: the application writes a line of its own."""

    def reopen_files(self) -> None:
        """There are none."""


class Worker(ThreadWorker):
    """gunicorn's threaded worker with a body of ours; a refused client that is still sending gets its answer."""

    def handle_request(self, req: Any, conn: Any) -> bool:
        body = Body(req, conn.sock)
        req.body = body
        _join_cookies(req)
        try:
            keepalive: bool = super().handle_request(req, conn)
            return body.discard() and keepalive
        finally:
            req.unreader.sock = conn.sock


def _join_cookies(req: Any) -> None:
    cookies = [value for name, value in req.headers if name == "COOKIE"]
    if len(cookies) > 1:
        req.headers = [header for header in req.headers if header[0] != "COOKIE"]
        req.headers.append(("COOKIE", "\n".join(cookies)))


class Body(io.RawIOBase):
    """``wsgi.input``: hands out what has arrived, without waiting for all that was asked for.

    The framing stays gunicorn's: its readers parse lengths and chunks. Its own body collects 1 KiB at a time
    until it has as much as was asked for, which costs most of an upload's CPU and lets a client that
    sends a byte now and then hold a read for ever.
    """

    def __init__(self, req: Any, sock: socket.socket) -> None:
        self._reader = req.body.reader
        self._sock = sock
        self._deadline: float | None = None
        self._ahead = b""
        self._at_end = False
        self._broken = False
        req.unreader.sock = self  # every byte of the body passes through recv()

    def readable(self) -> bool:
        return True

    def recv(self, size: int) -> bytes:
        """What the readers call for more of the connection's bytes."""
        if self._deadline is not None:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("the body did not end in time")
            self._sock.settimeout(remaining)
        return self._sock.recv(max(size, READ_BYTES))

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, at least one unless the body has ended. Raises OSError when it is cut or malformed."""
        if size < 0:
            return self.readall()
        if not self._ahead and not self._at_end:
            try:
                self._ahead = self._more()
            except ParseException as exc:
                self._broken = True
                raise OSError(f"malformed body: {exc}") from exc
            except OSError:
                self._broken = True
                raise
            self._at_end = not self._ahead
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _more(self) -> bytes:
        reader = self._reader
        if not isinstance(reader, LengthReader):
            return next((piece for piece in reader.parser if piece), b"")
        if reader.length == 0:
            return b""
        data: bytes = reader.unreader.read()
        if len(data) > reader.length:  # the start of the next request
            reader.unreader.unread(data[reader.length :])
            data = data[: reader.length]
        if not data:
            raise ConnectionError(f"the client closed the connection {reader.length} bytes before the body's end")
        reader.length -= len(data)
        return data

    def discard(self) -> bool:
        """Reads on and throws away, up to a limit; whether the body has ended, so that a next request may follow."""
        self._deadline = time.monotonic() + DISCARD_SECONDS
        left = DISCARD_BYTES
        try:
            while not self._broken and left > 0:
                data = self.read(READ_BYTES)
                if not data:
                    return True
                left -= len(data)
        except OSError:
            pass  # the answer was sent; that the client goes away now is its right
        return False
