"""The way of one read: a redirect in front of Flask, which would cost ten times as much as what is to be said."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from media_storage import keys
from media_storage.metrics import Meter
from media_storage.ops import Trace, request_id

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Redirects:
    """``GET`` and ``HEAD /media/<key>``: 302 to the object, without asking anyone. All else is for the application behind it.

    A WSGI middleware. `bucket_url` is where the public reads objects, `max_age` (seconds) how long browsers may remember it.
    """

    def __init__(self, application: "WSGIApplication", bucket_url: str, max_age: int, meter: Meter) -> None:
        self._application = application
        self._bucket_url = bucket_url
        self._meter = meter
        self._headers = [
            ("Cache-Control", f"public, max-age={max_age}"),
            ("Access-Control-Allow-Origin", "*"),
            ("Cross-Origin-Resource-Policy", "cross-origin"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Length", "0"),
        ]

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path: str = environ["PATH_INFO"]
        key = path.removeprefix("/media/")
        readable = environ["REQUEST_METHOD"] in ("GET", "HEAD") and path.startswith("/media/") and keys.owner(key) is not None
        if not readable or not written_plainly(environ):
            return self._application(environ, start_response)
        trace = Trace(request_id(environ.get("HTTP_X_REQUEST_ID")))
        start_response("302 Found", [("Location", f"{self._bucket_url}/{key}"), ("X-Request-ID", trace.request_id), *self._headers])
        trace.log(environ["REQUEST_METHOD"], path, 302, "found")
        self._meter.redirect()
        return ()


def written_plainly(environ: "WSGIEnvironment") -> bool:
    """Whether the client wrote the path as the application sees it: none of ours needs URL encoding, and servers take // at its
    start for one slash.
    """
    target: str = environ.get("RAW_URI") or environ.get("REQUEST_URI", "")
    return not target.startswith("//") and "%" not in target.partition("?")[0]
