"""The application behind its WSGI interface, with a backend and a store that are not there: nothing here needs a network."""

import io
import json
import logging
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from media_storage import auth, create_app, ops, receive, settings

UUID4 = "6f0c1d2e-3a4b-4c5d-8e9f-0a1b2c3d4e5f"
KEY = f"uploads/7/{UUID4}.jpg"
PUBLIC = "https://cdn.example/pictures"
PAGE = "https://chat.example"
MULTIPART = "multipart/form-data; boundary=B"
MAX_BYTES = 2 * 1_048_576
UPLOADS = ["/media/upload", "/upload"]

Logged = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def closed_ports() -> Iterator[tuple[int, int]]:
    """Two ports that are taken, and refuse every connection."""
    with socket.socket() as one, socket.socket() as other:
        for sock in (one, other):
            sock.bind(("127.0.0.1", 0))  # and never listens
        yield one.getsockname()[1], other.getsockname()[1]


@pytest.fixture
def configured(closed_ports: tuple[int, int]) -> settings.Settings:
    """What is required, and what shows in answers set to what is not its default."""
    environ = {
        "PUBLIC_BASE_URL": "https://media.example",
        "BACKEND_VERIFY_URL": f"http://127.0.0.1:{closed_ports[0]}/auth/me",
        "MINIO_ENDPOINT": f"http://127.0.0.1:{closed_ports[1]}",
        "MINIO_PUBLIC_ENDPOINT": PUBLIC,
        "MINIO_ACCESS_KEY": "access",
        "MINIO_SECRET_KEY": "canary-secret",
        "MAX_UPLOAD_MB": "2",
        "ALLOWED_ORIGINS": PAGE,
        "REDIRECT_MAX_AGE_SECONDS": "1234",
    }
    return settings.load(environ, dotenv=Path("no such file"))


@pytest.fixture
def app(configured: settings.Settings) -> Flask:
    return create_app(configured)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Keeps no cookies: each test says what it sends."""
    return app.test_client(use_cookies=False)


def problem(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The problem document of a refusal, which is whole and says nothing of this machine."""
    document: dict[str, Any] = json.loads(answer.data)
    assert (answer.status_code, document["code"]) == (status, code)
    assert answer.mimetype == "application/problem+json"
    assert document["type"] == "about:blank"
    assert document["title"] == HTTPStatus(status).phrase
    assert document["status"] == status
    assert document["detail"].endswith(".")
    assert document["requestId"] == answer.headers["X-Request-ID"]
    assert not re.search(r"127\.0\.0\.1|canary|Traceback|\.py|media_storage", answer.text)
    return document


class Untouched(io.RawIOBase):
    """A body that must not be read."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: object) -> NoReturn:
        raise AssertionError("the body was read")


def post(
    client: FlaskClient, path: str = "/media/upload", *, content_type: str = MULTIPART, length: int = 1000, **headers: str
) -> TestResponse:
    """An upload whose body must not be read."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    # In the environment, since the client would write a multipart body, and a boundary that may be too long.
    environ: dict[str, Any] = {"wsgi.input": Untouched(), "CONTENT_LENGTH": str(length), "CONTENT_TYPE": content_type}
    return client.post(path, headers=given, environ_overrides=environ)


def test_creating_it_needs_no_network(configured: settings.Settings) -> None:
    """Nothing is asked of the backend or the store before somebody asks for an upload or for readiness."""
    with socket.create_server(("127.0.0.1", 0)) as backend, socket.create_server(("127.0.0.1", 0)) as store:
        urls = [f"http://127.0.0.1:{sock.getsockname()[1]}" for sock in (backend, store)]
        client = create_app(configured.model_copy(update={"backend_verify_url": urls[0], "minio_endpoint": urls[1]})).test_client()
        for path in ("/healthz", "/media/limits", f"/media/{KEY}", "/nowhere"):
            client.get(path)
        for sock in (backend, store):
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.accept()


def test_two_in_one_process(configured: settings.Settings) -> None:
    """Each application has the settings that it was made with; nothing is shared between them."""
    other = configured.model_copy(update={"minio_public_endpoint": "https://other.example", "max_upload_mb": 1})
    one, two = (create_app(each).test_client() for each in (configured, other))
    assert one.get(f"/media/{KEY}").headers["Location"].startswith(PUBLIC)
    assert two.get(f"/media/{KEY}").headers["Location"].startswith("https://other.example/")
    assert (one.get("/media/limits").json or {})["maxBytes"] != (two.get("/media/limits").json or {})["maxBytes"]


# --- on every answer ---

EVERY = [
    ("GET", "/healthz", 200),
    ("GET", "/readyz", 503),
    ("GET", "/media/limits", 200),
    ("GET", "/openapi.json", 200),
    ("GET", f"/media/{KEY}", 302),
    ("HEAD", f"/media/{KEY}", 302),
    ("DELETE", f"/media/{KEY}", 401),
    ("POST", "/media/upload", 415),
    ("POST", "/upload", 415),
    ("GET", "/media/upload", 405),
    ("GET", "/", 404),
    ("GET", "/media/..", 404),
    ("PUT", f"/media/{KEY}", 405),
    ("OPTIONS", "/media/upload", 200),
    ("BREW", "/nowhere", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), EVERY)
def test_every_answer_is_framed(client: FlaskClient, method: str, path: str, status: int) -> None:
    """Whatever is answered carries a request id, forbids sniffing, and says how long it is."""
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert answer.headers["Content-Length"] == str(len(answer.data))
    assert re.fullmatch(r"[\x21-\x7e]{1,128}", answer.headers["X-Request-ID"])
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(("method", "path", "status"), EVERY)
def test_a_callers_id_comes_back(client: FlaskClient, method: str, path: str, status: int) -> None:
    """The id that a caller gives is in the answer, and in a refusal's document."""
    answer = client.open(path, method=method, headers={"X-Request-ID": "from-the-caller"})
    assert answer.status_code == status
    assert answer.headers.getlist("X-Request-ID") == ["from-the-caller"]
    if answer.mimetype == "application/problem+json" and method != "HEAD":
        assert (answer.get_json() or {})["requestId"] == "from-the-caller"


@pytest.mark.parametrize("offered", ["", "a b", "x" * 129, "caf\xe9", "a\tb"])
def test_an_unusable_id_is_replaced(client: FlaskClient, offered: str) -> None:
    """What could not stand in a header or a log is not echoed; every request has an id of its own."""
    ids = [client.get("/healthz", headers={"X-Request-ID": offered}).headers["X-Request-ID"] for _ in range(2)]
    assert offered not in ids
    assert ids[0] != ids[1]


# --- what is not there ---


@pytest.mark.parametrize("path", ["/", "/media", "/media/", "/media/upload/", "/upload/", "/healthz/", "/static/x", "/Media/upload"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
def test_unknown_paths(client: FlaskClient, path: str, method: str) -> None:
    """Paths are exact: another one is 404, with any method, and is not redirected."""
    problem(client.open(path, method=method), 404, "not_found")


@pytest.mark.parametrize(
    "path", ["//media/upload", f"//media/{KEY}", "//evil.example/media/upload", "///healthz", "/./healthz", "/media/../healthz"]
)
def test_paths_are_not_tidied(client: FlaskClient, path: str) -> None:
    """A path that another one could be made of is 404 too; what a server takes for a host goes nowhere."""
    answer = client.get("/", environ_overrides={"PATH_INFO": path, "REQUEST_URI": path, "RAW_URI": path})
    problem(answer, 404, "not_found")
    assert "Location" not in answer.headers


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/media/upload", {"POST", "OPTIONS"}),
        ("/upload", {"POST", "OPTIONS"}),
        (f"/media/{KEY}", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        ("/media/limits", {"GET", "HEAD", "OPTIONS"}),
        ("/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("/readyz", {"GET", "HEAD", "OPTIONS"}),
        ("/openapi.json", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_other_methods(client: FlaskClient, path: str, allowed: set[str]) -> None:
    """A method that a path does not have is 405, and Allow names exactly those that it has."""
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} - allowed:
        answer = client.open(path, method=method)
        problem(answer, 405, "method_not_allowed")
        assert set(answer.headers["Allow"].split(", ")) == allowed


# --- reading ---


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("key", [KEY, f"uploads/alice.b_c-9/{UUID4}.png", f"uploads/a../{UUID4}.webp", f"uploads/{'x' * 128}/{UUID4}.jpg"])
def test_a_redirect(client: FlaskClient, method: str, key: str) -> None:
    """A key is answered with its place below the public endpoint, which any page may show and browsers may remember."""
    answer = client.open(f"/media/{key}", method=method)
    assert answer.status_code == 302
    assert answer.headers.getlist("Location") == [f"{PUBLIC}/irc-media/{key}"]
    assert answer.headers["Cache-Control"] == "public, max-age=1234"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    assert "Set-Cookie" not in answer.headers
    assert answer.data == b""


@pytest.mark.parametrize("origin", [PAGE, "https://evil.example", "null"])
def test_a_redirect_is_the_same_for_every_page(client: FlaskClient, origin: str) -> None:
    """Caches may share it: no page's origin or credentials change it."""
    answer = client.get(f"/media/{KEY}", headers={"Origin": origin, "Sec-Fetch-Site": "cross-site", "Cookie": "session=alice"})
    assert answer.status_code == 302
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("query", ["?", "?response-content-type=text/html", "?a=%0d%0aX:y", "?//evil.example", "?%2e%2e", "?a?b#c"])
def test_the_query_goes_nowhere(client: FlaskClient, query: str) -> None:
    """Nothing behind the question mark reaches the Location, nor keeps the picture from being shown."""
    answer = client.get(f"/media/{KEY}{query}")
    assert (answer.status_code, answer.headers["Location"]) == (302, f"{PUBLIC}/irc-media/{KEY}")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "evil.example/x", "a b", "[::1", "", "\xe4", "evil.example\\@x"])
def test_the_host_goes_nowhere(client: FlaskClient, host: str) -> None:
    """No Host header, however malformed, is in an answer, moves a redirect or is a defect."""
    for path in (f"/media/{KEY}", f"/media//{KEY}", "/media", "/upload/"):
        forwarded = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher", "Forwarded": "host=evil.example"}
        answer = client.get(path, headers=forwarded, environ_overrides={"HTTP_HOST": host})
        assert answer.status_code in (302, 400, 404)
        assert answer.headers.get("Location", PUBLIC).startswith(PUBLIC)
        assert "evil" not in f"{answer.headers}{answer.text}"


HOSTILE = [
    f"uploads/../{UUID4}.jpg",
    f"uploads/./{UUID4}.jpg",
    f"uploads/7/../8/{UUID4}.jpg",
    f"../media/{KEY}",
    f"uploads/../{KEY}",
    f"uploads/%2e%2e/{UUID4}.jpg",
    f"uploads/%2e%2e%2f{UUID4}.jpg",
    f"uploads/%252e%252e/{UUID4}.jpg",
    f"uploads/7%2F{UUID4}.jpg",
    f"uploads%2F7%2F{UUID4}.jpg",
    f"uploads/7%5C{UUID4}.jpg",
    f"uploads/%37/{UUID4}.jpg",
    f"%75ploads/7/{UUID4}.jpg",
    f"uploads/7/{UUID4}%2ejpg",
    f"uploads/7/{UUID4}.jpg%3Fresponse-content-type=text/html",
    f"uploads/7/{UUID4}.jpg%3f",
    f"uploads/7/{UUID4}.jpg%23",
    f"uploads/7/{UUID4}.jpg%00",
    f"uploads/7/{UUID4}.jpg%0A",
    f"uploads/7/{UUID4}.jpg%0d%0aSet-Cookie:%20a=b",
    f"uploads/7/{UUID4}.jpg%20",
    f"uploads/7/{UUID4}.jpg%ff",
    f"uploads/7/{UUID4}.jpg%E2%80%A8",
    f"uploads/%d9%a3/{UUID4}.jpg",
    f"uploads/7/{UUID4}.jpg/",
    f"uploads/7/{UUID4}.jpg//",
    f"uploads/7/{UUID4}.jpg;a=b",
    f"uploads//{UUID4}.jpg",
    f"uploads//7/{UUID4}.jpg",
    f"uploads/7//{UUID4}.jpg",
    f"uploads/7/8/{UUID4}.jpg",
    f"/{KEY}",
    f"//{KEY}",
    "/evil.example/a",
    f"/evil.example/{KEY}",
    f"https://evil.example/{KEY}",
    f"https:/evil.example/{KEY}",
    f"\\evil.example/{KEY}",
    f"@evil.example/{KEY}",
    f"private/7/{UUID4}.jpg",
    f"Uploads/7/{UUID4}.jpg",
    f"UPLOADS/7/{UUID4}.JPG",
    f"uploads/7/{UUID4.upper()}.jpg",
    f"uploads/7/{UUID4}.JPG",
    f"uploads/7/{UUID4}.jpeg",
    f"uploads/7/{UUID4}.svg",
    f"uploads/7/{UUID4}",
    f"uploads/7/{UUID4[:-1]}.jpg",
    "uploads/7/6f0c1d2e-3a4b-1c5d-8e9f-0a1b2c3d4e5f.jpg",
    f"uploads/{'x' * 129}/{UUID4}.jpg",
    f"uploads/-7/{UUID4}.jpg",
    "uploads/",
    "uploads",
    "uploads/7/",
    "uploads/" + "x/" * 2000,
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("key", HOSTILE, ids=lambda key: key[:60])
def test_a_key_that_nobody_minted(client: FlaskClient, method: str, key: str) -> None:
    """However a key is spelled that this service could not have minted, there is nothing there and no redirect."""
    answer = client.open(f"/media/{key}", method=method, headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "Location" not in answer.headers
    assert "Set-Cookie" not in answer.headers
    if method != "HEAD":
        problem(answer, 404, "not_found")
        assert "evil" not in f"{answer.headers}{answer.text}"


@pytest.mark.parametrize("end", ["\n", "\r\nSet-Cookie: a=b", "\0", "?x", "#x", " ", "\x85", "%00"], ids=ascii)
def test_a_key_that_a_server_decoded(client: FlaskClient, end: str) -> None:
    """Where a server hands on only the decoded path, a character too many is still nobody's key."""
    raw = {"PATH_INFO": f"/media/{KEY}{end}", "REQUEST_URI": "", "RAW_URI": ""}
    answer = client.get("/", environ_overrides=raw)
    problem(answer, 404, "not_found")
    assert "Location" not in answer.headers


# --- the order of an upload's refusals ---


@pytest.mark.parametrize("path", UPLOADS)
def test_a_body_that_is_not_multipart(client: FlaskClient, path: str) -> None:
    """The first question: 415, whatever else is wrong, and without a look at the body."""
    for content_type in (
        "",
        "image/jpeg",
        "application/json",
        "multipart/mixed; boundary=B",
        "application/x-www-form-urlencoded",
        "\xff",
        ";",
    ):
        answer = post(client, path, content_type=content_type, length=10**12, Origin="https://evil.example")
        problem(answer, 415, "not_multipart")


@pytest.mark.parametrize("path", UPLOADS)
def test_a_length_that_cannot_fit(client: FlaskClient, path: str) -> None:
    """The second: 413 with the limit, before any of the body is read."""
    for length in (MAX_BYTES + 1_048_576, 10**12, 2**64):
        answer = post(client, path, length=length, Origin="https://evil.example")
        document = problem(answer, 413, "file_too_large")
        assert document["maxBytes"] == MAX_BYTES
        assert "2 MB" in document["detail"]


@pytest.mark.parametrize("path", UPLOADS)
def test_a_length_that_may_fit(client: FlaskClient, path: str) -> None:
    """A file of exactly the limit fits, with its multipart dressing and the fields that are allowed beside it."""
    for length in (MAX_BYTES + 300, MAX_BYTES + 65_536 + 4096):
        problem(post(client, path, length=length), 401, "unauthenticated")


@pytest.mark.parametrize("path", UPLOADS)
@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}])
def test_an_upload_from_another_site(client: FlaskClient, path: str, headers: dict[str, str]) -> None:
    """The third: 403, before anybody is asked about the session; the sentence tells what to set."""
    answer = post(client, path, Cookie="session=alice", **headers)
    assert "ALLOWED_ORIGINS" in problem(answer, 403, "origin_not_allowed")["detail"]
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("path", UPLOADS)
@pytest.mark.parametrize("headers", [{}, {"Cookie": ""}, {"Cookie": " "}, {"Origin": PAGE}, {"Origin": "https://media.example"}])
def test_an_upload_without_a_session(client: FlaskClient, path: str, headers: dict[str, str]) -> None:
    """The fourth: 401 without a cookie, and the backend, which is not there, is not asked."""
    problem(post(client, path, **headers), 401, "unauthenticated")


@pytest.mark.parametrize("path", UPLOADS)
def test_an_upload_while_the_backend_is_away(client: FlaskClient, path: str) -> None:
    """With a cookie it is asked: an outage is 503 with a time to wait, never a sign-out, and the body is not read."""
    answer = post(client, path, Cookie="session=alice")
    problem(answer, 503, "backend_unavailable")
    assert re.fullmatch(r"[1-9]\d*", answer.headers["Retry-After"])


def test_a_large_upload_without_a_disk(client: FlaskClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is no temporary file to be had, it is told so before its body is read."""
    monkeypatch.setattr(auth.Backend, "user", lambda *_: "7")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    problem(post(client, length=receive.MEMORY_BYTES + 1, Cookie="session=alice"), 503, "overloaded")


def test_several_cookie_headers(client: FlaskClient) -> None:
    """What the servers hand on of several Cookie headers is refused, and not asked about."""
    environ = {"wsgi.input": Untouched(), "CONTENT_LENGTH": "1000", "CONTENT_TYPE": MULTIPART, "HTTP_COOKIE": "a=1\nb=2"}
    problem(client.post("/media/upload", environ_overrides=environ), 400, "bad_request")


def test_refusals_are_not_cached(client: FlaskClient) -> None:
    """An answer to one request is not kept for another."""
    assert "no-store" in post(client).headers["Cache-Control"]


# --- the order of a deletion's refusals ---


def test_deleting_what_is_not_there(client: FlaskClient) -> None:
    """The first question: 404, whoever asks."""
    answer = client.delete("/media/uploads/7/x.jpg", headers={"Origin": "https://evil.example", "Cookie": "a=b"})
    problem(answer, 404, "not_found")


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}])
def test_deleting_from_another_site(client: FlaskClient, headers: dict[str, str]) -> None:
    """The second: 403, with or without a session."""
    for cookie in ({}, {"Cookie": "session=alice"}):
        problem(client.delete(f"/media/{KEY}", headers=headers | cookie), 403, "origin_not_allowed")


def test_deleting_without_a_session(client: FlaskClient) -> None:
    """The third: 401 without a cookie, and 503 with one while the backend is away."""
    problem(client.delete(f"/media/{KEY}", headers={"Origin": PAGE}), 401, "unauthenticated")
    problem(client.delete(f"/media/{KEY}", headers={"Cookie": "session=alice"}), 503, "backend_unavailable")


# --- CORS ---


@pytest.mark.parametrize("origin", [PAGE, "https://media.example"])
@pytest.mark.parametrize("path", ["/media/upload", f"/media/{KEY}"])
def test_preflights_of_allowed_pages(client: FlaskClient, origin: str, path: str) -> None:
    """A page of the allow-list, or of the service itself, learns that it may."""
    answer = client.options(path, headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert (answer.status_code, answer.data) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert set(answer.headers["Access-Control-Allow-Methods"].split(", ")) == {"POST", "DELETE"}
    assert set(answer.headers["Access-Control-Allow-Headers"].split(", ")) == {"Content-Type", "X-Request-ID"}
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"{PAGE}.evil.example", f"{PAGE}:8443", "http://chat.example"])
def test_preflights_of_other_pages(client: FlaskClient, origin: str) -> None:
    """Any other page is refused and granted nothing."""
    answer = client.options("/media/upload", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    problem(answer, 403, "origin_not_allowed")
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/media/upload"), ("DELETE", f"/media/{KEY}"), ("GET", "/nowhere"), ("PUT", "/upload")]
)
def test_an_allowed_page_can_read_refusals(client: FlaskClient, method: str, path: str) -> None:
    """CORS headers stand on refusals too, with credentials, and expose what a page needs."""
    answer = client.open(path, method=method, headers={"Origin": PAGE})
    assert answer.status_code >= 400
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert set(answer.headers["Access-Control-Expose-Headers"].split(", ")) == {"Location", "X-Request-ID", "Retry-After"}
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("origin", [None, "https://evil.example", "null"])
def test_another_page_cannot(client: FlaskClient, origin: str | None) -> None:
    """Nothing is granted to anyone else, and caches keep the two apart."""
    answer = client.get("/media/limits", headers={} if origin is None else {"Origin": origin})
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]
    assert "Origin" in answer.headers["Vary"]


# --- what clients and operators ask ---


def test_limits(client: FlaskClient, configured: settings.Settings) -> None:
    """What may be uploaded, as configured, and for an hour."""
    answer = client.get("/media/limits")
    assert answer.get_json() == {
        "maxBytes": MAX_BYTES,
        "maxPixels": configured.max_image_pixels,
        "contentTypes": ["image/jpeg", "image/png", "image/webp"],
        "field": "file",
    }
    assert answer.mimetype == "application/json"
    assert "max-age=3600" in answer.headers["Cache-Control"]


def test_openapi(client: FlaskClient) -> None:
    """The document, which clients and caches may keep as long as the limits that stand in it. No backend or store is asked."""
    answer = client.get("/openapi.json")
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert answer.headers["Cache-Control"] == "public, max-age=3600"
    assert (answer.get_json() or {})["openapi"].startswith("3.1.")
    assert client.head("/openapi.json").data == b""


def test_healthz(client: FlaskClient) -> None:
    """The process can answer, whatever is away around it."""
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert "no-store" in answer.headers["Cache-Control"]


def test_readyz(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    """While backend and store are away no upload can succeed: 503 says which, and only the log says why."""
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.get_json() == {"backend": "failed", "store": "failed", "bucket": "failed"}
    assert "no-store" in answer.headers["Cache-Control"]
    assert "refused" in caplog.text


# --- defects, and the log ---


@pytest.mark.parametrize("make", [RuntimeError, KeyError, OSError, RecursionError, MemoryError, AssertionError])
def test_a_defect(app: Flask, caplog: pytest.LogCaptureFixture, make: Callable[[str], Exception]) -> None:
    """A defect is a 500 like any other refusal: nothing of it is told, and its stack is in the log under the request's id."""

    def broken_view() -> NoReturn:
        raise make("canary of 127.0.0.1")

    app.add_url_rule("/broken", view_func=broken_view)
    answer = app.test_client().get("/broken", headers={"X-Request-ID": "request-1", "Origin": PAGE})
    problem(answer, 500, "internal_error")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "request-1" in record.getMessage()
    assert "in broken_view" in caplog.text
    assert record.levelno == logging.ERROR


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    """Gives the entries of requests, as JSON has them."""
    caplog.set_level(logging.INFO)
    return lambda: [json.loads(ops.JsonFormatter().format(record)) for record in caplog.records if record.name == "media_storage.request"]


@pytest.mark.parametrize(
    ("outcome", "method", "path", "headers"),
    [
        ("not_found", "GET", "/nowhere", {}),
        ("method_not_allowed", "PUT", "/upload", {}),
        ("not_multipart", "POST", "/upload", {"Content-Type": "text/plain"}),
        ("unauthenticated", "DELETE", f"/media/{KEY}", {}),
        ("backend_unavailable", "DELETE", f"/media/{KEY}", {"Cookie": "session=alice"}),
        ("origin_not_allowed", "OPTIONS", "/upload", {"Origin": "null", "Access-Control-Request-Method": "POST"}),
    ],
)
def test_a_request_is_one_line(
    client: FlaskClient, logged: Logged, outcome: str, *, method: str, path: str, headers: dict[str, str]
) -> None:
    """Each request leaves one line, with its id, its outcome code and its milliseconds."""
    client.open(path, method=method, headers={"X-Request-ID": "request-1", **headers})
    (line,) = logged()
    assert (line["id"], line["outcome"]) == ("request-1", outcome)
    assert line["ms"] >= 0
    assert path in line["message"]


def test_an_outage_leaves_its_reason(client: FlaskClient, logged: Logged) -> None:
    """The line of a request that the backend's outage refused says what was wrong and how long it took."""
    post(client, Cookie="session=alice")
    (line,) = logged()
    assert "refused" in line["reason"]
    assert line["phases"]["backend"] >= 0


def test_no_secret_is_logged(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    """Neither cookies nor the store's secret nor a query are in any line, at the most talkative level."""
    caplog.set_level(logging.DEBUG)
    headers = {"Cookie": "session=canary-cookie", "Authorization": "Bearer canary-token", "Origin": PAGE}
    for method, path in (("POST", "/upload"), ("DELETE", f"/media/{KEY}"), ("GET", f"/media/{KEY}"), ("GET", "/readyz"), ("GET", "/x")):
        client.open(f"{path}?token=canary-query", method=method, headers=headers, content_type=MULTIPART)
    text = caplog.text + "".join(ops.JsonFormatter().format(record) for record in caplog.records)
    assert "canary" not in text
