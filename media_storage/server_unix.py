"""gunicorn, set up for uploads. With `body_unix`, the only module that may assume Unix."""

import contextlib
import errno
import logging
import math
import os
import resource
import selectors
import threading
import time
from functools import partial
from typing import Any

from flask import Flask
from gunicorn import glogging, util
from gunicorn.app.base import BaseApplication
from gunicorn.http.errors import ConfigurationProblem, InvalidHeader, LimitRequestHeaders, ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker

from media_storage import storage
from media_storage.app import create_app
from media_storage.body_unix import Body, Head, Pace
from media_storage.settings import Settings

# A thread waits wherever its client is slow, so there must be more of them than uploads: these are left to everyone
# else. gunicorn starts threads only when they are needed.
OTHER_THREADS = 128
IDLE_CONNECTIONS = 2048  # per worker: on keep-alive, waiting without a thread
KEEPALIVE_SECONDS = 5  # also for the first byte of a new connection
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
NO_ROOM_SECONDS = 0.1
KILL_SECONDS = 2  # after the grace, what still runs is killed


def serve(settings: Settings) -> None:
    """Runs gunicorn until SIGTERM or SIGINT; exits the process."""
    # An upload takes up to three open files, and many systems allow 1024 to whoever does not ask for more.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS takes no "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _Application(settings).run()


class _Application(BaseApplication):
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        threads = self._settings.max_concurrent_uploads + OTHER_THREADS
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        options = {
            "bind": f"{host}:{self._settings.port}",
            "workers": self._settings.workers,
            "worker_class": worker_class(self._settings),
            "threads": threads,
            "worker_connections": threads + IDLE_CONNECTIONS,
            "graceful_timeout": math.ceil(self._settings.shutdown_grace_seconds) + KILL_SECONDS,
            "keepalive": KEEPALIVE_SECONDS,
            "logger_class": _Logger,
            "forwarded_allow_ips": "",  # no header of a caller's decides a path (SCRIPT_NAME) or a scheme; nothing here asks for one
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


def worker_class(settings: Settings) -> type["Worker"]:
    """gunicorn makes its workers itself, from a class: this one knows the settings."""
    pace = Pace(settings.upload_timeout_seconds, settings.min_upload_bytes_per_second)
    return type("ConfiguredWorker", (Worker,), {"pace": pace, "grace": settings.shutdown_grace_seconds})


class Worker(ThreadWorker):
    """gunicorn's threaded worker with a body of ours; a refused client that is still sending gets its answer."""

    pace: Pace
    grace: float  # seconds that bodies have to arrive after SIGTERM

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._bodies: set[Body] = set()  # changed by one operation at a time, which the interpreter makes atomic

    def run(self) -> None:
        # gunicorn has each signal write to this pipe, and then waits for its next second; read here, it ends at once.
        self.poller.register(self.PIPE[0], selectors.EVENT_READ, lambda pipe: os.read(pipe, 64))
        super().run()

    def accept(self, server: Any, listener: Any) -> None:
        """As gunicorn's, but a connection that stays silent is closed like an idle one, and a lack of files is waited out."""
        try:
            sock, client = listener.accept()
        except OSError as exc:
            if exc.errno in NO_ROOM:  # gunicorn would end the worker, and answer nobody until its last upload is over
                self.log.warning("no room for another connection: %s", exc)
                time.sleep(NO_ROOM_SECONDS)
            elif exc.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        conn = TConn(self.cfg, sock, client, server)
        conn.set_timeout()
        self.nr_conns += 1
        with self._lock:
            self._keep.append(conn)
            self.poller.register(sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        with self._lock:
            self.poller.unregister(client)
            with contextlib.suppress(ValueError):
                self._keep.remove(conn)
        self.enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        conn.parser.unreader.sock = Head(conn.sock)
        keepalive, conn = super().handle(conn)
        # The next request may have been read together with this one's body: the poller, which waits for the socket, would not see it.
        while keepalive and conn.parser.unreader.buf.tell():
            conn.parser.unreader.sock = Head(conn.sock)
            keepalive, conn = super().handle(conn)
        return keepalive, conn

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Exception) -> None:
        """A plain 400 or 431 that quotes nothing of the request, which may hold a cookie; gunicorn does, and says 501 or 500 to some."""
        if not isinstance(exc, (ParseException, ConfigurationProblem)):
            super().handle_error(req, client, addr, exc)
            return
        status, phrase = (431, "Request Header Fields Too Large") if isinstance(exc, LimitRequestHeaders) else (400, "Bad Request")
        self.log.warning("a request that cannot be parsed: %s", type(exc).__name__)
        with contextlib.suppress(OSError):
            util.write_error(client, status, phrase, "")

    def handle_request(self, req: Any, conn: Any) -> bool:
        _check_coding(req)
        body = Body(req, conn.sock, self.pace)
        req.body = body
        _join_cookies(req)
        self._bodies.add(body)
        try:
            keepalive: bool = super().handle_request(req, conn)
            return body.discard() and keepalive
        finally:
            self._bodies.discard(body)

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """SIGTERM: whoever is still sending when the grace is over is told, before the process is killed."""
        super().handle_exit(sig, frame)
        timer = threading.Timer(self.grace, self._interrupt_bodies)
        timer.daemon = True
        timer.start()

    def _interrupt_bodies(self) -> None:
        for body in list(self._bodies):
            body.interrupt()


def _check_coding(req: Any) -> None:
    """Raises InvalidHeader for any transfer coding but chunked: gunicorn passes over some that a proxy may read otherwise."""
    if any(name == "TRANSFER-ENCODING" and value.lower() != "chunked" for name, value in req.headers):
        raise InvalidHeader("TRANSFER-ENCODING", req=req)


def _join_cookies(req: Any) -> None:
    cookies = [value for name, value in req.headers if name == "COOKIE"]
    if len(cookies) > 1:
        req.headers = [header for header in req.headers if header[0] != "COOKIE"]
        req.headers.append(("COOKIE", "\n".join(cookies)))
