"""The session question, put to a real server that answers as backends do and as they should not."""

import contextlib
import gzip
import json
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from media_storage.auth import Backend
from media_storage.errors import BackendInvalid, BackendUnavailable, Refusal, Unauthenticated

COOKIE = "session=alice"
TIMEOUT = 0.3
LATE = 1.5  # no call with TIMEOUT may take this long, on a busy machine either
BODY_BYTES = 65_536  # of an answer that may be read

Answer = bytes | Callable[[socket.socket, bytes], bytes | None]


class Peer(socketserver.ThreadingTCPServer):
    """A server on loopback that gives every request one answer, and remembers every request byte for byte.

    An answer is bytes, or a function of connection and request: it answers bytes, or writes for itself and hangs up.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation, bind_and_activate=False)
        self.server_bind()  # the port is ours, and refuses connections until start()
        self.answer = answer
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/auth/me"
        self.connections: list[socket.socket] = []
        self.requests: list[bytes] = []

    def start(self) -> None:
        self.server_activate()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def hang_up(self) -> None:
        """Ends every connection, as the server's end does."""
        for sock in self.connections:
            with contextlib.suppress(OSError):  # it has ended already
                sock.shutdown(socket.SHUT_RDWR)


class _Conversation(socketserver.StreamRequestHandler):
    server: Peer

    def handle(self) -> None:
        self.server.connections.append(self.connection)
        with contextlib.suppress(OSError):
            while request := self._request():
                self.server.requests.append(request)
                answer = self.server.answer
                data = answer(self.connection, request) if callable(answer) else answer
                if data is None:
                    return
                self.wfile.write(data)

    def _request(self) -> bytes:
        lines = [self.rfile.readline()]
        while lines[-1].strip():
            lines.append(self.rfile.readline())
        return b"".join(lines)


@contextlib.contextmanager
def peer(answer: Answer) -> Iterator[Peer]:
    with Peer(answer) as server:
        server.start()
        yield server
        server.shutdown()
        server.hang_up()


def http(status: int, body: bytes = b"", *headers: bytes) -> bytes:
    """An answer as a framework writes it."""
    head = [b"HTTP/1.1 %d Whatever" % status, b"Content-Type: application/json", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*head, *headers, b"", body])


def user(identity: object) -> bytes:
    return http(200, json.dumps({"id": identity, "name": "Alice"}).encode())


def ask(server: Peer, cookie: str = COOKIE, *, field: str = "id", timeout: float = 10) -> str:
    """One question by a new Backend."""
    return Backend(server.url, field, timeout).user(cookie, "request-1")


def headers_of(request: bytes) -> dict[bytes, bytes]:
    """The headers of a request, names in lower case; there may be none twice."""
    pairs = [line.split(b": ", 1) for line in request.rstrip(b"\r\n").split(b"\r\n")[1:]]
    assert len({name.lower() for name, _ in pairs}) == len(pairs)
    return {name.lower(): value for name, value in pairs}


# --- who it is ---


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (7, "7"),
        (0, "0"),
        (2**63, "9223372036854775808"),
        ("7", "7"),
        ("alice", "alice"),
        ("A.b_c-9", "A.b_c-9"),
        ("0190b0b4-7d2c-7c33-b1f1-f0d7a5e3a111", "0190b0b4-7d2c-7c33-b1f1-f0d7a5e3a111"),
        ("x" * 128, "x" * 128),
    ],
)
def test_a_user(identity: object, expected: str) -> None:
    """A 200 with an integer or a string of the id grammar names the user."""
    with peer(user(identity)) as server:
        assert ask(server) == expected


@pytest.mark.parametrize(
    ("field", "answer"),
    [
        ("id", {"id": 7}),
        ("user_id", {"id": 8, "user_id": 7}),
        ("user.id", {"id": 8, "user": {"id": 7}}),
        ("data.user.uid", {"data": {"user": {"uid": "7"}, "uid": 8}}),
    ],
)
def test_the_configured_field(field: str, answer: object) -> None:
    """The id is taken from where BACKEND_USER_ID_FIELD says, dots reach inside, and from nowhere else."""
    with peer(http(200, json.dumps(answer).encode())) as server:
        assert ask(server, field=field) == "7"


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b'{"id":7}', b"Content-Type: text/plain"),
        http(200, b' \n{"id" : 7}\r\n'),
        http(200, '{"id": 7, "name": "Zoë ☃"}'.encode()),
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"id"\r\n3\r\n:7}\r\n0\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 8\r\n\r\n{"id":7}',
        b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"id":7}',
        http(200, gzip.compress(b'{"id":7}'), b"Content-Encoding: gzip"),
        http(200, b'{"id":7, "bio": "' + b"x" * (BODY_BYTES - 19) + b'"}'),
    ],
    ids=["no JSON type", "spaces", "unicode", "chunked", "closing", "interim", "gzip", "exactly 64 KiB"],
)
def test_ways_to_say_it(answer: bytes) -> None:
    """The same answer is understood in every framing that servers and proxies use, up to 64 KiB."""
    with peer(answer) as server:
        assert ask(server) == "7"


def test_an_answer_that_ends_with_the_connection() -> None:
    """HTTP/1.0's way: no length, the connection's end is the answer's end."""

    def answer(sock: socket.socket, _request: bytes) -> None:
        sock.sendall(b'HTTP/1.0 200 OK\r\n\r\n{"id":7}')

    with peer(answer) as server:
        assert ask(server) == "7"


# --- who it is not ---


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("body", [b"", b"Not authenticated", b'{"id": 7}', b"x" * (2 * BODY_BYTES)], ids=len)
def test_no_session(status: int, body: bytes) -> None:
    """401 and 403 mean that nobody is signed in, whatever else the answer says."""
    with peer(http(status, body)) as server, pytest.raises(Unauthenticated):
        ask(server)


@pytest.mark.parametrize("status", [429, 500, 501, 502, 503, 504, 520, 599])
@pytest.mark.parametrize("body", [b"", b'{"id": 7}', b"<html>", b"x" * (2 * BODY_BYTES)], ids=len)
def test_an_outage_of_the_backend(status: int, body: bytes) -> None:
    """5xx and 429 are outages, never a sign-out and never a user."""
    with peer(http(status, body)) as server, pytest.raises(BackendUnavailable) as caught:
        ask(server)
    assert str(status) in caught.value.reason


@pytest.mark.parametrize("status", [201, 202, 203, 206, 300, 304, 400, 402, 404, 405, 407, 410, 418, 451])
def test_an_answer_that_makes_no_sense(status: int) -> None:
    """Any other status is a wrong backend or address, also with a user in its body; the log says which."""
    body = b"" if status == 304 else b'{"id": 7}'
    with peer(http(status, body)) as server, pytest.raises(BackendInvalid) as caught:
        ask(server)
    assert str(status) in caught.value.reason


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503, 404])
def test_the_status_counts_where_the_body_cannot_be_read(status: int) -> None:
    """A broken body under a status that needs none does not change what the status says."""
    expected = {401: Unauthenticated, 403: Unauthenticated, 404: BackendInvalid}.get(status, BackendUnavailable)
    with peer(http(status, b"this is not gzip", b"Content-Encoding: gzip")) as server, pytest.raises(Refusal) as caught:
        ask(server)
    assert type(caught.value) is expected


USELESS: dict[str, bytes] = {
    "nothing": b"",
    "HTML": b"<!doctype html><title>Sign in</title>",
    "text": b"alice",
    "half": b'{"id": 7',
    "two": b'{"id": 7}{"id": 8}',
    "single quotes": b"{'id': 7}",
    "not UTF-8": b'{"id": "\xff\xfe"}',
    "array": b'[{"id": 7}]',
    "string": b'"7"',
    "number": b"7",
    "true": b"true",
    "null": b"null",
    "empty object": b"{}",
    "other field": b'{"user_id": 7}',
    "other case": b'{"ID": 7}',
    "deep": b'{"id":' * 10_000,
    "deep array": b"[" * 60_000,
    "64 KiB and a byte": b'{"id":7, "bio": "' + b"x" * (BODY_BYTES - 18) + b'"}',
    "10 MB": b'{"id":7, "bio": "' + b"x" * 10_000_000 + b'"}',
    "id in 5000 digits": b'{"id":' + b"1" * 5000 + b"}",
    "id in 129 digits": b'{"id":' + b"1" * 129 + b"}",
    **{
        f"id {value}": b'{"id": %s}' % value.encode()
        for value in (
            *("null", "true", "false", "1e400", "-1e400", "NaN", "Infinity", "7.0", "7.5", "1e2", "-7", "{}", "[]", "[7]", '{"id": 7}'),
            *('""', '"."', '".."', '"../x"', '"a/b"', r'"a\\b"', '"%2e%2e"', '"a b"', '" 7"', '"7 "', r'"7\n"', r'"\n7"', r'"7\u0000"'),
            *('"-7"', '"_7"', '".7"', '"true:"', '"a@b.example"', r'"\u0663"', r'"\uff17"', r'"Zo\u00eb"', r'"\ud800"', r'"7\u2028"'),
        )
    },
    "id of 129 characters": b'{"id": "' + b"x" * 129 + b'"}',
    "id of 10 kB": b'{"id": "' + b"x" * 10_000 + b'"}',
}


@pytest.mark.parametrize("body", USELESS.values(), ids=USELESS)
def test_a_200_without_a_user(body: bytes) -> None:
    """A 200 that does not hold a usable id is no user and no outage: the backend or the configuration is wrong."""
    with peer(http(200, body)) as server, pytest.raises(BackendInvalid) as caught:
        ask(server)
    assert caught.value.reason


@pytest.mark.parametrize(
    "answer", [{"id": 7}, {"user": 7}, {"user": None}, {"user": {}}, {"user": [{"id": 7}]}, {"user.id": 7}, {"user": "id"}]
)
def test_a_nested_field_that_is_not_there(answer: object) -> None:
    """A path into the answer that does not end at an id finds nobody."""
    with peer(http(200, json.dumps(answer).encode())) as server, pytest.raises(BackendInvalid):
        ask(server, field="user.id")


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b"this is not gzip", b"Content-Encoding: gzip"),
        http(200, gzip.compress(b'{"id":7}' + b" " * BODY_BYTES), b"Content-Encoding: gzip"),
        http(200, gzip.compress(b'{"id":7}' + b" " * 100_000_000, 9), b"Content-Encoding: gzip"),
    ],
    ids=["not gzip", "64 KiB when unpacked", "a bomb of 100 MB"],
)
def test_compressed_answers_that_cannot_be_used(answer: bytes) -> None:
    """The limit holds for what an answer unpacks to, and what does not unpack is refused."""
    with peer(answer) as server, pytest.raises(BackendInvalid):
        ask(server)


@pytest.mark.parametrize("lengths", [b"8, 9", b"8\r\nContent-Length: 9"])
def test_contradicting_lengths(lengths: bytes) -> None:
    """A malformed answer is the backend's fault: it must not read as a session that has ended."""
    with peer(b'HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n{"id":7} ' % lengths) as server, pytest.raises(Refusal) as caught:
        ask(server)
    assert type(caught.value) in (BackendInvalid, BackendUnavailable)


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\0" * 100, b"HTTP/1.1 abc\r\n\r\n", b"\r\n\r\n", b"x" * 100_000])
def test_what_is_not_http(garbage: bytes) -> None:
    """Another protocol on the backend's port is a refusal of ours, not a sign-out and not a crash."""

    def answer(sock: socket.socket, _request: bytes) -> None:
        sock.sendall(garbage)

    with peer(answer) as server, pytest.raises(Refusal) as caught:
        ask(server)
    assert type(caught.value) in (BackendInvalid, BackendUnavailable)


# --- redirects ---


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """The cookie never reaches the host that a redirect names, nor another path of the same one."""
    with peer(user(7)) as second:
        for location in (second.url, f"//127.0.0.1:{second.port}/", "/login"):
            with peer(http(status, b"", b"Location: " + location.encode())) as first:
                with pytest.raises(BackendInvalid):
                    ask(first)
                assert len(first.requests) == 1
        assert second.connections == []


@pytest.mark.parametrize("location", [b"", b"http://[::1", b"http://\xff/", b"\xe4\xf6", b"http://h:port/", b"javascript:x", b"http://"])
def test_a_redirect_to_nowhere(location: bytes) -> None:
    """A Location that cannot be parsed is not looked at."""
    with peer(http(302, b"", b"Location: " + location)) as server, pytest.raises(BackendInvalid):
        ask(server)


# --- how much is read, and for how long ---


def endless(head: bytes, sent: list[int], done: threading.Event) -> Answer:
    """Sends `head` and then 100 MB, unless the other side closes first; `sent` learns how much it was."""

    def answer(sock: socket.socket, _request: bytes) -> None:
        sock.sendall(head)
        sent.append(0)
        try:
            for _ in range(100):
                sock.sendall(b" " * 1_000_000)
                sent[0] += 1_000_000
        finally:
            done.set()

    return answer


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5f5e100\r\n",
        b"HTTP/1.1 401 No\r\nContent-Length: 100000000\r\n\r\n",
        b"HTTP/1.1 404 No\r\nContent-Length: 100000000\r\n\r\n",
        b"HTTP/1.1 503 No\r\nContent-Length: 100000000\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nContent-Length: 100000000\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 100000000\r\n\r\n",
    ],
)
def test_no_more_is_read_than_is_needed(head: bytes) -> None:
    """A server that would send 100 MB sees the connection closed early, whatever its status."""
    sent: list[int] = []
    done = threading.Event()
    with peer(endless(head, sent, done)) as server:
        with pytest.raises(Refusal):
            ask(server)
        assert done.wait(10)
    assert sent[0] < 50_000_000  # what the kernels' buffers of both sides can take is not read


def trickle(at_once: bytes, slowly: bytes) -> Answer:
    """Writes the first bytes, then one every 50 ms."""

    def answer(sock: socket.socket, _request: bytes) -> None:
        sock.sendall(at_once)
        for byte in slowly:
            time.sleep(0.05)
            sock.sendall(bytes([byte]))

    return answer


def silence(_sock: socket.socket, _request: bytes) -> None:
    time.sleep(3)


@pytest.mark.parametrize(
    "answer",
    [
        trickle(b"", b""),
        trickle(b"", b"HTTP/1.1 200 OK" + b"!" * 100),
        trickle(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 20),
        trickle(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"id":7}', b" " * 100),
        trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 20),
        trickle(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 100\r\n\r\n", b" " * 100),
        silence,
    ],
    ids=["close", "status line", "headers", "body", "chunks", "redirect", "silence"],
)
def test_the_timeout_bounds_the_whole_call(answer: Answer) -> None:
    """However an answer trickles, the caller has a refusal when the time is over, and it is not a sign-out."""
    with peer(answer) as server:
        began = time.monotonic()
        with pytest.raises((BackendUnavailable, BackendInvalid)):
            ask(server, timeout=TIMEOUT)
        assert time.monotonic() - began < LATE


def test_the_timeout_bounds_both_tries() -> None:
    """A server that thinks for most of the time and then hangs up does not get the whole time once more."""

    def answer(_sock: socket.socket, _request: bytes) -> None:
        time.sleep(0.9)

    with peer(answer) as server:
        began = time.monotonic()
        with pytest.raises(BackendUnavailable):
            ask(server, timeout=1.0)
        assert time.monotonic() - began < 1.5


# --- outages of the connection ---


def test_nobody_there() -> None:
    """A refused connection is an outage, at once."""
    with Peer(user(7)) as server, pytest.raises(BackendUnavailable):
        ask(server)


def reset(sock: socket.socket, _request: bytes) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def cut(data: bytes) -> Answer:
    """Writes `data` and hangs up."""

    def answer(sock: socket.socket, _request: bytes) -> None:
        sock.sendall(data)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        reset,
        cut(b""),
        cut(b"HTTP/1.1 2"),
        cut(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        cut(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"id":7}'),
        cut(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"id":7}\r\n'),
    ],
    ids=["reset", "no answer", "in the status line", "before the body", "in the body", "between chunks"],
)
def test_connections_that_break(answer: Answer) -> None:
    """A connection that ends before its answer does is an outage, also when what came would pass for an answer."""
    with peer(answer) as server, pytest.raises(BackendUnavailable) as caught:
        ask(server)
    assert caught.value.retry_after


# --- what is sent ---

COOKIES = [
    "session=alice",
    "a=1; b=2;c=3;  d=4",
    'session="a,b; c"; x="\\054\\"\\073"',
    "session=a, b=c",
    'session="unclosed',
    "=; ;;nothing",
    "a=%2e%2e%0d%0a; b=a+b",
    "na\xefve=\xff\xfe\x80\x85\xa0; x=\xe2\x98\x83",
    "x=" + "y" * 7000,
    "session=tab\there",
    "$Version=1; session=alice; $Path=/",
]


@pytest.mark.parametrize("cookie", COOKIES, ids=ascii)
def test_the_cookie_goes_byte_for_byte(cookie: str) -> None:
    """The caller's Cookie header is passed on as it came: not parsed, not decoded, not quoted anew."""
    with peer(user(7)) as server:
        assert ask(server, cookie) == "7"
        assert headers_of(server.requests[0])[b"cookie"] == cookie.encode("latin-1")


@pytest.mark.parametrize("first", ["\x85", "\xa0", "\xff"], ids=ascii)
def test_a_cookie_that_begins_beyond_ascii(first: str) -> None:
    """Bytes that only Unicode calls spaces are bytes like others: the backend is asked."""
    with peer(user(7)) as server:
        assert ask(server, f"{first}=1") == "7"
        assert headers_of(server.requests[0])[b"cookie"] == f"{first}=1".encode("latin-1")


@pytest.mark.parametrize("cookie", ["a=1\nX-Evil: 1", "a=1\r\nX-Evil: 1", "a=1\n", "a=1\r", "a=1\r\n", "\na=1"], ids=ascii)
def test_a_cookie_cannot_bring_another_header(cookie: str) -> None:
    """What no header can hold is not sent at all; no server hands it on, but nothing here relies on that."""
    with peer(user(7)) as server:
        with pytest.raises(Refusal):
            ask(server, cookie)
        assert not any(b"X-Evil" in request for request in server.requests)


def test_nothing_else_goes() -> None:
    """The backend sees the cookie, the request's id, and what every HTTP client sends."""
    with peer(user(7)) as server:
        Backend(server.url + "?full=0", "id", 10).user(COOKIE, "request-1")
        (request,) = server.requests
    assert request.startswith(b"GET /auth/me?full=0 HTTP/1.1\r\n")
    found = headers_of(request)
    assert (found[b"cookie"], found[b"x-request-id"]) == (b"session=alice", b"request-1")
    assert found[b"host"] == server.url.split("/")[2].encode()
    assert found.keys() - {b"user-agent", b"accept", b"accept-encoding", b"connection"} == {b"host", b"cookie", b"x-request-id"}


def test_no_cookie_is_kept() -> None:
    """A session that the backend rotates in its answer is neither sent for the next caller nor for the same one."""
    rotated = b"Set-Cookie: session=alice-2; Path=/; HttpOnly\r\nSet-Cookie: other=1; Domain=127.0.0.1"
    with peer(http(200, b'{"id":7}', rotated)) as server:
        backend = Backend(server.url, "id", 10)
        for cookie in (COOKIE, "session=bob", "x=1", COOKIE):
            backend.user(cookie, "request-1")
            assert headers_of(server.requests[-1])[b"cookie"] == cookie.encode()
        backend.check(10)
        assert b"cookie" not in headers_of(server.requests[-1])


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the machine is configured with never sees a session."""
    with peer(user(8)) as trap, peer(user(7)) as server:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        assert ask(server) == "7"
        assert trap.connections == []


def test_netrc_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Passwords of the account that the service runs under are not sent to the backend."""
    for name in (".netrc", "_netrc"):
        (tmp_path / name).write_text("machine 127.0.0.1 login me password canary\ndefault login me password canary\n")
        (tmp_path / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with peer(user(7)) as server:
        assert ask(server) == "7"
        assert b"authorization" not in headers_of(server.requests[0])


# --- connections ---


@pytest.mark.parametrize("answer", [user(7), http(401, b'{"detail": "Not authenticated"}'), http(503), http(404, b"x"), http(302, b"x")])
def test_calls_share_a_connection(answer: bytes) -> None:
    """One call after the other goes over the same connection, whatever the answers are."""
    with peer(answer) as server:
        backend = Backend(server.url, "id", 10)
        for _ in range(10):
            with contextlib.suppress(Refusal):
                backend.user(COOKIE, "request-1")
        assert len(server.requests) == 10
        assert len(server.connections) == 1


def test_callers_at_once_get_their_own_answers() -> None:
    """Many threads on one Backend: nobody is answered as somebody else."""

    def answer(_sock: socket.socket, request: bytes) -> bytes:
        return user(headers_of(request)[b"cookie"].decode().removeprefix("session="))

    with peer(answer) as server, ThreadPoolExecutor(16) as threads:
        backend = Backend(server.url, "id", 10)
        names = [f"user-{number}" for number in range(300)]
        assert list(threads.map(lambda name: backend.user(f"session={name}", name), names)) == names
        assert len(server.connections) <= 16


def test_a_backend_that_restarted() -> None:
    """A pooled connection whose server is gone is replaced; the caller does not notice."""
    with peer(user(7)) as server:
        backend = Backend(server.url, "id", 10)
        assert backend.user(COOKIE, "request-1") == "7"
        server.hang_up()
        server.answer = user(8)
        assert backend.user(COOKIE, "request-2") == "8"
        assert len(server.connections) == 2


def test_a_connection_that_dies_under_the_question() -> None:
    """A server that closes an idle connection just when the next question arrives is asked again."""
    served: list[socket.socket] = []

    def answer(sock: socket.socket, _request: bytes) -> bytes | None:
        if sock in served:
            return None  # it had timed out
        served.append(sock)
        return user(7)

    with peer(answer) as server:
        backend = Backend(server.url, "id", 10)
        assert [backend.user(COOKIE, "request-1") for _ in range(4)] == ["7"] * 4
        assert len(server.connections) == 4


def test_recovery() -> None:
    """After an outage the same Backend works again by itself."""
    with Peer(user(7)) as server:
        backend = Backend(server.url, "id", 10)
        with pytest.raises(BackendUnavailable):
            backend.user(COOKIE, "request-1")
        server.start()
        assert backend.user(COOKIE, "request-1") == "7"
        server.shutdown()


def test_a_late_answer_is_nobodys() -> None:
    """The answer to a call that ran out of time cannot become the next caller's user."""
    answers = iter([0.6, 0.0])

    def answer(sock: socket.socket, request: bytes) -> bytes:
        time.sleep(next(answers))
        return user(headers_of(request)[b"cookie"].decode().removeprefix("session="))

    with peer(answer) as server:
        backend = Backend(server.url, "id", TIMEOUT)
        with pytest.raises(BackendUnavailable):
            backend.user("session=alice", "request-1")
        assert backend.user("session=bob", "request-2") == "bob"


# --- the question of readiness ---


@pytest.mark.parametrize("status", [200, 401, 403])
def test_a_backend_that_works(status: int) -> None:
    """Asked without a cookie, a backend that works says one of these; what else it says does not matter."""
    with peer(http(status, b"<html>")) as server:
        Backend(server.url, "id", 10).check(10)
        assert b"cookie" not in headers_of(server.requests[0])


@pytest.mark.parametrize("answer", [http(204), http(302, b"", b"Location: /login"), http(404), http(429), http(500), reset, cut(b"")])
def test_a_backend_that_does_not_work(answer: Answer) -> None:
    """Any other answer, or none, means that uploads would fail."""
    with peer(answer) as server, pytest.raises(Refusal) as caught:
        Backend(server.url, "id", 10).check(10)
    assert type(caught.value) in (BackendInvalid, BackendUnavailable)


def test_the_question_of_readiness_has_a_time_of_its_own() -> None:
    """A readiness check is short, however long uploads would wait."""
    with peer(silence) as server:
        began = time.monotonic()
        with pytest.raises(BackendUnavailable):
            Backend(server.url, "id", 60).check(TIMEOUT)
        assert time.monotonic() - began < LATE
