"""A stand-in chat backend: what a real one needs so that its users can share pictures through media-storage.

Copy `media`, `check_origin` and `read_the_rest`; put your own sign-in where `auth` stands. The browser talks to the backend
alone, and media-storage asks the backend's `/auth/me` whose cookie it was handed:

    browser ── POST /media/upload ──> backend ── same body, same cookie ──> media-storage ── GET /auth/me ──> backend

`python -m media_storage.dev.backend` serves it, for development: two accounts, one password, and a page to try uploads.
"""

import argparse
import contextlib
import logging
import secrets
import time
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import flask
import urllib3
from flask import Response, request, session
from werkzeug.datastructures import Headers
from werkzeug.exceptions import ClientDisconnected, HTTPException
from werkzeug.serving import run_simple

ACCOUNTS = {"alice": 1, "bob": 2}
PASSWORD = "picture"  # noqa: S105 - no secret: the page shows it

auth = flask.Blueprint("auth", __name__, url_prefix="/auth")


@auth.post("/sign-in")
def sign_in() -> Response:
    given = request.get_json(silent=True)
    if not isinstance(given, dict) or given.get("name") not in list(ACCOUNTS) or given.get("password") != PASSWORD:
        return problem(401, "wrong_password", "That name and password do not match. Check both and try again.")
    session["name"] = given["name"]  # Flask's session is a signed cookie
    return me()


@auth.post("/sign-out")
def sign_out() -> Response:
    session.clear()
    return Response(status=204)


@auth.get("/me")
def me() -> Response:
    """Whose cookie this is. It never sets one: media-storage asks, and no `Set-Cookie` gets from there to the browser."""
    name = session.get("name")
    if name not in ACCOUNTS:
        return problem(401, "unauthenticated", "Nobody is signed in.")
    return flask.jsonify(id=ACCOUNTS[name], name=name)


def media(storage_url: str) -> flask.Blueprint:
    """Hands `/media/…` to media-storage at ``storage_url`` (scheme, host and port), bodies as streams: no picture is held here."""
    blueprint = flask.Blueprint("media", __name__, url_prefix="/media")
    # `connect` bounds each wait while sending, too; `read` is longer than media-storage waits for its store.
    storage = urllib3.connection_from_url(storage_url, timeout=urllib3.Timeout(connect=10, read=60), retries=False, maxsize=100)

    @blueprint.post("/upload")
    @blueprint.get("/limits")
    @blueprint.delete("/<path:key>")
    def forward(key: str = "") -> Response:  # noqa: ARG001 - it is part of the path, which goes on whole
        # Not Origin: it names this site, and `check_origin` has seen it. The cookie goes on as it came, neither parsed nor rebuilt.
        headers = {name: request.headers[name] for name in ("Content-Type", "Cookie", "X-Request-ID") if name in request.headers}
        headers["Connection"] = "close"  # a stream cannot be sent twice, so it never goes into an old connection that may be dead
        if request.content_length is not None:
            headers["Content-Length"] = str(request.content_length)  # without it, urllib3 sends the stream chunked
        has_body = "Content-Length" in headers or "Transfer-Encoding" in request.headers
        body = request.stream if has_body else None
        try:
            answer = storage.urlopen(request.method, quote(request.path), body=body, headers=headers, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            flask.current_app.logger.warning("media-storage at %s: %s", storage_url, error)
            return problem(503, "storage_unavailable", "Pictures cannot be reached right now. Try again in a moment.", retry_after=5)
        passed_back = ("Cache-Control", "Content-Type", "Location", "Retry-After", "X-Request-ID")
        response = Response(answer.data, answer.status)
        response.headers = Headers([(name, answer.headers[name]) for name in passed_back if name in answer.headers])
        return response

    return blueprint


def check_origin() -> Response | None:
    """Lets no other site's page act for the person who is signed in here. Servers and command lines send no Origin."""
    origin = request.headers.get("Origin")
    if request.method in {"GET", "HEAD", "OPTIONS"} or origin in {None, f"{request.scheme}://{request.host}"}:
        return None
    return problem(403, "origin_not_allowed", "Only this site's own pages may do that.")


def read_the_rest(response: Response) -> Response:
    """Reads what the browser is still sending (up to 32 MiB or 5 s): it looks at a refusal only when it has sent everything."""
    left, deadline = 32 << 20, time.monotonic() + 5
    with contextlib.suppress(ClientDisconnected, OSError):
        while left > 0 and time.monotonic() < deadline and (data := request.stream.read(8192)):
            left -= len(data)
    return response


def problem(status: int, code: str, detail: str, retry_after: int | None = None) -> Response:
    """A refusal in the form that media-storage uses too: problem+json (RFC 9457)."""
    about = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    response = flask.jsonify({**about, "detail": detail, "code": code, "requestId": request.headers.get("X-Request-ID")})
    response.status_code, response.mimetype = status, "application/problem+json"
    response.retry_after = retry_after
    return response


def refuse(error: HTTPException) -> Response:
    return problem(error.code or 500, error.name.lower().replace(" ", "_"), error.description or error.name)


def create_app(storage_url: str, public_url: str) -> flask.Flask:
    """The backend and its page; ``public_url`` is what the links that media-storage gives out start with."""
    app = flask.Flask(__name__, template_folder=str(Path(__file__).parent), static_folder=None)
    # HttpOnly is Flask's default; add SESSION_COOKIE_SECURE behind https. A new key signs everyone out.
    app.config.update(SECRET_KEY=secrets.token_bytes(32), SESSION_COOKIE_NAME="chat_session", SESSION_COOKIE_SAMESITE="Lax")
    app.before_request(check_origin)
    app.after_request(read_the_rest)
    app.register_error_handler(HTTPException, refuse)
    app.register_blueprint(auth)
    app.register_blueprint(media(storage_url))

    @app.get("/")
    def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        response = flask.make_response(flask.render_template("page.html", nonce=nonce, accounts=ACCOUNTS, password=PASSWORD))
        # Pictures come from where public_url redirects to: in production, allow these two hosts instead of http: and https:.
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; form-action 'self'; "
            f"img-src {public_url} http: https: blob: data:; base-uri 'none'; frame-ancestors 'none'"
        )
        response.cache_control.no_store = True
        return response

    return app


def main() -> None:
    """Serves on loopback. Each request has a thread: media-storage asks `/auth/me` while an upload is being forwarded."""
    parser = argparse.ArgumentParser(description="A stand-in chat backend with a page to try uploads.")
    parser.add_argument("--port", type=int, default=8102)
    parser.add_argument("--storage", default="http://127.0.0.1:9101", metavar="URL", help="where media-storage listens")
    parser.add_argument("--public", default="http://localhost:9101", metavar="URL", help="what links to pictures start with")
    options = parser.parse_args()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
    run_simple("127.0.0.1", options.port, create_app(options.storage, options.public), threaded=True)


if __name__ == "__main__":
    main()
