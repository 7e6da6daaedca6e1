"""The chat backends that people copy, in Flask, FastAPI and Express: each keeps the same promises in front of the real service."""

import http.client
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

import chat_backends
import servers
from chat_backends import ChatBackend, Relay, Wire, is_problem, log_line, send, send_until_stuck
from live import Audit, Live
from pictures import make
from rawclient import PART, Answer, body_of, connect, head_for, picture, read_answer

# What they pass on is the same beside every store.
pytestmark = [pytest.mark.parametrize("store", ["seaweedfs"], indirect=True, scope="session"), pytest.mark.long]

MIB = 1_048_576
LIMIT = 20 * MIB  # of the service, so that 18 MiB are not refused for their length
TEXT = b"Dear diary, the sea was warm.\n"
PASSED_BACK = ("Cache-Control", "Content-Type", "Location", "Retry-After", "X-Request-ID")


@pytest.fixture(scope="module")
def relay() -> Iterator[Relay]:
    running = Relay()
    yield running
    running.close()


@pytest.fixture(scope="module")
def service(live: Live, relay: Relay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.RunningService]:
    """A service that asks the backend in question whose session it is; no page's origin is allowed there."""
    own = ("PORT", "METRICS_PORT", "PUBLIC_BASE_URL", "ALLOWED_ORIGINS")
    environ = {name: value for name, value in live.service.environ.items() if name not in own}
    more = {"BACKEND_VERIFY_URL": relay.url, "MAX_UPLOAD_MB": str(LIMIT // MIB), "WORKERS": "1"}
    with servers.running_service(environ | more, tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="module", params=chat_backends.COMMANDS)
def chat(
    request: pytest.FixtureRequest, service: servers.RunningService, relay: Relay, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChatBackend]:
    with chat_backends.running(request.param, tmp_path_factory.mktemp("chat")) as running:
        relay.target = running.url
        yield running
    assert not re.search(r"Traceback|^    at ", running.log.read_text(), re.MULTILINE)  # whatever happened, it was foreseen


@pytest.fixture
def wire(chat: ChatBackend, service: servers.RunningService) -> Iterator[Wire]:
    """Between the backend and the service, which is down for tests that do not ask for it."""
    with Wire(chat.wire_port, ("127.0.0.1", int(service.url.rpartition(":")[2]))) as running:
        yield running


def test_sign_in_upload_read_and_take_back(chat: ChatBackend, wire: Wire, audit: Audit) -> None:
    """The whole way: the backend's own cookie, a picture that anyone can read at the URL in the answer, and its end."""
    assert requests.get(f"{chat.url}/auth/me", timeout=20).status_code == 401
    assert chat.sign_in("wrong").status_code == 401
    me = requests.get(f"{chat.url}/auth/me", headers={"Cookie": chat.cookie}, timeout=20)
    assert (me.json(), "Set-Cookie" in me.headers) == ({"id": 1, "name": "alice"}, False)
    content = picture(10 * MIB)
    answer = send(chat.url, body_of(content), Cookie=chat.cookie)
    assert answer.status == 201, answer.body
    url = answer.document["url"]
    assert (answer.headers["Location"], answer.headers["Cache-Control"]) == (url, "no-store")
    assert answer.key.startswith("uploads/1/")
    assert requests.get(url, timeout=20).content == content
    path = url.partition("/media/")[2]
    assert requests.delete(f"{chat.url}/media/{path}", timeout=20).status_code == 401
    assert requests.delete(f"{chat.url}/media/{path}", headers={"Cookie": chat.cookie}, timeout=20).status_code == 204
    assert not audit.new_keys()


def test_the_limits_are_the_services(chat: ChatBackend, wire: Wire) -> None:
    """A page asks its backend before it sends, with or without a session, once an hour."""
    limits = requests.get(f"{chat.url}/media/limits", timeout=20)
    assert (limits.json()["maxBytes"], limits.headers["Cache-Control"]) == (LIMIT, "public, max-age=3600")


def test_what_goes_on_is_what_came(chat: ChatBackend, wire: Wire, relay: Relay) -> None:
    """Cookie byte for byte as far as `/auth/me`, Content-Type, Content-Length and X-Request-ID; no Origin, and nothing else."""
    cookie = b'a="q\\"uo;ted, x"; ' + chat.cookie.encode() + b"; caf\xe9=1%20; =; $Version=1; b=c,d"
    body = body_of(make.png())
    more = f"Origin: {chat.origin}\r\nX-Request-ID: from-the-page\r\nAuthorization: Basic c2VjcmV0\r\nX-Forwarded-For: 192.0.2.1\r\n"
    head = head_for(len(body), "", more).replace(b"Host: x", b"Host: %b\r\nCookie: %b" % (chat.host, cookie))
    with connect(chat.url) as sock:
        sock.sendall(head + body)
        answer = read_answer(sock)
    assert answer
    assert answer.status == 201, answer.body
    assert wire.lines("Cookie") == [cookie]
    assert relay.cookies[-1] == cookie
    assert wire.lines("Content-Type") == [b"multipart/form-data; boundary=B"]
    assert wire.lines("Content-Length") == [str(len(body)).encode()]
    assert wire.lines("X-Request-ID") == [b"from-the-page"]
    names = {line.partition(b":")[0].lower() for line in wire.head.split(b"\r\n")[1:]}
    assert not names & {b"origin", b"authorization", b"x-forwarded-for", b"transfer-encoding"}


def test_a_body_without_a_length_goes_on_in_chunks(chat: ChatBackend, wire: Wire) -> None:
    """Neither is a length made up, nor the body held until there is one."""
    content = picture(300_000)
    whole = body_of(content)
    answer = send(chat.url, iter([whole[:7], whole[7:70_000], whole[70_000:]]), Cookie=chat.cookie)
    assert (answer.status, answer.document["size"]) == (201, len(content))
    assert (wire.lines("Content-Length"), wire.lines("Transfer-Encoding")) == ([], [b"chunked"])


def test_a_length_beside_chunks_does_not_go_on(chat: ChatBackend, wire: Wire) -> None:
    """Two framings could smuggle a second request: Express refuses them, the others keep to the chunks."""
    body = body_of(make.png())
    with connect(chat.url) as sock:
        sock.sendall(head_for(None, chat.cookie, "Content-Length: 3\r\n") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        answer = read_answer(sock)
    assert answer
    assert answer.status in (201, 400)
    assert not wire.lines("Content-Length")


def test_the_request_id_is_the_same_everywhere(chat: ChatBackend, wire: Wire, service: servers.RunningService) -> None:
    """The page's own is in the service's log and in the answer; without one, the service's fresh one comes back."""
    body = body_of(make.png())
    answer = send(chat.url, body, Cookie=chat.cookie, **{"X-Request-ID": f"page-{chat.wire_port}"})
    assert answer.headers["X-Request-ID"] == f"page-{chat.wire_port}"
    assert log_line(service, f"page-{chat.wire_port}")["outcome"] == "created"
    fresh = send(chat.url, body, Cookie=chat.cookie).headers["X-Request-ID"]
    assert log_line(service, fresh)["outcome"] == "created"


def test_a_page_of_another_site_gets_no_further(chat: ChatBackend, wire: Wire) -> None:
    """403 from the backend itself, also while 30 MB are still being sent; the service hears nothing of it."""
    for origin in ("https://evil.example", "null", f"{chat.origin}.evil.example", ""):
        answer = send(chat.url, body_of(make.png()), Cookie=chat.cookie, Origin=origin)
        is_problem(answer, 403, "origin_not_allowed")
    is_problem(send(chat.url, body_of(picture(30 * MIB)), Cookie=chat.cookie, Origin="null"), 403, "origin_not_allowed")
    assert not wire.sent


# What is sent, by whom it is signed, and the code that has to come back.
REFUSALS: dict[str, tuple[Callable[[], Any], bool, str]] = {
    "413 declared": (lambda: body_of(picture(30 * MIB)), True, "file_too_large"),
    "413 in chunks": (lambda: pieces(body_of(picture(30 * MIB))), True, "file_too_large"),
    "401": (lambda: body_of(picture(18 * MIB)), False, "unauthenticated"),
    "415": (lambda: body_of(TEXT * (18 * MIB // len(TEXT))), True, "unsupported_type"),
    "422": (lambda: body_of(make.PNG_SIGNATURE + make.chunk(b"IHDR", bytes(13), crc=0) + TEXT), True, "invalid_image"),
    "400": (lambda: PART + make.png(), True, "bad_multipart"),
}


def pieces(body: bytes) -> Iterator[bytes]:
    return iter([body[start : start + MIB] for start in range(0, len(body), MIB)])


def passed_back(answer: Answer) -> dict[str, Any]:
    """What a client sees of an answer."""
    return {"status": answer.status, "body": answer.body} | {name: answer.headers.get(name) for name in PASSED_BACK}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_comes_back_as_it_is(chat: ChatBackend, wire: Wire, service: servers.RunningService, audit: Audit, kind: str) -> None:
    """Status, body and headers are those that the service itself gives, whenever in the upload it gives them."""
    body, signed_in, code = REFUSALS[kind]
    headers = {"Cookie": chat.cookie if signed_in else "chat_session=forged", "X-Request-ID": "the-same"}
    seen = send(chat.url, body(), **headers)
    assert (seen.status, seen.code) == (int(kind[:3]), code)
    assert passed_back(seen) == passed_back(send(service.url, body(), **headers))
    assert not audit.new_keys()


def test_a_refusal_comes_back_when_the_service_has_hung_up(chat: ChatBackend, wire: Wire) -> None:
    """It reads on for 32 MiB and no more; what it said before is not lost."""
    answer = send(chat.url, body_of(picture(50 * MIB)), Cookie=chat.cookie)
    assert (answer.status, answer.code) == (413, "file_too_large")


def test_a_body_that_is_no_form_is_refused_by_the_service(chat: ChatBackend, wire: Wire) -> None:
    """The Content-Type is the caller's, and media-storage's to judge."""
    answer = send(chat.url, b"{}", Cookie=chat.cookie, **{"Content-Type": "application/json"})
    assert (answer.status, answer.code) == (415, "not_multipart")


def test_an_outage_comes_back_with_its_retry_after(chat: ChatBackend, wire: Wire, relay: Relay) -> None:
    """The service's own 503, here because nobody answers it on `/auth/me`."""
    was, relay.target = relay.target, f"http://127.0.0.1:{servers.free_port()}"
    try:
        answer = send(chat.url, body_of(make.png()), Cookie=chat.cookie)
    finally:
        relay.target = was
    assert (answer.status, answer.code) == (503, "backend_unavailable")
    assert int(answer.headers["Retry-After"]) > 0


def test_a_service_that_is_down_is_said_in_a_sentence(chat: ChatBackend) -> None:
    """503 as problem+json with Retry-After, also for 18 MB; afterwards the backend serves on."""
    for size in (1000, 18 * MIB):
        answer = send(chat.url, body_of(picture(size)), Cookie=chat.cookie, **{"X-Request-ID": "the-page"})
        is_problem(answer, 503, "storage_unavailable")
        assert answer.document["requestId"] == "the-page"
        assert int(answer.headers["Retry-After"]) > 0
    assert requests.get(f"{chat.url}/auth/me", headers={"Cookie": chat.cookie}, timeout=20).status_code == 200


def test_a_service_that_dies_in_the_middle(chat: ChatBackend, wire: Wire, audit: Audit) -> None:
    """503 as well, and nothing of the picture is stored."""
    body = body_of(picture(10 * MIB))
    with connect(chat.url) as sock:
        sock.sendall(head_for(len(body), chat.cookie) + body[: 5 * MIB])
        servers.wait_for(lambda: len(wire.sent) > MIB, 20)
        wire.cut()
        sock.sendall(body[5 * MIB :])
        answer = read_answer(sock)
    is_problem(answer, 503, "storage_unavailable")
    assert not audit.new_keys()


def test_an_answer_that_breaks_off_does_not_hang(chat: ChatBackend) -> None:
    """The client learns that something is wrong, by a 503 or by the end of the connection."""
    with socket.create_server(("127.0.0.1", chat.wire_port)) as listener, connect(chat.url, 20) as sock:
        body = body_of(make.png())
        sock.sendall(head_for(len(body), chat.cookie) + body)
        listener.settimeout(20)
        with listener.accept()[0] as service:
            service.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n{")
            service.shutdown(socket.SHUT_WR)
            try:
                answer = read_answer(sock)
            except http.client.IncompleteRead:
                return
        is_problem(answer, 503, "storage_unavailable")


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_client_that_vanishes_leaves_nothing(
    chat: ChatBackend, wire: Wire, service: servers.RunningService, audit: Audit, framing: str
) -> None:
    """Cut in the middle, the body is not taken for a whole one; the next upload is served."""
    request_id = f"vanished-{framing}-{chat.wire_port}"
    body = body_of(picture(10 * MIB))
    with connect(chat.url) as sock:
        length = len(body) if framing == "length" else None
        head = head_for(length, chat.cookie, f"X-Request-ID: {request_id}\r\n")
        sock.sendall(head + (b"" if length else b"%x\r\n" % len(body)) + body[: 5 * MIB])
        servers.wait_for(lambda: len(wire.sent) > MIB, 20)
    assert log_line(service, request_id)["outcome"] != "created"
    assert not audit.new_keys()
    assert send(chat.url, body_of(make.png()), Cookie=chat.cookie).status == 201


def test_no_picture_is_held(chat: ChatBackend, wire: Wire) -> None:
    """While the service does not read, the backend takes no more than a few buffers; what came has gone on before the rest comes."""
    body = body_of(picture(LIMIT - 1000))
    head = head_for(len(body), chat.cookie)
    wire.free.clear()
    with connect(chat.url) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        sent = send_until_stuck(sock, head + body)
        assert sent < LIMIT // 2
        wire.free.set()
        sock.settimeout(60)
        sock.sendall((head + body)[sent:-MIB])
        servers.wait_for(lambda: len(wire.sent) > len(body) - MIB - 65_536, 20)
        sock.sendall(body[-MIB:])
        answer = read_answer(sock)
    assert answer
    assert answer.status == 201, answer.body


def test_no_stream_goes_into_an_old_connection(chat: ChatBackend, wire: Wire) -> None:
    """One that was kept may have been closed just now, and a stream cannot be sent twice: each upload has a connection of its own."""
    for _ in range(2):
        assert send(chat.url, body_of(make.png()), Cookie=chat.cookie).status == 201
    assert wire.connections == 2


def test_eight_uploads_at_once(chat: ChatBackend, wire: Wire) -> None:
    """All are stored, each as what it is."""
    contents = [picture(2 * MIB + number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda content: send(chat.url, body_of(content), Cookie=chat.cookie), contents))
    assert [answer.status for answer in answers] == [201] * 8
    assert [requests.get(answer.document["url"], timeout=20).content for answer in answers] == contents
