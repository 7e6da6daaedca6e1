"""The stand-in backend, over sockets, in front of a small server that plays media-storage."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from werkzeug.serving import make_server

from media_storage.dev.backend import ACCOUNTS, PASSWORD, create_app
from servers import answers, free_port, wait_for

PUBLIC_URL = "https://pictures.example"
PICTURE = bytes(range(256)) * 5000 + b"\r\n\x00\xff"
FORWARDED = {"host", "accept-encoding", "user-agent", "connection"}  # what urllib3 adds to the headers that go on


@dataclass
class Seen:
    """One request as the server behind the backend got it."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    first_bytes: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    body: bytes = b""
    whole: bool = False

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class FakeStorage(ThreadingHTTPServer):
    """Plays media-storage: remembers what it was sent, and answers what the test sets."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[Seen] = []
        self.answer: tuple[int, dict[str, str], bytes] = (201, {"Content-Type": "application/json"}, b'{"key": "k"}')
        self.reads_body = True
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """One connection to FakeStorage."""

    protocol_version = "HTTP/1.1"
    server: FakeStorage

    def do_POST(self) -> None:
        seen = Seen(self.command, self.path, self.headers.items())
        self.server.requests.append(seen)
        with contextlib.suppress(OSError):
            if self.server.reads_body:
                self.read_body(seen)
            self.respond()
        seen.ended.set()
        self.close_connection = True

    def do_GET(self) -> None:
        self.do_POST()

    def do_DELETE(self) -> None:
        self.do_POST()

    def read_body(self, seen: Seen) -> None:
        if self.headers.get("Transfer-Encoding") != "chunked":
            seen.whole = self.take(seen, int(self.headers.get("Content-Length", 0)))
            return
        while line := self.rfile.readline():
            arrived = self.take(seen, int(line, 16))
            self.rfile.readline()
            seen.whole = arrived and line == b"0\r\n"
            if seen.whole:
                return

    def take(self, seen: Seen, left: int) -> bool:
        """Adds `left` bytes to what was seen, as they come; whether all of them came."""
        while left and (data := self.rfile.read1(left)):
            seen.body += data
            seen.first_bytes.set()
            left -= len(data)
        return not left

    def respond(self) -> None:
        status, headers, body = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class Answer:
    """What the backend answered, read to the end."""

    status: int
    headers: dict[str, list[str]]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        parsed = json.loads(self.body)
        assert isinstance(parsed, dict)
        return parsed


class Backend:
    """The stand-in on a port of its own, spoken to through bare sockets: what goes over the wire is what a test wrote."""

    def __init__(self, storage_url: str) -> None:
        self._server = make_server("127.0.0.1", 0, create_app(storage_url, PUBLIC_URL), threaded=True)
        self.host = f"127.0.0.1:{self._server.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self._server.port), timeout=20) as connection:
            yield connection

    def head(self, method: str, path: str, *lines: str | bytes) -> bytes:
        encoded = [
            line if isinstance(line, bytes) else line.encode() for line in (f"{method} {path} HTTP/1.1", f"Host: {self.host}", *lines)
        ]
        return b"\r\n".join([*encoded, b"", b""])

    def ask(self, method: str, path: str, *lines: str | bytes, body: bytes | None = None) -> Answer:
        with self.connection() as connection:
            if body is not None:
                lines = (*lines, f"Content-Length: {len(body)}")
            connection.sendall(self.head(method, path, *lines) + (body or b""))
            return read_answer(connection)

    def ask_as_a_browser(self, path: str, *lines: str) -> Answer:
        """Posts 8 MB over an uneven line, and looks for an answer only when all of it is sent."""
        with self.connection() as connection:
            connection.sendall(self.head("POST", path, *lines, "Content-Length: 8000000"))
            for _ in range(8):
                time.sleep(0.05)  # longer than werkzeug's server alone would wait for more
                connection.sendall(bytes(1_000_000))
            return read_answer(connection)

    def sign_in(self, given: object) -> Answer:
        return self.ask("POST", "/auth/sign-in", "Content-Type: application/json", body=json.dumps(given).encode())


def read_answer(connection: socket.socket) -> Answer:
    with HTTPResponse(connection) as response:
        response.begin()
        headers: dict[str, list[str]] = {}
        for name, value in response.getheaders():
            headers.setdefault(name.lower(), []).append(value)
        return Answer(response.status, headers, response.read())


@pytest.fixture
def storage() -> Iterator[FakeStorage]:
    server = FakeStorage()
    yield server
    server.close()


@pytest.fixture
def backend(storage: FakeStorage) -> Iterator[Backend]:
    server = Backend(storage.url)
    yield server
    server.close()


@pytest.fixture
def lonely() -> Iterator[Backend]:
    """A backend whose media-storage is down."""
    server = Backend(f"http://127.0.0.1:{free_port()}")
    yield server
    server.close()


class TestSignIn:
    @pytest.mark.parametrize(("name", "number"), ACCOUNTS.items())
    def test_the_cookie_of_a_sign_in_is_known_to_me(self, backend: Backend, name: str, number: int) -> None:
        """Each account signs in; its cookie is HttpOnly and SameSite=Lax, and /auth/me says whose it is until the sign-out."""
        answer = backend.sign_in({"name": name, "password": PASSWORD})
        assert (answer.status, answer.json) == (200, {"id": number, "name": name})
        [cookie] = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        mine = f"Cookie: {cookie.partition(';')[0]}"
        assert backend.ask("GET", "/auth/me", mine).json == {"id": number, "name": name}
        gone = backend.ask("POST", "/auth/sign-out", mine)
        assert gone.status == 204
        assert "Max-Age=0" in gone.headers["set-cookie"][0]

    def test_me_never_sets_a_cookie(self, backend: Backend) -> None:
        """media-storage drops the Set-Cookie of /auth/me, so a session that were rotated there would be lost."""
        cookie = backend.sign_in({"name": "alice", "password": PASSWORD}).headers["set-cookie"][0].partition(";")[0]
        for lines in [(), ("Cookie: chat_session=forged",), (f"Cookie: {cookie}",)]:
            assert "set-cookie" not in backend.ask("GET", "/auth/me", *lines).headers

    @pytest.mark.parametrize("cookie", [None, "chat_session=", "chat_session=eyJuYW1lIjoiYWxpY2UifQ.aaaaaa.bbbb", "name=alice"])
    def test_a_session_that_is_none_is_401(self, backend: Backend, cookie: str | None) -> None:
        """No cookie, an empty one, one signed with another key: nobody is signed in."""
        answer = backend.ask("GET", "/auth/me", *([f"Cookie: {cookie}"] if cookie else []))
        assert (answer.status, answer.json["code"]) == (401, "unauthenticated")

    @pytest.mark.parametrize(
        "given",
        [
            {"name": "alice", "password": "wrong"},
            {"name": "eve", "password": PASSWORD},
            {"name": ["alice"], "password": PASSWORD},
            {},
            [],
            None,
            7,
        ],
        ids=str,
    )
    def test_a_wrong_password_is_401_with_a_sentence(self, backend: Backend, given: object) -> None:
        """Whatever the JSON is, a sign-in that does not fit gets a sentence and no cookie."""
        answer = backend.sign_in(given)
        assert (answer.status, answer.json["code"]) == (401, "wrong_password")
        assert str(answer.json["detail"]).endswith(".")
        assert "set-cookie" not in answer.headers

    def test_a_form_that_is_no_json_cannot_sign_in(self, backend: Backend) -> None:
        """Another site's plain form can send text without a preflight; it signs nobody in."""
        body = json.dumps({"name": "alice", "password": PASSWORD}).encode()
        assert backend.ask("POST", "/auth/sign-in", "Content-Type: text/plain", body=body).status == 401


class TestForward:
    def test_body_and_cookie_go_on_byte_for_byte(self, backend: Backend, storage: FakeStorage) -> None:
        """Cookie, Content-Type, Content-Length, X-Request-ID and the body arrive as they were sent; nothing else of the request does."""
        cookie = b'chat_session=a.b; odd="q\\"uo;ted"; caf\xe9=1%20; =; x'
        answer = backend.ask(
            "POST",
            "/media/upload",
            b"Cookie: " + cookie,
            "Content-Type: multipart/form-data; boundary=x--Y",
            "X-Request-ID: from-the-caller",
            f"Origin: http://{backend.host}",
            "Authorization: Basic c2VjcmV0",
            "X-Forwarded-For: 192.0.2.1",
            body=PICTURE,
        )
        [seen] = storage.requests
        assert answer.status == 201
        assert (seen.method, seen.path, seen.body) == ("POST", "/media/upload", PICTURE)
        assert [value.encode("latin-1") for value in seen.header("Cookie")] == [cookie]
        assert seen.header("Content-Length") == [str(len(PICTURE))]
        assert seen.header("Content-Type") == ["multipart/form-data; boundary=x--Y"]
        assert seen.header("X-Request-ID") == ["from-the-caller"]
        assert {name.lower() for name, _ in seen.headers} - FORWARDED == {"cookie", "content-length", "content-type", "x-request-id"}

    def test_the_body_goes_on_while_it_comes(self, backend: Backend, storage: FakeStorage) -> None:
        """media-storage has the first bytes before the browser has sent the last: the backend holds no picture."""
        with backend.connection() as connection:
            connection.sendall(backend.head("POST", "/media/upload", f"Content-Length: {len(PICTURE)}") + PICTURE[:100_000])
            wait_for(lambda: storage.requests, 10)
            assert storage.requests[0].first_bytes.wait(10)
            connection.sendall(PICTURE[100_000:])
            assert read_answer(connection).status == 201
        assert storage.requests[0].body == PICTURE

    @pytest.mark.parametrize("extra", [(), ("Content-Length: 3",)], ids=["chunked", "chunked, with a length that lies"])
    def test_a_body_without_a_length_goes_on_in_chunks(self, backend: Backend, storage: FakeStorage, extra: tuple[str, ...]) -> None:
        """Chunks have the last word on where a body ends: a length beside them could smuggle a second request."""
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (PICTURE[:7], PICTURE[7:70_000], PICTURE[70_000:])) + b"0\r\n\r\n"
        with backend.connection() as connection:
            connection.sendall(backend.head("POST", "/media/upload", "Transfer-Encoding: chunked", *extra) + chunks)
            assert read_answer(connection).status == 201
        [seen] = storage.requests
        assert (seen.body, seen.whole) == (PICTURE, True)
        assert (seen.header("Content-Length"), seen.header("Transfer-Encoding")) == ([], ["chunked"])

    @pytest.mark.parametrize("framing", ["Content-Length: 5000000", "Transfer-Encoding: chunked"])
    def test_a_browser_that_leaves_is_not_taken_for_a_whole_upload(self, backend: Backend, storage: FakeStorage, framing: str) -> None:
        """A body cut short arrives cut short, so media-storage keeps nothing of it."""
        data = b"a" * 100_000
        with backend.connection() as connection:
            connection.sendall(
                backend.head("POST", "/media/upload", framing) + (b"%x\r\n" % 200_000 if "chunked" in framing else b"") + data
            )
            wait_for(lambda: storage.requests and storage.requests[0].first_bytes.is_set(), 10)
        assert storage.requests[0].ended.wait(10)
        assert not storage.requests[0].whole

    def test_the_answer_comes_back_with_its_headers(self, backend: Backend, storage: FakeStorage) -> None:
        """Status, body, Content-Type, Location and X-Request-ID are media-storage's; a cookie that it might set is not passed on."""
        headers = {
            "Content-Type": "application/json",
            "Location": f"{PUBLIC_URL}/media/k",
            "X-Request-ID": "7",
            "Set-Cookie": "a=b",
            "Server": "s",
        }
        storage.answer = (201, headers, b'{"key": "k"}')
        answer = backend.ask("POST", "/media/upload", body=b"x")
        assert (answer.status, answer.body) == (201, b'{"key": "k"}')
        assert answer.headers["content-type"] == ["application/json"]
        assert answer.headers["location"] == [f"{PUBLIC_URL}/media/k"]
        assert answer.headers["x-request-id"] == ["7"]
        assert "set-cookie" not in answer.headers

    @pytest.mark.parametrize("status", [401, 413, 415, 422, 429, 502, 503])
    def test_a_refusal_is_passed_on(self, backend: Backend, storage: FakeStorage, status: int) -> None:
        """The page explains refusals by media-storage's own problem document and Retry-After, so both come through."""
        problem = json.dumps({"code": "some_code", "requestId": "r"}).encode()
        storage.answer = (status, {"Content-Type": "application/problem+json", "Retry-After": "5"}, problem)
        answer = backend.ask("POST", "/media/upload", body=PICTURE)
        assert (answer.status, answer.body) == (status, problem)
        assert answer.headers["content-type"] == ["application/problem+json"]
        assert answer.headers["retry-after"] == ["5"]

    def test_no_redirect_is_followed(self, backend: Backend, storage: FakeStorage) -> None:
        """A redirect would carry the cookie to wherever it points."""
        storage.answer = (307, {"Location": f"{storage.url}/elsewhere"}, b"")
        assert backend.ask("POST", "/media/upload", body=b"x").status == 307
        assert len(storage.requests) == 1

    def test_a_refusal_before_the_last_byte_reaches_a_browser_that_sends_on(self, backend: Backend, storage: FakeStorage) -> None:
        """media-storage refuses and hangs up without reading; a browser still sends everything first, and then reads the 401."""
        storage.reads_body = False
        storage.answer = (401, {"Content-Type": "application/problem+json"}, b'{"code": "unauthenticated"}')
        answer = backend.ask_as_a_browser("/media/upload")
        assert (answer.status, answer.json["code"]) == (401, "unauthenticated")

    @pytest.mark.parametrize(
        ("method", "path"), [("DELETE", "/media/uploads/1/a%20b%3Fc.jpg"), ("GET", "/media/limits"), ("DELETE", "/media/../x")]
    )
    def test_delete_and_limits_take_the_same_way(self, backend: Backend, storage: FakeStorage, method: str, path: str) -> None:
        """The path goes on as it is, never resolved to something outside /media; a request without a body gets none."""
        storage.answer = (204, {}, b"")
        answer = backend.ask(method, path, "Cookie: a=b")
        [seen] = storage.requests
        assert (answer.status, answer.body) == (204, b"")
        assert (seen.method, seen.path, seen.header("Cookie")) == (method, path, ["a=b"])
        assert not seen.header("Transfer-Encoding")

    @pytest.mark.parametrize(
        ("method", "path", "body"), [("POST", "/media/upload", PICTURE), ("DELETE", "/media/k", None), ("GET", "/media/limits", None)]
    )
    def test_without_media_storage_there_is_a_sentence(self, lonely: Backend, method: str, path: str, body: bytes | None) -> None:
        """A service that is down is 503 with Retry-After as problem+json, also for a browser that is still sending; no address leaks."""
        answer = lonely.ask(method, path, "X-Request-ID: r-1", body=body)
        assert (answer.status, answer.json["code"], answer.json["requestId"]) == (503, "storage_unavailable", "r-1")
        assert answer.headers["content-type"] == ["application/problem+json"]
        assert answer.headers["retry-after"] == ["5"]
        assert b"127.0.0.1" not in answer.body


class TestOrigin:
    @pytest.mark.parametrize(
        "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1:{port}.evil.example", "https://{host}", ""]
    )
    @pytest.mark.parametrize(
        ("method", "path"), [("POST", "/media/upload"), ("DELETE", "/media/k"), ("POST", "/auth/sign-in"), ("POST", "/auth/sign-out")]
    )
    def test_another_site_may_not_act(self, backend: Backend, storage: FakeStorage, method: str, path: str, origin: str) -> None:
        """Every route that changes something refuses an Origin that is not its own, before media-storage hears of it."""
        origin = origin.format(host=backend.host, port=backend.host.partition(":")[2])
        answer = backend.ask(method, path, f"Origin: {origin}", body=b"x")
        assert (answer.status, answer.json["code"]) == (403, "origin_not_allowed")
        assert not storage.requests

    def test_its_own_page_and_servers_may(self, backend: Backend) -> None:
        """The backend's own origin, and no Origin at all, are let through."""
        assert backend.ask("POST", "/media/upload", f"Origin: http://{backend.host}", body=b"x").status == 201
        assert backend.ask("POST", "/media/upload", body=b"x").status == 201

    def test_reading_needs_no_origin(self, backend: Backend) -> None:
        """A link from another site to the page works."""
        assert backend.ask("GET", "/", "Origin: https://elsewhere.example").status == 200

    def test_the_refusal_reaches_a_browser_that_sends_on(self, backend: Backend) -> None:
        """The 403 needs nothing of the body, but a browser reads it only after it has sent everything."""
        assert backend.ask_as_a_browser("/media/upload", "Origin: null").status == 403


class TestPage:
    def test_it_runs_its_own_script_and_nothing_else(self, backend: Backend) -> None:
        """A policy with a fresh nonce, pictures from the public URL, and nothing loaded from anywhere else."""
        first, second = backend.ask("GET", "/"), backend.ask("GET", "/")
        [policy] = first.headers["content-security-policy"]
        assert policy != second.headers["content-security-policy"][0]
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        assert rules["default-src"] == "'none'"
        assert PUBLIC_URL in rules["img-src"].split()
        nonce = rules["script-src"].removeprefix("'nonce-").removesuffix("'")
        page = first.body.decode()
        assert page.count("<script") == page.count(f'<script nonce="{nonce}"') == 1
        assert page.count("<style") == page.count(f'<style nonce="{nonce}"') == 1
        assert not [word for word in ("src=", '<link rel="stylesheet', "@import", "url(", "innerHTML", "{{") if word in page]

    def test_it_shows_the_demo_accounts(self, backend: Backend) -> None:
        """A developer who opens the page learns from it how to sign in."""
        page = backend.ask("GET", "/").body.decode()
        assert all(f'data-name="{name}"' in page for name in ACCOUNTS)
        assert f"<code>{PASSWORD}</code>" in page


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("PUT", "/media/upload", 405), ("GET", "/media/upload", 405)]
)
def test_an_unknown_address_is_a_problem_document(backend: Backend, method: str, path: str, status: int) -> None:
    """The page reads every refusal in one form."""
    answer = backend.ask(method, path)
    assert (answer.status, answer.headers["content-type"]) == (status, ["application/problem+json"])


def test_the_module_serves(storage: FakeStorage) -> None:
    """`python -m media_storage.dev.backend` serves the page on its port and writes nothing for a request."""
    port = free_port()
    command = [sys.executable, "-m", "media_storage.dev.backend", "--port", str(port), "--storage", storage.url, "--public", PUBLIC_URL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/"))
            assert answers(f"http://127.0.0.1:{port}/")
        finally:
            process.terminate()
        assert process.communicate(timeout=20)[0] == b""
