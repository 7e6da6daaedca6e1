"""The middleware that answers reads: what it says, and what it leaves to the application behind it."""

import json
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import pytest

from media_storage import ops
from media_storage.metrics import Board
from media_storage.redirect import Redirects, written_plainly

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

UUID4 = "6f0c1d2e-3a4b-4c5d-8e9f-0a1b2c3d4e5f"
KEY = f"uploads/7/{UUID4}.jpg"
BUCKET_URL = "https://cdn.example/pictures/irc-media"

Headers = list[tuple[str, str]]
Ask = Callable[..., tuple[str, Headers, bytes]]


def behind(environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
    """The application that the middleware stands in front of."""
    start_response("418 I'm a teapot", [("X-Path", environ["PATH_INFO"])])
    return [b"behind"]


@pytest.fixture
def board() -> Board:
    return Board(1)


@pytest.fixture
def ask(board: Board) -> Ask:
    """Puts one request to the middleware, with the environment that a server makes of it; gives status line, headers and body."""
    application = Redirects(behind, BUCKET_URL, 1234, board.meter())

    def ask(target: str = f"/media/{KEY}", method: str = "GET", uri: str = "RAW_URI", **environ: str) -> tuple[str, Headers, bytes]:
        said: list[tuple[str, Headers]] = []
        path = re.sub(r"^[a-z]+://[^/]*", "", target).partition("?")[0]
        decoded = unquote_to_bytes(path).decode("latin-1")
        whole = {"REQUEST_METHOD": method, "PATH_INFO": decoded, uri: target, "HTTP_HOST": "evil.example", **environ}
        body = b"".join(application(whole, lambda status, headers, _=None: said.append((status, headers))))  # type: ignore[arg-type]
        ((status, headers),) = said
        return status, headers, body

    return ask


def test_exactly_this_is_said(ask: Ask) -> None:
    """The same to GET and HEAD: nothing more, such as a type of what is not there, and nothing twice."""
    for method in ("GET", "HEAD"):
        status, headers, body = ask(method=method, HTTP_X_REQUEST_ID="request-1")
        assert (status, body) == ("302 Found", b"")
        assert sorted(headers) == [
            ("Access-Control-Allow-Origin", "*"),
            ("Cache-Control", "public, max-age=1234"),
            ("Content-Length", "0"),
            ("Cross-Origin-Resource-Policy", "cross-origin"),
            ("Location", f"{BUCKET_URL}/{KEY}"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Request-ID", "request-1"),
        ]


def test_one_answer_is_not_the_next(ask: Ask) -> None:
    """Each has its own place and id; a server may change the list that it was given."""
    for user in ("7", "bob-8", "7"):
        _, headers, _ = ask(f"/media/uploads/{user}/{UUID4}.png", HTTP_X_REQUEST_ID=f"by-{user}")
        assert len(headers) == 7
        assert dict(headers)["Location"] == f"{BUCKET_URL}/uploads/{user}/{UUID4}.png"
        assert dict(headers)["X-Request-ID"] == f"by-{user}"
        headers.clear()


@pytest.mark.parametrize("offered", ["", "a b", "x" * 129, "a\xe9", "a\tb", "a,b c", "a\n"])
def test_an_unusable_id_is_replaced(ask: Ask, offered: str) -> None:
    """As everywhere: by a fresh one. One that can be used comes back."""
    made = {dict(ask(HTTP_X_REQUEST_ID=offered)[1])["X-Request-ID"] for _ in range(2)} | {dict(ask()[1])["X-Request-ID"]}
    assert len(made) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)
    assert dict(ask(HTTP_X_REQUEST_ID="x" * 128)[1])["X-Request-ID"] == "x" * 128


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
@pytest.mark.parametrize("user", ["7", "a.b_c-9", "a..", "x" * 128])
def test_every_key_that_may_be_minted(ask: Ask, user: str, extension: str) -> None:
    """Whoever's it is, and whatever its type."""
    status, headers, _ = ask(f"/media/uploads/{user}/{UUID4}.{extension}")
    assert (status, dict(headers)["Location"]) == ("302 Found", f"{BUCKET_URL}/uploads/{user}/{UUID4}.{extension}")


@pytest.mark.parametrize("uri", ["RAW_URI", "REQUEST_URI"])
@pytest.mark.parametrize("end", ["?", "?a=b", "?%2e%2e/%0d%0a", "?//evil.example", "?response-content-type=text/html"])
def test_the_query_is_nobodys_concern(ask: Ask, end: str, uri: str) -> None:
    """It neither reaches the Location nor keeps a picture from being shown, encoded or not, whichever server says it."""
    status, headers, _ = ask(f"/media/{KEY}{end}", uri=uri)
    assert (status, dict(headers)["Location"]) == ("302 Found", f"{BUCKET_URL}/{KEY}")


def test_an_absolute_target_is_a_path_with_a_host(ask: Ask) -> None:
    """Which RFC 9112 has servers accept; its host goes where the Host header goes: nowhere."""
    status, headers, _ = ask(f"http://evil.example/media/{KEY}")
    assert (status, dict(headers)["Location"]) == ("302 Found", f"{BUCKET_URL}/{KEY}")


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get", "GETS", ""])
def test_other_methods_are_for_the_application(ask: Ask, method: str) -> None:
    """Such as a deletion, and what is no method: the answer is all the application's."""
    status, headers, body = ask(method=method)
    assert (status, headers, body) == ("418 I'm a teapot", [("X-Path", f"/media/{KEY}")], b"behind")


NOT_KEYS = [
    "/",
    "/media",
    "/media/",
    "/media/limits",
    "/media/upload",
    "/upload",
    "/healthz",
    f"/{KEY}",
    KEY,
    f"media/{KEY}",
    f"/Media/{KEY}",
    f"/media/media/{KEY}",
    f"/media//{KEY}",
    f"//media/{KEY}",
    f"///media/{KEY}",
    f"/x/media/{KEY}",
    f"/media/{KEY}/",
    f"/media/{KEY};a",
    f"/media/x{KEY}",
    f"/media/{KEY[:-4]}",
    f"/media/{KEY[:-4]}.gif",
    f"/media/{KEY.upper()}",
    f"/media/private/7/{UUID4}.jpg",
    f"/media/uploads/../{UUID4}.jpg",
    f"/media/uploads//{UUID4}.jpg",
    f"/media/uploads/7/8/{UUID4}.jpg",
    f"/media/uploads/{'x' * 129}/{UUID4}.jpg",
    f"/media/uploads/\u0667/{UUID4}.jpg",
    f"/media/{KEY.replace('/', '%2F')}",
    f"/media/{KEY.replace('7', '%37')}",
    f"/%6dedia/{KEY}",
    f"/media/{KEY}%00",
    f"/media/{KEY}%0a",
    f"/media/{KEY}%3Fx",
    f"http://ev%69l.example/media/{KEY}",
    f"*{KEY}",
]


@pytest.mark.parametrize("target", NOT_KEYS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_no_key_is_for_the_application(ask: Ask, method: str, target: str) -> None:
    """Also what would be one if it were decoded, or tidied, which servers do before they hand it on."""
    assert ask(target, method)[0] == "418 I'm a teapot"


@pytest.mark.parametrize("end", ["\n", "\r\nSet-Cookie: a=b", "\0", " ", "\x85", "%00"], ids=ascii)
def test_a_path_that_a_server_decoded(ask: Ask, end: str) -> None:
    """Where nothing tells how it was written, a character too many is still no key."""
    assert ask("", PATH_INFO=f"/media/{KEY}{end}")[0] == "418 I'm a teapot"
    assert ask("", PATH_INFO=f"/media/{KEY}")[0] == "302 Found"


@pytest.mark.parametrize(
    ("environ", "plain"),
    [
        ({}, True),
        ({"RAW_URI": "/a/b?c=%20//"}, True),
        ({"RAW_URI": "/a//b"}, True),
        ({"RAW_URI": "//a"}, False),
        ({"RAW_URI": "/a%62"}, False),
        ({"REQUEST_URI": "//a"}, False),
        ({"REQUEST_URI": "/%61"}, False),
        ({"RAW_URI": "", "REQUEST_URI": "/%61"}, False),
        ({"RAW_URI": "//a", "REQUEST_URI": "/a"}, False),
    ],
)
def test_written_plainly(environ: dict[str, str], *, plain: bool) -> None:
    """Nothing encoded before the query, and no second slash at the start, in whichever variable the server keeps the target."""
    assert written_plainly(environ) is plain


def test_a_redirect_is_one_line_in_the_log(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """Like any other request: status, method, path, id, outcome, milliseconds; no query. What is passed on is not logged here."""
    caplog.set_level(logging.INFO)
    ask(f"/media/{KEY}?canary", "HEAD", HTTP_X_REQUEST_ID="request-1", HTTP_COOKIE="canary")
    ask("/media/limits")
    (record,) = caplog.records
    line: dict[str, Any] = json.loads(ops.JsonFormatter().format(record))
    assert (line["logger"], line["level"], line["message"]) == ("media_storage.request", "info", f"302 HEAD /media/{KEY}")
    assert (line["id"], line["outcome"]) == ("request-1", "found")
    assert 0 <= line["ms"] < 1000
    assert set(line) == {"time", "level", "logger", "message", "id", "outcome", "ms"}


def test_redirects_are_counted(ask: Ask, board: Board) -> None:
    """And nothing else is."""
    for target in (f"/media/{KEY}", f"/media/{KEY}?a", "/media/limits", f"//media/{KEY}"):
        ask(target)
    ask(method="DELETE")
    assert [metric.samples[0].value for metric in board.collect() if metric.name == "media_storage_redirects"] == [2]
