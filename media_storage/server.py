"""Runs the application: gunicorn on Unix, waitress on Windows; and Werkzeug's threaded server for `dev` on Windows.

Every server joins several ``Cookie`` headers into one value, with a comma that a cookie may also contain. Ours join
them with a line feed, which no header can contain, so that the application can tell and refuse. (waitress cannot be
taught that; a second header there becomes part of the first.)
"""

import logging
import sys
from typing import TYPE_CHECKING

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from media_storage import metrics
from media_storage.app import create_app
from media_storage.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

THREADS_ON_WINDOWS = 64

log = logging.getLogger(__name__)


class ServerMissing(Exception):
    """There is no production server here; the text says which package brings one."""


def serve(settings: Settings) -> None:
    """Serves until the process is told to stop. Raises ServerMissing, CannotListen, or OSError when the port is taken."""
    if sys.platform != "win32":
        from media_storage import server_unix  # noqa: PLC0415 - gunicorn cannot be imported on Windows

        server_unix.serve(settings)
    else:
        serve_on_waitress(settings)


def serve_on_waitress(settings: Settings) -> None:
    """Serves with waitress: it reads a whole body before the application sees the request. Raises ServerMissing or CannotListen."""
    try:
        import waitress  # noqa: PLC0415 - only here, and only where it is installed
    except ImportError as exc:
        raise ServerMissing("On Windows `serve` needs waitress: pip install waitress. (`dev` runs without it.)") from exc
    waitress.serve(_measured_app(settings), host=settings.host, port=settings.port, threads=THREADS_ON_WINDOWS, ident=None)


def serve_threaded(settings: Settings) -> None:
    """Serves with Werkzeug's threaded server: for development where gunicorn does not exist."""
    server = make_server(settings.host, settings.port, _measured_app(settings), threaded=True, request_handler=_Handler)
    log.info("listening on http://%s:%d", settings.host, settings.port)
    server.serve_forever()


def _measured_app(settings: Settings) -> Flask:
    """The application of a server that is one process, with its metrics served beside it."""
    board = metrics.Board(settings.max_concurrent_uploads)
    if settings.metrics_port:
        metrics.listen(board, settings.metrics_host, settings.metrics_port)
    return create_app(settings, board.meter())


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def make_environ(self) -> "WSGIEnvironment":
        environ = super().make_environ()
        environ["RAW_URI"] = self.requestline.split(" ")[1]  # http.server makes one slash of // at its start
        cookies = self.headers.get_all("Cookie", [])
        if len(cookies) > 1:
            environ["HTTP_COOKIE"] = "\n".join(cookies)
        return environ

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Silent: the application writes a line of its own."""
