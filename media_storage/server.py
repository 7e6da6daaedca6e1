"""Runs the application: gunicorn on Unix, waitress on Windows; and Werkzeug's threaded server for `dev` on Windows.

Every server joins several ``Cookie`` headers into one value, with a comma that a cookie may also contain. Ours join
them with a line feed, which no header can contain, so that the application can tell and refuse.
"""

import contextlib
import logging
import signal
import socket
import sys
from typing import NoReturn

from flask import Flask

from media_storage import metrics, server_werkzeug
from media_storage.app import create_app
from media_storage.metrics import CannotListen
from media_storage.settings import Settings

BACKLOG = 128  # connections that may wait to be accepted

log = logging.getLogger(__name__)


class ServerMissing(Exception):
    """There is no production server here; the text says which package brings one."""


def serve(settings: Settings) -> None:
    """Serves until the process is told to stop. Raises ServerMissing or CannotListen; gunicorn exits the process when the port is taken."""
    if sys.platform != "win32":
        from media_storage import server_unix  # noqa: PLC0415 - gunicorn cannot be imported on Windows

        server_unix.serve(settings)
    else:
        serve_on_waitress(settings)


def serve_on_waitress(settings: Settings) -> None:
    """Serves with waitress: it reads a whole body before the application sees the request. Raises ServerMissing or CannotListen."""
    try:
        from media_storage import server_waitress  # noqa: PLC0415 - only where waitress is installed
    except ModuleNotFoundError as exc:
        raise ServerMissing("On Windows `serve` needs waitress: pip install waitress. (`dev` runs without it.)") from exc
    interrupt_on_signals()
    with contextlib.suppress(KeyboardInterrupt):
        server_waitress.serve(_measured_app(settings), settings, _listener(settings))


def serve_threaded(settings: Settings) -> None:
    """Serves with Werkzeug's threaded server: for development where gunicorn does not exist. Raises CannotListen."""
    interrupt_on_signals()
    with contextlib.suppress(KeyboardInterrupt):
        server_werkzeug.serve(_measured_app(settings), settings, _listener(settings))


def _measured_app(settings: Settings) -> Flask:
    """The application of a server that is one process, with its metrics served beside it."""
    board = metrics.Board(settings.max_concurrent_uploads)
    if settings.metrics_port:
        metrics.listen(board, settings.metrics_host, settings.metrics_port)
    return create_app(settings, board.meter())


def interrupt_on_signals() -> None:
    """Makes the ways a terminal or a supervisor ends a process look like Ctrl-C, so that it ends in order."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        if number := getattr(signal, name, None):
            signal.signal(number, interrupt)


def _listener(settings: Settings) -> socket.socket:
    """Listens. Not left to the servers, which on Windows would share a port that another program listens on."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise CannotListen(f"Cannot listen on {settings.host}, port {settings.port} (HOST, PORT): {exc.strerror or exc}") from exc
    log.info("listening on %s, port %d", settings.host, settings.port)
    return listener
