"""HTTP in, HTTP out. ``upload`` is the way of one picture, top to bottom."""

import json
import threading

from flask import Response, g, jsonify, request

from media_storage import images, keys, openapi, origins, receive
from media_storage.auth import Backend
from media_storage.errors import BadRequest, NotFound, NotOwner, Overloaded, Unauthenticated
from media_storage.metrics import Meter
from media_storage.ops import Readiness, Trace
from media_storage.ratelimit import Limiter
from media_storage.settings import Settings
from media_storage.storage import Store


class Views:
    """The service's answers. What is not success is raised as a Refusal and answered in ``app.py``."""

    def __init__(self, settings: Settings, backend: Backend, store: Store, limiter: Limiter, meter: Meter) -> None:
        self._settings = settings
        self._backend = backend
        self._store = store
        self._limiter = limiter
        self._meter = meter
        self._slots = threading.BoundedSemaphore(settings.max_concurrent_uploads)
        self._origins = settings.origins
        self._readiness = Readiness(backend, store)
        self._openapi = json.dumps(openapi.document(settings))

    def upload(self) -> Response:
        """``POST /media/upload``: what the headers say, then one of the slots for uploads."""
        trace: Trace = g.trace
        trace.is_upload = True
        delimiter = receive.boundary(request.content_type)
        receive.check_length(request.content_length, self._settings.max_upload_bytes)
        origins.check(request.headers, self._origins)
        if not self._slots.acquire(blocking=False):
            raise Overloaded("as many uploads as MAX_CONCURRENT_UPLOADS allows are under way")
        try:
            with self._meter.in_flight():
                return self._take(delimiter)
        finally:
            self._slots.release()

    def _take(self, delimiter: bytes) -> Response:
        """One upload: session, then receive, prove, store."""
        trace: Trace = g.trace
        user = self._user()
        self._limiter.count(user)

        with trace.phase("receive"):
            limit, declared = self._settings.max_upload_bytes, request.content_length
            received = receive.file(request.stream, delimiter, limit, images.HEAD_BYTES, images.sniff, declared=declared)
        with received:
            trace.size = received.size
            with trace.phase("prove"):
                image = images.identify(received.file, self._settings.max_image_pixels)
            key = keys.mint(user, image.extension)
            with trace.phase("store"):
                self._store.put(key, received.file, received.size, received.crc32, image.content_type, request_id=trace.request_id)

        url = f"{self._settings.public_base_url}/media/{key}"
        answer = jsonify(key=key, url=url, contentType=image.content_type, size=received.size, width=image.width, height=image.height)
        answer.status_code = 201
        answer.headers["Location"] = url
        answer.headers["Cache-Control"] = "no-store"
        return answer

    def no_such_key(self, **_name: str) -> Response:
        """``GET`` and ``HEAD /media/uploads/<name>`` for what is no key: keys are answered in ``redirect.py``."""
        raise NotFound

    def delete(self, name: str) -> Response:
        """``DELETE /media/uploads/<name>``: the owner takes a picture back."""
        trace: Trace = g.trace
        key, owner = _key_and_owner(name)
        origins.check(request.headers, self._origins)
        if self._user() != owner:
            raise NotOwner
        with trace.phase("store"):
            self._store.delete(key, request_id=trace.request_id)
        return Response(status=204)

    def limits(self) -> Response:
        """``GET /media/limits``: what a client can check before it sends."""
        answer = jsonify(
            maxBytes=self._settings.max_upload_bytes,
            maxPixels=self._settings.max_image_pixels,
            contentTypes=list(images.CONTENT_TYPES),
            field="file",
        )
        answer.headers["Cache-Control"] = "public, max-age=3600"
        return answer

    def healthz(self) -> Response:
        """``GET /healthz``: the process can answer."""
        return Response("ok\n", mimetype="text/plain", headers={"Cache-Control": "no-store"})

    def readyz(self) -> Response:
        """``GET /readyz``: an upload could succeed now, or what stands in its way."""
        parts = self._readiness.check()
        answer = jsonify(parts)
        answer.status_code = 200 if all(state == "ok" for state in parts.values()) else 503
        answer.headers["Cache-Control"] = "no-store"
        return answer

    def openapi(self) -> Response:
        """``GET /openapi.json``: all of this, for programs."""
        return Response(self._openapi, mimetype="application/json", headers={"Cache-Control": "public, max-age=3600"})

    def _user(self) -> str:
        """The id of the user whose session the request carries; asks the backend."""
        trace: Trace = g.trace
        cookie = request.environ.get("HTTP_COOKIE", "")
        if "\n" in cookie:  # how our servers tell several Cookie headers from one (see server.py)
            raise BadRequest("Send one Cookie header, with all cookies in it.")
        if not cookie.strip():
            raise Unauthenticated
        with trace.phase("backend"):
            trace.user = self._backend.user(cookie, trace.request_id)
        return trace.user


def _key_and_owner(name: str) -> tuple[str, str]:
    """The requested key and the user in it. Raises NotFound for a key that this service cannot have minted."""
    key = f"uploads/{name}"
    owner = keys.owner(key)
    if owner is None:
        raise NotFound
    return key, owner
