"""The HTTP interface as an OpenAPI 3.1 document, made from the code that it describes.

Statuses, codes and sentences come from the refusals; patterns, types, limits and CORS headers from where they are enforced.
What is written by hand here is held to the routes by ``tests/test_docs.py``, and to a running service by
``tests/e2e/test_openapi.py``.
"""

import inspect
from collections.abc import Sequence
from http import HTTPStatus
from itertools import groupby
from operator import attrgetter
from typing import Any

from media_storage import errors, images, keys, origins, receive
from media_storage.errors import Refusal
from media_storage.settings import Settings
from media_storage.version import __version__

Object = dict[str, Any]
"""Any object of the document."""

_KEY = "uploads/7/6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f.jpg"  # in examples
_ID = "5b0c8f2f4d0e4b1c9a6e7d3f2a1b0c9d"  # of a request, in examples

_ABOUT = """\
Takes picture uploads of signed-in users, stores them in an object store, and redirects readers to them.

Paths are exact: any other is answered with 404 `not_found`, any other method with 405 `method_not_allowed`. What the HTTP server
cannot parse gets its plain 400 or 431.

A web page may upload and delete when its origin is this service's own or one of ALLOWED_ORIGINS: another `Origin`, or none
beside `Sec-Fetch-Site: cross-site`, is answered with 403 `origin_not_allowed`."""


def document(settings: Settings) -> Object:
    """The document of a service with these settings, ready to be written as JSON."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "media-storage", "version": __version__, "description": _ABOUT, "license": {"name": "MIT", "identifier": "MIT"}},
        "servers": [{"url": settings.public_base_url}],
        "paths": {
            "/media/upload": {"post": _upload(settings, "upload"), "options": _preflight(settings, "preflightUpload")},
            "/upload": {"post": _upload(settings, "uploadShort"), "options": _preflight(settings, "preflightUploadShort")},
            "/media/uploads/{user_id}/{name}": {
                "parameters": [_segment("user_id", keys.USER_ID), _segment("name", keys.NAME)],
                "get": _read(settings, "read"),
                "head": _read(settings, "readHead"),
                "delete": _delete(settings),
                "options": _preflight(settings, "preflightDelete", errors.NotFound),
            },
            "/media/limits": {"get": _limits(settings)},
            "/healthz": {"get": _healthz(settings)},
            "/readyz": {"get": _readyz(settings)},
            "/openapi.json": {"get": _openapi(settings)},
        },
        "components": {
            "securitySchemes": {"session": _SESSION},
            "parameters": {"X-Request-ID": _REQUEST_ID},
            "headers": _HEADERS,
            "schemas": _schemas(settings),
            "responses": {kind.__name__: _problem([_sample(settings, kind)]) for kind in Refusal.__subclasses__()},
        },
    }


# --- operations ---

_ASKS_BACKEND = (errors.BadRequest, errors.Unauthenticated, errors.OriginNotAllowed, errors.BackendInvalid, errors.BackendUnavailable)
_TAKES_BODY = (errors.NotMultipart, errors.BadMultipart, errors.MissingFile, errors.MultipleFiles, errors.EmptyFile, errors.UploadTimeout)
_TAKES_PICTURE = (errors.FileTooLarge, errors.UnsupportedType, errors.InvalidImage, errors.TooManyPixels)
_HAS_LIMITS = (errors.RateLimited, errors.Overloaded, errors.ShuttingDown)


def _operation(name: str, summary: str, responses: Object, **more: object) -> Object:
    parameters = [_ref("parameters", "X-Request-ID")]
    return {"operationId": name, "summary": summary, "parameters": parameters, **more, "responses": responses}


def _upload(settings: Settings, name: str) -> Object:
    url = f"{settings.public_base_url}/media/{_KEY}"
    example = {"key": _KEY, "url": url, "contentType": "image/jpeg", "size": 48_213, "width": 1280, "height": 720}
    headers = {"Location": _required({"type": "string", "format": "uri"}), "Cache-Control": _always("no-store")}
    refused = _problems(settings, *_ASKS_BACKEND, *_TAKES_BODY, *_TAKES_PICTURE, *_HAS_LIMITS, errors.StoreUnavailable)
    return _operation(
        name,
        "Store one picture",
        {"201": _json("Stored; `Location` is `url`.", "Upload", example, headers), **refused},
        security=[{"session": []}],
        requestBody={"required": True, "content": {"multipart/form-data": _form(settings)}},
    )


def _form(settings: Settings) -> Object:
    file = {
        "type": "string",
        "minLength": 1,
        "contentMediaType": "application/octet-stream",
        "description": f"At most {settings.max_upload_bytes} bytes, which alone decide the type: name and declared type are ignored.",
    }
    schema = {
        "type": "object",
        "required": ["file"],
        "properties": {"file": file},
        "additionalProperties": {"description": f"Ignored; {receive.MAX_FIELD_BYTES} bytes in all of them together."},
        "maxProperties": 1 + receive.MAX_FIELDS,
    }
    return {"schema": schema, "encoding": {"file": {"contentType": ", ".join(images.CONTENT_TYPES)}}}


def _read(settings: Settings, name: str) -> Object:
    location = {"type": "string", "format": "uri", "examples": [f"{settings.public_bucket_url}/{_KEY}"]}
    headers = {
        "Location": _required(location),
        "Cache-Control": _always(f"public, max-age={settings.redirect_max_age_seconds}"),
        "Access-Control-Allow-Origin": _always("*"),
        "Cross-Origin-Resource-Policy": _always("cross-origin"),
        **{header: _ref("headers", header) for header in ("X-Request-ID", "X-Content-Type-Options")},
    }
    found = {"description": "The object's place; the store was not asked whether it is still there.", "headers": headers}
    return _operation(name, "Show a picture", {"302": found, **_problems(settings, errors.NotFound)})


def _delete(settings: Settings) -> Object:
    gone = {"description": "Gone, now or before. Caches, and people who saw it, may keep it.", "headers": _framed({})}
    refused = _problems(settings, *_ASKS_BACKEND, errors.NotFound, errors.NotOwner, errors.StoreUnavailable)
    return _operation("delete", "Take a picture back", {"204": gone, **refused}, security=[{"session": []}])


def _preflight(settings: Settings, name: str, *refused: type[Refusal]) -> Object:
    answers = {
        "200": {"description": "Not a preflight.", "headers": _framed({"Allow": _required({"type": "string"})})},
        "204": {"description": "The page may.", "headers": _framed({k: _always(v) for k, v in origins.PREFLIGHT.items()})},
    }
    asked = [{"name": header, "in": "header", "schema": {"type": "string"}} for header in ("Origin", "Access-Control-Request-Method")]
    return _operation(
        name,
        "What a browser asks before a page may send",
        {**answers, **_problems(settings, errors.OriginNotAllowed, *refused)},
        parameters=[_ref("parameters", "X-Request-ID"), *asked],
    )


def _limits(settings: Settings) -> Object:
    limits = {"maxBytes": settings.max_upload_bytes, "maxPixels": settings.max_image_pixels, "contentTypes": list(images.CONTENT_TYPES)}
    found = _json("In force.", "Limits", {**limits, "field": "file"}, {"Cache-Control": _always("public, max-age=3600")})
    return _operation("limits", "What a client can check before it sends", {"200": found, **_problems(settings)})


def _healthz(settings: Settings) -> Object:
    content = {"text/plain": {"schema": {"type": "string", "const": "ok\n"}}}
    well = {"description": "It can.", "headers": _framed({"Cache-Control": _always("no-store")}), "content": content}
    return _operation("healthz", "Whether the process can answer", {"200": well, **_problems(settings)})


def _readyz(settings: Settings) -> Object:
    headers = {"Cache-Control": _always("no-store")}
    ready = _json("It could.", "Readiness", {"backend": "ok", "store": "ok", "bucket": "ok"}, headers)
    not_ready = _json("The log says why not.", "Readiness", {"backend": "ok", "store": "ok", "bucket": "failed"}, headers)
    return _operation("readyz", "Whether an upload could succeed now", {"200": ready, **_problems(settings), "503": not_ready})


def _openapi(settings: Settings) -> Object:
    content = {"application/json": {"schema": {"type": "object", "required": ["openapi", "info", "paths"]}}}
    found = {"description": "OpenAPI 3.1.", "headers": _framed({"Cache-Control": _always("public, max-age=3600")}), "content": content}
    return _operation("openapi", "This document", {"200": found, **_problems(settings)})


# --- answers ---


def _json(description: str, schema: str, example: Object, headers: Object) -> Object:
    content = {"application/json": {"schema": _ref("schemas", schema), "example": example}}
    return {"description": description, "headers": _framed(headers), "content": content}


def _problems(settings: Settings, *kinds: type[Refusal]) -> Object:
    """What an operation answers that can be refused in these ways, or meet a defect, by status."""
    answers = {}
    for status, same in groupby(sorted((*kinds, errors.InternalError), key=attrgetter("status")), attrgetter("status")):
        first, *others = same
        alone = _ref("responses", first.__name__)
        answers[str(status)] = _problem([_sample(settings, kind) for kind in (first, *others)]) if others else alone
    return answers


def _sample(settings: Settings, kind: type[Refusal]) -> Refusal:
    """A refusal as a client of this service may get it."""
    values: Object = {"detail": kind.__doc__, "reason": "", "retry_after": 17, "detected": "image/gif", "allowed": [*images.CONTENT_TYPES]}
    values |= {"max_bytes": settings.max_upload_bytes, "max_pixels": settings.max_image_pixels}
    return kind(**{name: values[name] for name in inspect.signature(kind).parameters if name in values})


def _problem(refusals: Sequence[Refusal]) -> Object:
    """An answer with one of these refusals, all of the same status, as its problem document (RFC 9457)."""
    status = refusals[0].status
    schema = {
        "allOf": [_ref("schemas", "Problem"), *(_members(refusal) for refusal in refusals if refusal.extra)],
        "properties": {"status": {"const": status}, "code": {"enum": [refusal.code for refusal in refusals]}},
        "unevaluatedProperties": False,
    }
    headers = {"Cache-Control": _always("no-store")}
    if any(refusal.retry_after for refusal in refusals):
        headers["Retry-After"] = _required({"type": "integer", "minimum": 0, "description": "seconds"})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _required({"type": "string"})
    examples = {refusal.code: {"summary": type(refusal).__doc__, "value": refusal.document(_ID)} for refusal in refusals}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": _framed(headers),
        "content": {"application/problem+json": {"schema": schema, "examples": examples}},
    }


def _members(refusal: Refusal) -> Object:
    """A document with this refusal's code has the members of its own; with another code it has not."""
    members = {name: _MEMBERS[name] for name in refusal.extra}
    return {"if": {"properties": {"code": {"const": refusal.code}}}, "then": {"properties": members, "required": [*members]}}


# --- headers, parameters and schemas ---

_HEADERS = {
    "X-Request-ID": {"required": True, "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"}},
    "X-Content-Type-Options": {"required": True, "schema": {"const": "nosniff"}},
    "Vary": {"required": True, "schema": {"const": "Origin"}},
    "Access-Control-Allow-Origin": {"description": "The request's `Origin`, when it is allowed.", "schema": {"type": "string"}},
    **{name: {"description": "For allowed origins.", "schema": {"const": value}} for name, value in origins.CORS.items()},
}
_SESSION = {
    "type": "apiKey",
    "in": "cookie",
    "name": "session",
    "description": "The chat backend's session, whatever its cookies are called: the Cookie header is handed to it as it comes.",
}
_REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "Comes back, and goes to the backend and into the log. Anything but 1 to 128 visible ASCII characters is replaced.",
    "schema": {"type": "string"},
    "example": _ID,
}
_PROBLEM = {
    "type": {"const": "about:blank"},
    "title": {"type": "string"},
    "status": {"type": "integer"},
    "detail": {"type": "string", "description": "what to do, in a sentence for people"},
    "code": {"enum": sorted(kind.code for kind in Refusal.__subclasses__())},
    "requestId": {"type": "string"},
}
_CONTENT_TYPE = {"enum": list(images.CONTENT_TYPES)}
_COUNT = {"type": "integer", "minimum": 1}
_MEMBERS = {
    "maxBytes": {"type": "integer", "description": "the largest file"},
    "maxPixels": {"type": "integer", "description": "the most pixels, width times height"},
    "detected": {"type": "string", "description": "the content type that the bytes show"},
    "allowed": {"type": "array", "items": _CONTENT_TYPE},
}


def _schemas(settings: Settings) -> Object:
    uri = {"type": "string", "format": "uri"}
    key = {"type": "string", "pattern": f"^uploads/{keys.USER_ID}/{keys.NAME}$"}
    size = {**_COUNT, "maximum": settings.max_upload_bytes}
    most = {"type": "integer", "minimum": 0, "description": "0: any number"}
    types = {"type": "array", "items": _CONTENT_TYPE}
    state = {"enum": ["ok", "failed"]}
    return {
        "Upload": _whole({"key": key, "url": uri, "contentType": _CONTENT_TYPE, "size": size, "width": _COUNT, "height": _COUNT}),
        "Limits": _whole({"maxBytes": _COUNT, "maxPixels": most, "contentTypes": types, "field": {"const": "file"}}),
        "Readiness": _whole({"backend": state, "store": state, "bucket": state}),
        "Problem": {"type": "object", "required": [*_PROBLEM], "properties": _PROBLEM},
    }


def _whole(members: Object) -> Object:
    """An object that has exactly these members."""
    return {"type": "object", "required": [*members], "properties": members, "additionalProperties": False}


def _ref(kind: str, name: str) -> Object:
    return {"$ref": f"#/components/{kind}/{name}"}


def _segment(name: str, pattern: str) -> Object:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": f"^{pattern}$"}}


def _required(schema: Object) -> Object:
    return {"required": True, "schema": schema}


def _always(value: str) -> Object:
    return _required({"type": "string", "const": value})


def _framed(headers: Object) -> Object:
    """These headers and those of every answer but a redirect."""
    return {**headers, **{name: _ref("headers", name) for name in _HEADERS}}
