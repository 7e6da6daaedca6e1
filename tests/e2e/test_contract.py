"""The HTTP contract, asked of the real server in front of each store."""

import contextlib
import http.client
import io
import json
import re
import socket
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

import servers
from live import STORES, Audit, Live, on_every_server
from media_storage import settings
from media_storage.errors import StoreUnavailable
from media_storage.storage import Store
from pictures import make

pytestmark = on_every_server(*STORES)

MIB = 1_048_576
KEY = re.compile(r"uploads/7/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.(jpg|png|webp)")
PART = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


def picture_of(size: int) -> bytes:
    """A PNG of exactly `size` bytes, with line breaks, hyphens and boundaries' beginnings all over it."""
    start = make.png()
    filler = b"\r\n--\r\r\n--\r\n-\n--B-"
    # The last byte is none of the filler's: cut inside it, it could end in what begins a boundary.
    return start + (filler * (size // len(filler) + 1))[: size - len(start) - 1] + b"x"


def refused(answer: requests.Response, status: int, code: str) -> dict[str, Any]:
    """Asserts what every refusal has in common, and gives its document."""
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), answer.text
    document: dict[str, Any] = answer.json()
    assert document["code"] == code
    assert document["type"] == "about:blank"
    assert document["status"] == status
    assert document["title"] == http.client.responses[status]
    assert document["detail"].endswith(".")
    assert document["requestId"] == answer.headers["X-Request-ID"]
    assert ("Retry-After" in answer.headers) == (status == 503)
    return document


@pytest.mark.parametrize(
    ("content", "content_type", "extension"),
    [
        (make.jpeg(31, 17), "image/jpeg", "jpg"),
        (make.png(31, 17), "image/png", "png"),
        (make.webp(31, 17), "image/webp", "webp"),
    ],
    ids=["jpeg", "png", "webp"],
)
def test_an_upload_is_stored_and_its_url_leads_to_it(live: Live, content: bytes, content_type: str, extension: str) -> None:
    """The round trip: 201 with the whole answer, a redirect from the URL, and the same bytes with the type of the bytes."""
    answer = live.upload(content, name="evil.html", kind="text/html")

    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert KEY.fullmatch(body["key"])
    assert body["key"].endswith(extension)
    assert body == {
        "key": body["key"],
        "url": f"{live.url}/media/{body['key']}",
        "contentType": content_type,
        "size": len(content),
        "width": 31,
        "height": 17,
    }
    assert answer.headers["Location"] == body["url"]
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"

    redirect = requests.get(body["url"], allow_redirects=False, timeout=10)
    assert redirect.status_code == 302
    assert redirect.headers["Location"] == f"{live.store.endpoint}/{servers.BUCKET}/{body['key']}"
    assert redirect.headers["Cache-Control"] == "public, max-age=86400"

    stored = requests.get(body["url"], timeout=10)
    assert stored.content == content
    assert stored.headers["Content-Type"] == content_type
    assert stored.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_a_backend_that_posts_to_the_short_path_works(live: Live) -> None:
    """`/upload` is the same handler, and a part declared application/octet-stream is fine."""
    answer = live.upload(make.jpeg(), path="/upload")
    assert answer.status_code == 201
    assert live.stored(answer.json()["key"]).content == make.jpeg()


@pytest.mark.parametrize("around", [65_536, 2 * 65_536, 10 * 65_536])
def test_bytes_are_stored_as_sent_at_every_length(live: Live, around: int) -> None:
    """No length of body around multiples of the read size changes a byte (a parser in common use adds one at some)."""
    ending = b"\r\n--B--\r\n"
    for off in range(-4, 12):
        content = picture_of(around + off - len(PART) - len(ending))
        answer = live.post(PART + content + ending)
        assert answer.status_code == 201, (off, answer.text)
        assert answer.json()["size"] == len(content)
        assert live.stored(answer.json()["key"]).content == content, off


def test_a_body_in_chunks_is_stored_as_sent(live: Live) -> None:
    """Chunked bodies work, whatever the chunks' sizes."""
    content = picture_of(300_000)
    body = PART + content + b"\r\n--B--\r\n"

    def pieces(sizes: list[int]) -> Iterator[bytes]:
        rest = io.BytesIO(body)
        while True:
            for size in sizes:
                if not (piece := rest.read(size)):
                    return
                yield piece

    for sizes in ([7, 1, 8191], [65_536], [100_000, 3]):
        answer = live.post(pieces(sizes))
        assert answer.status_code == 201, answer.text
        assert live.stored(answer.json()["key"]).content == content


@pytest.mark.parametrize("ending", [b"", b"\r\n", b"\r\n\r\n", b"\r\nan epilogue\r\n"])
def test_every_ending_of_the_closing_boundary_works(live: Live, ending: bytes) -> None:
    """Clients end the body with no line break, one, or two, and the standard allows text behind it."""
    answer = live.post(PART + make.png() + b"\r\n--B--" + ending)
    assert answer.status_code == 201, answer.text
    assert live.stored(answer.json()["key"]).content == make.png()


def test_fields_before_and_behind_the_file_are_ignored(live: Live) -> None:
    """Sixteen small fields may stand around the file."""
    fields = [b'--B\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nsome text\r\n' % number for number in range(16)]
    answer = live.post(b"".join(fields[:9]) + PART + make.png() + b"\r\n" + b"".join(fields[9:]) + b"--B--\r\n")
    assert answer.status_code == 201, answer.text
    assert live.stored(answer.json()["key"]).content == make.png()


def test_exactly_the_limit_is_allowed_and_one_byte_more_is_not(live: Live, audit: Audit) -> None:
    """10 MB means 10,485,760 bytes, whether the length was declared or not."""
    content = picture_of(10 * MIB)
    answer = live.upload(content)
    assert answer.status_code == 201
    assert live.stored(answer.json()["key"]).content == content
    document = refused(live.upload(content + b"x"), 413, "file_too_large")
    assert document["maxBytes"] == 10 * MIB
    chunked = iter([PART + content, b"x", b"\r\n--B--\r\n"])
    refused(live.post(chunked), 413, "file_too_large")
    assert audit.new_keys() == {answer.json()["key"]}


def field(name: bytes, content: bytes, filename: bytes | None = None) -> bytes:
    disposition = b'form-data; name="%s"' % name + (b'; filename="%s"' % filename if filename is not None else b"")
    return b"--B\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + content + b"\r\n"


END = b"--B--\r\n"
GOOD = field(b"file", make.png(), b"a.png")
BODIES = {
    "empty body": (b"", "bad_multipart"),
    "not what the boundary says": (b"hello world", "bad_multipart"),
    "cut in the file": (GOOD[:-40], "bad_multipart"),
    "cut before the closing boundary": (GOOD, "bad_multipart"),
    "no parts": (END, "missing_file"),
    "only a text field": (field(b"other", b"text") + END, "missing_file"),
    "a text field called file": (field(b"file", b"text") + END, "missing_file"),
    "a file in another field": (field(b"avatar", make.png(), b"a.png") + END, "missing_file"),
    "two files": (GOOD + GOOD + END, "multiple_files"),
    "a second file in another field": (GOOD + field(b"avatar", make.png(), b"b.png") + END, "multiple_files"),
    "no bytes": (field(b"file", b"", b"a.png") + END, "empty_file"),
    "no bytes and no name": (field(b"file", b"", b"") + END, "empty_file"),
    "17 fields": (field(b"f", b"x") * 17 + GOOD + END, "bad_multipart"),
    "fields of more than 64 KiB": (field(b"f", b"x" * 40_000) * 2 + GOOD + END, "bad_multipart"),
    "a part header of 70 KB": (field(b"file", make.png(), b"n" * 70_000) + END, "bad_multipart"),
    "a part without disposition": (b"--B\r\nX: y\r\n\r\ntext\r\n" + GOOD + END, "bad_multipart"),
    "an endless epilogue": (GOOD + END + b"x" * 200_000, "bad_multipart"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_not_one_file_is_refused(live: Live, audit: Audit, name: str) -> None:
    """Each way to get the body wrong has its code, and nothing is stored."""
    body, code = BODIES[name]
    refused(live.post(body), 400, code)
    assert not audit.new_keys()


def test_what_is_no_multipart_form_is_refused(live: Live) -> None:
    """Another content type, or none, is 415; a form without a usable boundary is 400."""
    for kind in ("image/png", "multipart/mixed; boundary=B", "application/json"):
        refused(live.post(make.png(), **{"Content-Type": kind}), 415, "not_multipart")
    refused(live.post(GOOD + END, **{"Content-Type": "multipart/form-data"}), 400, "bad_multipart")
    refused(live.post(GOOD + END, boundary="B" * 71), 400, "bad_multipart")


def test_what_is_none_of_the_three_types_is_refused(live: Live, audit: Audit) -> None:
    """The bytes decide, not the name or the declared type; the answer says what they are."""
    gif = io.BytesIO()
    Image.new("RGB", (5, 3)).save(gif, "GIF")
    for content, detected in ((gif.getvalue(), "image/gif"), (b"<!doctype html><script>1</script>", "text/html"), (b"\0" * 10, None)):
        document = refused(live.upload(content, name="a.png", kind="image/png"), 415, "unsupported_type")
        assert detected in (None, document["detected"])
        assert document["allowed"] == ["image/jpeg", "image/png", "image/webp"]
    assert not audit.new_keys()


def test_a_signature_without_a_picture_is_refused(live: Live, audit: Audit) -> None:
    """A header that no browser could draw is 422, and so is one that announces too many pixels."""
    refused(live.upload(make.png()[:16] + b"<script>alert(1)</script>" * 9), 422, "invalid_image")
    document = refused(live.upload(make.ihdr(20_000, 20_000).join([make.PNG_SIGNATURE, make.idat()])), 422, "too_many_pixels")
    assert document["maxPixels"] == 268_435_456
    assert not audit.new_keys()


def test_without_a_session_nothing_is_stored(live: Live, audit: Audit) -> None:
    """No cookie: 401 and the backend is not asked. A cookie that it does not know: 401."""
    asked = len(live.backend.asked)
    refused(live.upload(make.png(), cookie=None), 401, "unauthenticated")
    assert len(live.backend.asked) == asked
    refused(live.upload(make.png(), cookie="session=mallory"), 401, "unauthenticated")
    assert len(live.backend.asked) == asked + 1
    assert not audit.new_keys()


def test_the_backend_gets_the_cookie_as_it_came_and_the_request_id(live: Live) -> None:
    """Quotes, escapes and commas in a cookie are not touched; the caller's id goes along, and nothing else does."""
    cookie = 'theme="a\\054b, c"; session=alice; last=1'
    answer = live.upload(make.png(), cookie=cookie, headers={"X-Request-ID": "from-the-caller", "Authorization": "Bearer x"})
    assert answer.status_code == 201
    assert answer.headers["X-Request-ID"] == "from-the-caller"
    asked = live.backend.asked[-1]
    assert asked["Cookie"] == cookie
    assert asked["X-Request-ID"] == "from-the-caller"
    assert not {"Authorization", "Content-Type", "Content-Length"} & set(asked)


def raw(live: Live, request: bytes, seconds: float = 10) -> bytes:
    """What the server answers to these bytes, until it closes the connection or falls silent."""
    host, _, port = live.url.removeprefix("http://").partition(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=seconds) as sock:
        sock.sendall(request)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while piece := sock.recv(65_536):
                answer += piece
    return answer


def test_two_cookie_headers_are_refused(live: Live) -> None:
    """They would reach the backend as one, joined by a comma that a cookie may also contain."""
    body = GOOD + END
    answer = raw(
        live,
        b"POST /media/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        b"Cookie: session=alice\r\nCookie: session=bob\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
    )
    head, _, document = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(document)["code"] == "bad_request"


def test_another_sites_page_may_not_upload(live: Live, audit: Audit) -> None:
    """The Origin rule: exact origins only; without the header, what the browser says of the site counts."""
    for origin in ("https://evil.example", "null", "https://chat.example.evil", "http://chat.example", "https://chat.example:444"):
        refused(live.upload(make.png(), headers={"Origin": origin}), 403, "origin_not_allowed")
    refused(live.upload(make.png(), headers={"Sec-Fetch-Site": "cross-site"}), 403, "origin_not_allowed")
    assert not audit.new_keys()
    for origin in ("https://chat.example", live.url):
        answer = live.upload(make.png(), headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 201
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert answer.headers["Vary"] == "Origin"


def test_the_first_reason_to_refuse_is_the_one_given(live: Live) -> None:
    """Not multipart before too large, before the origin, before the session, before the body."""
    evil = {"Origin": "https://evil.example"}
    huge = picture_of(11 * MIB)
    refused(live.post(huge, cookie=None, **evil, **{"Content-Type": "image/png"}), 415, "not_multipart")
    refused(live.post(huge, cookie=None, **evil), 413, "file_too_large")
    refused(live.post(b"junk", cookie=None, **evil), 403, "origin_not_allowed")
    refused(live.post(b"junk", cookie=None), 401, "unauthenticated")
    refused(live.post(b"junk"), 400, "bad_multipart")


def test_the_owner_takes_a_picture_back(live: Live) -> None:
    """204, also the second time; the object is gone; others may not, and strangers are asked to sign in."""
    key = live.upload(make.png()).json()["key"]
    url = f"{live.url}/media/{key}"
    refused(requests.delete(url, timeout=10), 401, "unauthenticated")
    refused(requests.delete(url, headers={"Cookie": "session=bob"}, timeout=10), 403, "not_owner")
    evil = {"Cookie": "session=alice", "Origin": "https://evil.example"}
    refused(requests.delete(url, headers=evil, timeout=10), 403, "origin_not_allowed")
    assert live.stored(key).status_code == 200
    for _ in range(2):
        answer = requests.delete(url, headers={"Cookie": "session=alice"}, timeout=10)
        assert (answer.status_code, answer.content) == (204, b"")
    assert key not in live.store.object_keys()
    refused(requests.delete(f"{live.url}/media/uploads/7/x.png", headers=evil, timeout=10), 404, "not_found")


HOSTILE_TARGETS = [
    "/media/uploads/7/{uuid}.jpg%3Fresponse-content-type=text/html",
    "/media/uploads%2F7%2F{uuid}.jpg",
    "/media/uploads/7/{uuid}%2Ejpg",
    "/media//uploads/7/{uuid}.jpg",
    "//media/uploads/7/{uuid}.jpg",
    "/media/uploads//7/{uuid}.jpg",
    "/media//evil.example/a",
    "/media/uploads/../7/{uuid}.jpg",
    "/media/uploads/%2e%2e/{uuid}.jpg",
    "/media/uploads/7/{upper}.jpg",
    "/media/uploads/7/{uuid}.jpg/",
    "/media/uploads/7/{uuid}.jpg%00",
    "/media/uploads/7/{uuid}.jpg%0d%0aX:y",
    "/media/uploads/7/{uuid}.jpg%0a",
    "/media/uploads/7/{uuid}.jpg%ff",
    "/media/uploads/7/{uuid}.gif",
    "/media/uploads/7/{uuid}.jpg\\",
    "/media/private/7/{uuid}.jpg",
    "/media/uploads/7;a/{uuid}.jpg",
    "/media/http://evil.example/uploads/7/{uuid}.jpg",
    "/MEDIA/uploads/7/{uuid}.jpg",
]
UUID = "6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f"


@pytest.mark.parametrize("target", HOSTILE_TARGETS)
def test_a_key_that_could_not_be_minted_is_not_found(live: Live, target: str) -> None:
    """Whatever is tried, the answer is 404 and leads nowhere."""
    path = target.format(uuid=UUID, upper=UUID.upper())
    answer = raw(live, f"GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode())
    head, _, document = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 "), head
    assert b"location" not in head.lower()
    assert json.loads(document)["code"] == "not_found"


def test_the_redirect_takes_nothing_from_the_request(live: Live) -> None:
    """Neither the query nor the Host header reaches Location; HEAD answers like GET."""
    for method in (b"GET", b"HEAD"):
        target = f"/media/uploads/7/{UUID}.jpg?response-content-type=text/html".encode()
        answer = raw(live, method + b" " + target + b" HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        head = answer.partition(b"\r\n\r\n")[0].decode()
        assert head.startswith("HTTP/1.1 302 ")
        assert f"\r\nLocation: {live.store.endpoint}/{servers.BUCKET}/uploads/7/{UUID}.jpg\r\n" in head
        assert "\r\nAccess-Control-Allow-Origin: *\r\n" in head
        assert "\r\nCross-Origin-Resource-Policy: cross-origin\r\n" in head


def test_wrong_methods_and_paths(live: Live) -> None:
    """404 for what is not there, 405 with Allow for what is there otherwise."""
    refused(requests.get(f"{live.url}/nothing", timeout=10), 404, "not_found")
    for method, path, allowed in (
        ("GET", "/media/upload", "POST"),
        ("PUT", "/upload", "POST"),
        ("POST", f"/media/uploads/7/{UUID}.jpg", "DELETE"),
        ("DELETE", "/media/limits", "GET"),
    ):
        answer = requests.request(method, f"{live.url}{path}", timeout=10)
        refused(answer, 405, "method_not_allowed")
        assert allowed in answer.headers["Allow"]


def test_limits_and_health(live: Live) -> None:
    """What a client may ask before it sends, what its makers may, and what a load balancer asks."""
    limits = requests.get(f"{live.url}/media/limits", timeout=10)
    assert limits.json() == {
        "maxBytes": 10_485_760,
        "maxPixels": 268_435_456,
        "contentTypes": ["image/jpeg", "image/png", "image/webp"],
        "field": "file",
    }
    assert limits.headers["Cache-Control"] == "public, max-age=3600"
    described = requests.get(f"{live.url}/openapi.json", timeout=10)
    assert described.json()["openapi"].startswith("3.1.")
    assert described.headers["Cache-Control"] == "public, max-age=3600"
    assert requests.get(f"{live.url}/healthz", timeout=10).status_code == 200
    ready = requests.get(f"{live.url}/readyz", timeout=10)
    assert (ready.status_code, ready.json()) == (200, {"backend": "ok", "store": "ok", "bucket": "ok"})


@pytest.mark.parametrize(
    "declared",
    [
        pytest.param(True, id="declared"),
        pytest.param(
            False, id="chunked", marks=pytest.mark.not_on("waitress", reason="it has the length before the application asks who it is")
        ),
    ],
)
def test_a_refusal_reaches_a_client_that_is_still_sending(live: Live, declared: bool) -> None:
    """30 MB refused early: requests, which reads only after it has sent all, and curl both see why."""
    body = PART + picture_of(30 * MIB) + b"\r\n--B--\r\n"
    data: Any = body if declared else iter([body])
    refused(live.post(data), 413, "file_too_large")
    refused(
        live.post(body if declared else iter([body]), cookie=None),
        413 if declared else 401,
        "file_too_large" if declared else "unauthenticated",
    )


def test_curl_sees_a_refusal_while_it_sends(live: Live, tmp_path: Path) -> None:
    """With and without `Expect: 100-continue`."""
    file = tmp_path / "big.png"
    file.write_bytes(picture_of(30 * MIB))
    for expect in ("Expect: 100-continue", "Expect:"):
        command = ["curl", "-s", "-H", expect, "-b", "session=alice", "-F", f"file=@{file}", f"{live.url}/media/upload"]
        seen = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert json.loads(seen.stdout)["code"] == "file_too_large", seen


def test_a_connection_serves_on_after_a_refusal(live: Live) -> None:
    """What was not read of a refused body is not taken for the next request."""
    host, _, port = live.url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    for status, cookie in ((401, "session=mallory"), (201, "session=alice"), (401, ""), (201, "session=alice")):
        connection.request("POST", "/media/upload", body=GOOD + END, headers=headers | {"Cookie": cookie})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    connection.close()


def test_a_client_that_goes_away_leaves_nothing(live: Live, audit: Audit) -> None:
    """Cut in the middle of the body, with a length or in chunks: no object, no spool, and the service goes on."""
    head = b"POST /media/upload HTTP/1.1\r\nHost: x\r\nCookie: session=alice\r\nContent-Type: multipart/form-data; boundary=B\r\n"
    host, _, port = live.url.removeprefix("http://").partition(":")
    for framing in (b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n80000\r\n"):
        for _ in range(5):
            with socket.create_connection((host, int(port)), timeout=10) as sock:
                sock.sendall(head + framing + PART + picture_of(200_000))
    assert live.upload(make.png()).status_code == 201
    assert len(audit.new_keys()) == 1


def test_broken_chunks_are_no_defect(live: Live, audit: Audit) -> None:
    """A wrong chunk size or ending is answered with 400, not 500."""
    head = (
        b"POST /media/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: session=alice\r\n"
        b"Content-Type: multipart/form-data; boundary=B\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for chunks in (b"-1\r\nx\r\n0\r\n\r\n", b"zz\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"5\r\n--B\r\n\r\n0\r\nbad trailer\r\n\r\n"):
        answer = raw(live, head + chunks)
        assert answer.startswith(b"HTTP/1.1 400 "), (chunks, answer)
    assert not audit.new_keys()


@pytest.mark.not_on_moto("it enforces no bucket policy")
def test_the_public_may_read_and_nothing_else(live: Live) -> None:
    """init-bucket's policy: objects can be read by anyone; not listed, written or deleted."""
    key = live.upload(make.png()).json()["key"]
    bucket = f"{live.store.endpoint}/{servers.BUCKET}"
    assert requests.get(f"{bucket}/{key}", timeout=10).status_code == 200
    assert requests.get(f"{bucket}?list-type=2", timeout=10).status_code == 403
    assert requests.get(bucket, timeout=10).status_code == 403
    assert requests.put(f"{bucket}/uploads/7/{UUID}.png", data=b"x", timeout=10).status_code == 403
    assert requests.delete(f"{bucket}/{key}", timeout=10).status_code == 403
    assert live.stored(key).status_code == 200


def test_one_line_for_each_request_and_no_secret_in_any(live: Live) -> None:
    """The log tells id, user, outcome, bytes and phases; a forged name, the cookie and the secret are nowhere in it."""
    name = "x\r\n{forged}\x1b[31m.png"
    answer = live.upload(make.png(), cookie="session=alice; canary=cookie-canary", name=name, headers={"X-Request-ID": "log-test"})
    assert answer.status_code == 201
    servers.wait_for(lambda: any(line.get("id") == "log-test" for line in live.service.log_lines()), 5)
    (line,) = [line for line in live.service.log_lines() if line.get("id") == "log-test"]
    assert line["user"] == "7"
    assert line["outcome"] == "created"
    assert line["bytes"] == len(make.png())
    assert set(line["phases"]) == {"backend", "receive", "prove", "store"}
    text = live.service.log_file.read_text(encoding="utf-8")
    for canary in ("cookie-canary", servers.SECRET_KEY, "forged"):
        assert canary not in text


def test_the_server_gives_its_own_plain_answer_to_what_it_cannot_parse(live: Live) -> None:
    """Never 5xx."""
    for request in (
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nConnection: close\r\n\r\n",
    ):
        answer = raw(live, request, seconds=5)
        assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer), answer[:100]


@pytest.mark.not_on("waitress", reason="it reads the whole body before the application sees the request")
def test_uploads_are_quick_to_say_no_to_strangers(live: Live) -> None:
    """A stranger's 9 MB are refused before they are read."""
    host, _, port = live.url.removeprefix("http://").partition(":")
    head = b"POST /media/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\nContent-Length: 9000000\r\n\r\n"
    began = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(head)
        assert sock.recv(65_536).startswith(b"HTTP/1.1 401 ")
    assert time.monotonic() - began < 2


@pytest.mark.not_on_moto("it accepts any checksum")
def test_the_store_itself_verifies_the_checksum(live: Live, audit: Audit) -> None:
    """Bytes that changed on their way are refused by the store, which keeps nothing of them."""
    content = make.png()
    store = Store(settings.load(live.service.environ))
    with pytest.raises(StoreUnavailable, match="400"):
        store.put(f"uploads/7/{UUID}.png", io.BytesIO(content), len(content), zlib.crc32(content) ^ 1, "image/png")
    assert not audit.new_keys()
