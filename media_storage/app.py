"""Wires settings, adapters, routes and error handlers; nothing else knows them all."""

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, jsonify, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from media_storage import images, origins
from media_storage.auth import Backend
from media_storage.errors import BadRequest, InternalError, MethodNotAllowed, NotFound, Refusal
from media_storage.metrics import Meter
from media_storage.ops import Trace, request_id
from media_storage.ratelimit import limiter_for
from media_storage.redirect import Redirects, written_plainly
from media_storage.settings import Settings
from media_storage.storage import Store
from media_storage.views import Views

log = logging.getLogger(__name__)


def create_app(settings: Settings, meter: Meter | None = None) -> Flask:
    """The WSGI application, counted by `meter`. Needs no network; its adapters connect when they are first used."""
    meter = meter or Meter()
    images.libmagic()  # where it is missing, the start fails, not the first upload
    app = _Flask("media_storage", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's own provider has it
    app.url_map.merge_slashes = False  # or //host/path would be answered by a redirect that names the host
    backend = Backend(settings.backend_verify_url, settings.backend_user_id_field, settings.backend_timeout_seconds)
    limiter = limiter_for(settings.uploads_per_minute, settings.rate_limit_storage_uri)
    views = Views(settings, backend, Store(settings), limiter, meter)
    app.add_url_rule("/media/upload", view_func=views.upload, methods=["POST"])
    app.add_url_rule("/upload", "upload", views.upload, methods=["POST"])
    app.add_url_rule("/media/limits", view_func=views.limits)
    app.add_url_rule("/media/uploads/<path:name>", view_func=views.no_such_key)
    app.add_url_rule("/media/uploads/<path:name>", view_func=views.delete, methods=["DELETE"])
    app.add_url_rule("/healthz", view_func=views.healthz)
    app.add_url_rule("/readyz", view_func=views.readyz)
    app.add_url_rule("/openapi.json", view_func=views.openapi)
    _handle_errors(app)
    _frame_every_request(app, settings.origins, meter)
    redirects = Redirects(app.wsgi_app, settings.public_bucket_url, settings.redirect_max_age_seconds, meter)
    app.wsgi_app = redirects  # type: ignore[method-assign]
    return app


class _Answer(Response):
    """Its headers go out as they are: in each Location, Werkzeug would look for what the settings do not let into a URL."""

    def get_wsgi_headers(self, _environ: object) -> Headers:
        if not self.response and self.status_code != HTTPStatus.NO_CONTENT:  # Flask's own answer to OPTIONS
            self.content_length = 0
        return self.headers


class _Flask(Flask):
    """Flask, without two things that cost an upload a fifteenth of its CPU and find nothing here."""

    response_class = _Answer

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func  # no view is a coroutine


def _frame_every_request(app: Flask, allowed: frozenset[str], meter: Meter) -> None:
    """Request id before, CORS, the log line and the count of uploads after; preflights are answered here."""

    def begin() -> Response | None:
        g.trace = Trace(request_id(request.headers.get("X-Request-ID")))
        if not written_plainly(request.environ):
            raise NotFound
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return Response(status=204, headers=origins.preflight(request.headers, allowed))
        return None

    def finish(response: Response) -> Response:
        trace: Trace = g.trace
        response.headers["X-Request-ID"] = trace.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        if "Access-Control-Allow-Origin" not in response.headers:
            response.headers.update(origins.cors(request.headers, allowed))
        outcome = g.get("outcome", HTTPStatus(response.status_code).phrase.lower().replace(" ", "_"))
        trace.log(request.method, request.path, response.status_code, outcome)
        if trace.is_upload:
            meter.upload(outcome, trace.ms, trace.phases, trace.size or 0)
        return response

    app.before_request(begin)
    app.after_request(finish)


def _handle_errors(app: Flask) -> None:
    """One way out for refusals, one for what Flask raises, one for defects."""

    def refuse(refusal: Refusal) -> Response:
        trace: Trace = g.trace
        trace.reason = refusal.reason
        g.outcome = refusal.code
        return problem(refusal, trace.request_id)

    def refuse_http(exc: HTTPException) -> Response:
        kinds: dict[int | None, Refusal] = {404: NotFound(), 405: MethodNotAllowed()}
        answer = refuse(kinds.get(exc.code) or BadRequest("The request is malformed.", reason=str(exc)))
        if isinstance(allow := getattr(exc, "valid_methods", None), (list, tuple, set)):
            answer.headers["Allow"] = ", ".join(sorted(allow))
        return answer

    def refuse_defect(exc: Exception) -> Response:
        trace: Trace = g.trace
        log.error("a defect in request %s", trace.request_id, exc_info=exc)
        return refuse(InternalError())

    app.register_error_handler(Refusal, refuse)
    app.register_error_handler(HTTPException, refuse_http)
    app.register_error_handler(Exception, refuse_defect)


def problem(refusal: Refusal, identity: str) -> Response:
    """A refusal as a problem document (RFC 9457)."""
    answer = jsonify(refusal.document(identity))
    answer.status_code = refusal.status
    answer.mimetype = "application/problem+json"
    answer.headers["Cache-Control"] = "no-store"
    if refusal.retry_after is not None:
        answer.headers["Retry-After"] = str(refusal.retry_after)
    return answer
