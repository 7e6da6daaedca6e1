"""gunicorn's worker with a loop of our own: waiting costs no thread, and neither does a redirect.

One thread watches every connection and reads heads as they come. A redirect, which asks nobody, it answers itself;
any other request gets a thread, which may wait for its client, the chat backend or the store.
"""

import contextlib
import errno
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.errors import ConfigurationProblem, LimitRequestHeaders, ParseException
from gunicorn.workers.base import Worker as BaseWorker

from media_storage.body_unix import Body, Pace
from media_storage.connection_unix import Connection, Output

SEND_SECONDS = 10  # for an answer that a client does not take
IDLE_CONNECTIONS = 2048  # waiting without a thread; those above are closed once they were answered
DISCARD_READ_BYTES = 65_536
HEAD_READ_BYTES = 8192  # at once: what comes with it of a body is copied several times
ANSWERED_HERE = "/media/uploads/"  # GET and HEAD: what is a redirect or nothing

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Settled:
    """gunicorn's configuration, with each value looked up once: its parser asks for twenty of them for every request."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cfg, name)
        setattr(self, name, value)
        return value


class Worker(BaseWorker):
    """See the module. `worker_class` in server_unix.py sets what the settings say."""

    pace: Pace
    grace: float  # seconds that bodies have to arrive after SIGTERM

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Threads change these too, by one operation at a time, which the interpreter makes atomic.
        self._watched: dict[socket.socket, Connection] = {}  # nobody works for them now
        self._busy: set[Connection] = set()  # a thread does
        self._bodies: set[Body] = set()
        self._lock = threading.Lock()  # of the selector
        self._ready: deque[Connection] = deque()  # their next request was read together with the last one
        self._accepting = False

    def run(self) -> None:
        """Serves until SIGTERM, and then until what is under way is done or the time is up."""
        self._selector = selectors.DefaultSelector()
        self._settled = Settled(self.cfg)
        self._threads = ThreadPoolExecutor(self.cfg.threads)
        # gunicorn has each signal write to this pipe.
        self._selector.register(self.PIPE[0], selectors.EVENT_READ, partial(os.read, self.PIPE[0], 64))
        next_look = 0.0
        while self.alive:
            if (now := time.monotonic()) >= next_look:
                next_look = now + 1
                self._look_around(now)
            for key, _ in self._selector.select(0 if self._ready else 1):
                key.data()
            for _ in range(len(self._ready)):
                conn = self._ready.popleft()
                conn.queued = False
                self._serve(conn)
        self._stop_accepting()
        for conn in list(self._watched.values()):
            self._close(conn)
        for listener in self.sockets:
            listener.close()
        end = time.monotonic() + self.cfg.graceful_timeout
        while self._busy and time.monotonic() < end:
            self.notify()
            time.sleep(0.02)
        self._threads.shutdown(wait=False)

    def _look_around(self, now: float) -> None:
        """Once a second: tells the arbiter that this worker lives, and closes what was silent for too long."""
        self.notify()
        if self.ppid != os.getppid():
            self.log.info("the arbiter is gone")
            self.alive = False
        for conn in list(self._watched.values()):
            if conn.deadline < now:
                self._close(conn)
        if not self._accepting and self._has_room():
            self._accepting = True
            for listener in self.sockets:
                listener.setblocking(False)
                self._selector.register(listener, selectors.EVENT_READ, partial(self._accept, listener))

    def _has_room(self) -> bool:
        return len(self._watched) + len(self._busy) < int(self.cfg.worker_connections)

    def _stop_accepting(self) -> None:
        """Until the next look around."""
        if self._accepting:
            self._accepting = False
            for listener in self.sockets:
                self._selector.unregister(listener)

    # --- connections ---

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, client = listener.accept()
            sock.setblocking(True)  # macOS hands the listener's mode on
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_SECONDS, 0))
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                self.log.warning("no room for another connection: %s", exc)
                self._stop_accepting()
            return  # otherwise the client has left already, or another worker was quicker
        self._watch(Connection(sock, client, listener.getsockname()))
        if not self._has_room():
            self._stop_accepting()

    def _watch(self, conn: Connection) -> None:
        with self._lock:
            self._watched[conn.sock] = conn
            self._selector.register(conn.sock, selectors.EVENT_READ, partial(self._read, conn))

    def _unwatch(self, conn: Connection) -> None:
        with self._lock:
            if self._watched.pop(conn.sock, None):
                self._selector.unregister(conn.sock)

    def _close(self, conn: Connection) -> None:
        self._unwatch(conn)
        util.close(conn.sock)

    def _read(self, conn: Connection) -> None:
        if conn.queued:
            return  # it has said enough for now
        try:
            data = conn.sock.recv(HEAD_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(conn)
        elif conn.feed(data):
            self._serve(conn)

    # --- requests ---

    def _serve(self, conn: Connection) -> None:
        """Answers the request whose head was read, here or in a thread."""
        try:
            req = conn.parse(self._settled)
            if req.method in ("GET", "HEAD") and req.path.startswith(ANSWERED_HERE) and _has_no_body(req):
                if not self._answer(req, conn, socket.MSG_DONTWAIT):
                    self._close(conn)
                elif conn.next_request():
                    conn.queued = True
                    self._ready.append(conn)
                return
        except Exception as exc:  # whatever is wrong with one request, the loop goes on
            self._refuse(conn, exc)
            return
        self._unwatch(conn)
        self._busy.add(conn)
        # A machine that has no thread left says so here; the pool has queued the request, and answers it when one is free.
        with contextlib.suppress(RuntimeError):
            self._threads.submit(self._serve_in_thread, req, conn)

    def _serve_in_thread(self, req: Any, conn: Connection) -> None:
        try:
            keep = self._answer_with_body(req, conn)
            while keep and self.alive and conn.next_request():
                keep = self._answer_with_body(conn.parse(self._settled), conn)
            if keep and self.alive:
                self._busy.discard(conn)  # before the loop may hand it to another thread
                self._watch(conn)
                return
            self._close(conn)
        except Exception as exc:
            self._refuse(conn, exc)
        self._busy.discard(conn)

    def _answer_with_body(self, req: Any, conn: Connection) -> bool:
        body = req.body = Body(req, conn.sock, self.pace)
        _join_cookies(req)
        self._bodies.add(body)
        try:
            keep = self._answer(req, conn, 0)
            return body.discard() and keep
        finally:
            self._bodies.discard(body)

    def _answer(self, req: Any, conn: Connection, flags: int) -> bool:
        """Has the application answer; whether the connection may be used again."""
        output = Output(conn.sock, flags)
        response, environ = wsgi.create(req, output, conn.client, conn.server, self._settled)
        environ["wsgi.multithread"] = True
        pieces = self.wsgi(environ, response.start_response)
        if not self.alive or len(self._watched) > IDLE_CONNECTIONS:  # as it is now: an upload may have taken minutes
            response.force_close()
        try:
            for piece in pieces:
                response.write(piece)
            response.close()
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
        output.flush()
        return not response.should_close()

    def _refuse(self, conn: Connection, exc: Exception) -> None:
        """Closes the connection after a plain answer that quotes nothing of the request, which may hold a cookie."""
        if not isinstance(exc, OSError):  # which says that the client has gone
            status, phrase = 400, "Bad Request"
            if isinstance(exc, LimitRequestHeaders):
                status, phrase = 431, "Request Header Fields Too Large"
            elif not isinstance(exc, (ParseException, ConfigurationProblem)):
                status, phrase = 500, "Internal Server Error"
            self.log.warning("a request that cannot be parsed: %s", type(exc).__name__, exc_info=exc if status == 500 else None)
            with contextlib.suppress(OSError):
                util.write_error(conn.sock, status, phrase, "")
                for _ in range(16):  # closed over what was not read, the connection is reset, and the answer may not be seen
                    if not conn.sock.recv(DISCARD_READ_BYTES, socket.MSG_DONTWAIT):
                        break
        self._close(conn)

    # --- signals ---

    def handle_exit(self, sig: Any, frame: Any) -> None:
        """SIGTERM: whoever is still sending when the grace is over is told, before the process is killed."""
        super().handle_exit(sig, frame)
        timer = threading.Timer(self.grace, self._interrupt_bodies)
        timer.daemon = True
        timer.start()

    def _interrupt_bodies(self) -> None:
        for body in list(self._bodies):
            body.interrupt()


def _has_no_body(req: Any) -> bool:
    return getattr(req.body.reader, "length", None) == 0  # gunicorn's reader of chunks has none


def _join_cookies(req: Any) -> None:
    cookies = [value for name, value in req.headers if name == "COOKIE"]
    if len(cookies) > 1:
        req.headers = [header for header in req.headers if header[0] != "COOKIE"]
        req.headers.append(("COOKIE", "\n".join(cookies)))
