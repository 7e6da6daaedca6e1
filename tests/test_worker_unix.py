"""gunicorn's worker with a loop of our own: what costs it no thread, and what must never stop it.

The loop runs in a thread, on a real listener, with a small application in place of the service's; tests/e2e has the
real one in real processes.
"""

import contextlib
import http.client
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pytest

if sys.platform == "win32":
    pytest.skip("gunicorn is for Unix", allow_module_level=True)

import resource

from gunicorn.config import Config
from gunicorn.http.errors import InvalidHeader, LimitRequestHeaders, ParseException

import servers
from media_storage import connection_unix, worker_unix
from media_storage.body_unix import Pace
from media_storage.connection_unix import HEAD_BYTES, Connection, Output
from media_storage.metrics import Meter
from media_storage.redirect import Redirects
from media_storage.worker_unix import Worker
from rawclient import UUID, Answer, read_answer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATH = f"/media/uploads/7/{UUID}.jpg"
LATE = 2.0  # nothing that waits for nobody may take this long, on a busy machine either
Pair = tuple[socket.socket, socket.socket]


def get(path: str = PATH, *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *headers, "\r\n")).encode()


def post(body: bytes, *headers: str, path: str = "/echo") -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "\r\n")).encode() + body


def numbered(number: int) -> bytes:
    """A request for a redirect that comes back with its number."""
    return get(PATH, f"X-Request-ID: {number}")


def answers(sock: socket.socket, count: int) -> Iterator[Answer]:
    """The next answers on the connection, which may come together."""
    with sock.makefile("rb") as file:
        for _ in range(count):
            status = int(file.readline().split()[1])
            headers = http.client.parse_headers(file)
            yield Answer(status, headers, file.read(int(headers["Content-Length"])))


# --- a connection ---


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends of a connection; the near one is the server's."""
    near, far = socket.socketpair()
    with near, far:
        far.settimeout(10)
        yield near, far


@pytest.fixture
def conn(pair: Pair) -> Connection:
    return Connection(pair[0], ("127.0.0.1", 1), ("127.0.0.1", 2))


CFG = Config()


@pytest.mark.parametrize("at", range(1, len(get())))
def test_a_head_may_come_in_two_pieces(conn: Connection, at: int) -> None:
    """Wherever it is cut, in the empty line behind it too, it is whole with its last byte and not before."""
    whole = get()
    assert not conn.feed(whole[:at])
    assert conn.feed(whole[at:])
    assert conn.parse(CFG).path == PATH
    assert not conn.next_request()


def test_a_head_may_come_byte_by_byte(conn: Connection) -> None:
    """And line feeds that are no empty line do not end it."""
    whole = get(PATH, "X: \ty", "Y:z")
    assert [conn.feed(bytes([byte])) for byte in whole] == [False] * (len(whole) - 1) + [True]
    req = conn.parse(CFG)
    assert (req.method, req.path, req.headers) == ("GET", PATH, [("HOST", "x"), ("X", "y"), ("Y", "z")])


def test_requests_that_come_together_are_told_apart(conn: Connection) -> None:
    """Each is parsed on its own, the next is known to be there, and half a one is known not to be."""
    assert conn.feed(get("/1") + get("/2") + get("/3")[:-1])
    assert conn.parse(CFG).path == "/1"
    assert conn.next_request()
    assert conn.parse(CFG).path == "/2"
    assert not conn.next_request()
    assert conn.feed(b"\n")
    assert conn.parse(CFG).path == "/3"
    assert not conn.next_request()


def test_the_end_of_one_head_does_not_end_the_next(conn: Connection) -> None:
    """What was seen last of a request is not put before what comes of the next."""
    assert conn.feed(get("/1"))
    conn.parse(CFG)
    assert not conn.next_request()
    assert not conn.feed(b"\r\n")


def test_a_body_stays_for_whoever_reads_it(conn: Connection) -> None:
    """What came with the head and is no head is the beginning of the body."""
    assert conn.feed(post(b"hello"))
    assert conn.parse(CFG).body.read() == b"hello"


def test_a_head_that_is_too_long(conn: Connection) -> None:
    """It is not waited for: its end may never come."""
    fed = len(get()) - 2
    assert not conn.feed(get()[:-2])
    while fed + 100 <= HEAD_BYTES:
        assert not conn.feed(b"X: " + b"y" * 95 + b"\r\n")
        fed += 100
    assert conn.feed(b"X: " + b"y" * 95 + b"\r\n")
    with pytest.raises(LimitRequestHeaders):
        conn.parse(CFG)


@pytest.mark.parametrize(
    "head", [b"\r\n\r\n", b"x\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"get / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX\r\n\r\n"]
)
def test_what_is_no_request(conn: Connection, head: bytes) -> None:
    """gunicorn's parser says what is wrong."""
    assert conn.feed(head)
    with pytest.raises(ParseException):
        conn.parse(CFG)


@pytest.mark.parametrize("coding", ["gzip", "identity", "gzip, chunked", "deflate", "Identity", "chunked, chunked", "x"])
def test_a_transfer_coding_that_others_may_read_otherwise(conn: Connection, coding: str) -> None:
    """Only chunks are known here, and only on their own."""
    conn.feed(f"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n".encode())
    with pytest.raises(ParseException):
        conn.parse(CFG)


def test_chunks_are_a_coding(conn: Connection) -> None:
    """In any case; but not with a length beside them, nor twice."""
    conn.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert conn.parse(CFG).body.read() == b"hello"
    for other in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
        conn.next_request()
        conn.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + other + b"\r\n\r\n")
        with pytest.raises(InvalidHeader):
            conn.parse(CFG)


def test_how_long_a_connection_may_be_silent(conn: Connection) -> None:
    """From its beginning and after each request one limit, from a request's first byte on another, which more bytes do not extend."""

    def left() -> float:
        return conn.deadline - time.monotonic()

    assert left() == pytest.approx(connection_unix.KEEPALIVE_SECONDS, abs=1)
    conn.feed(b"G")
    begun = conn.deadline
    assert left() == pytest.approx(connection_unix.HEAD_SECONDS, abs=1)
    conn.feed(get()[1:] + get()[:5])
    assert conn.deadline == begun
    conn.parse(CFG)
    conn.next_request()
    assert left() == pytest.approx(connection_unix.HEAD_SECONDS, abs=1)
    conn.feed(get()[5:])
    conn.parse(CFG)
    conn.next_request()
    assert left() == pytest.approx(connection_unix.KEEPALIVE_SECONDS, abs=1)


# --- an answer ---


def full(sock: socket.socket) -> int:
    """Fills what the kernel takes without a reader; bytes."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(b"x" * 1000, socket.MSG_DONTWAIT)
    return sent


@pytest.mark.parametrize("flags", [0, socket.MSG_DONTWAIT])
def test_an_answer_goes_out_at_once(pair: Pair, flags: int) -> None:
    """Nothing of it before the end; an interim answer is not kept back."""
    near, far = pair
    output = Output(near, flags)
    output.sendall(b"one, ")
    output.send(b"interim ")
    output.sendall(b"two")
    assert far.recv(100) == b"interim "
    output.flush()
    assert far.recv(100) == b"one, two"


@pytest.mark.parametrize("size", [1, 50_000_000])
def test_the_loop_does_not_wait_for_a_client(pair: Pair, size: int) -> None:
    """Who has not taken earlier answers, or takes a part of this one only, is given up at once; a 100 Continue waits for nobody, too."""
    near, _ = pair
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 2 * int(LATE), 0))  # as the loop sets it
    if size == 1:
        full(near)
    output = Output(near, socket.MSG_DONTWAIT)
    output.sendall(b"x" * size)
    began = time.monotonic()
    with pytest.raises(BlockingIOError):
        output.flush()
    full(near)
    with pytest.raises(BlockingIOError):
        output.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert time.monotonic() - began < LATE


def test_a_thread_waits_for_a_client(pair: Pair) -> None:
    """One that reads late and slowly gets its answer whole, as long as it takes some of it in the time for that."""
    near, far = pair
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 1, 0))
    output = Output(near, 0)
    output.sendall(b"y" * 1_000_000)
    thread = threading.Thread(target=output.flush)
    thread.start()
    time.sleep(1.4)  # a first call has sent what there was room for
    got = b""
    while len(got) < 1_000_000:
        got += far.recv(100_000)
    thread.join()
    assert got == b"y" * 1_000_000


# --- the loop ---


@dataclass
class Application:
    """`POST /echo` answers the body; `POST /wait` waits until it is let go; `/fail` raises; anything else is 404."""

    waiting: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)
    threads: set[str] = field(default_factory=set)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> list[bytes]:
        self.threads.add(threading.current_thread().name)
        path = environ["PATH_INFO"]
        if path.endswith("/fail"):
            raise RuntimeError("a defect")
        body = environ["wsgi.input"].read() if environ["REQUEST_METHOD"] == "POST" else b"not found"
        if path == "/wait":
            self.waiting.release()
            assert self.go_on.wait(20)
        status = "200 OK" if path in ("/echo", "/wait") else "404 Not Found"
        start_response(status, [("Content-Length", str(len(body))), ("X-Cookie", repr(environ.get("HTTP_COOKIE", "")))])
        return [body]


class Loop(Worker):
    pace = Pace(60, 0)
    grace = 10.0


class Running:
    """A worker whose loop runs in a thread while the context lasts."""

    def __init__(self, threads: int = 4, connections: int = 1000) -> None:
        self.application = Application()
        cfg = Config()
        for name, value in {
            "threads": threads,
            "worker_connections": connections,
            "forwarded_allow_ips": "",
            "graceful_timeout": 10,
        }.items():
            cfg.set(name, value)
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = listener.getsockname()
        self.worker = Loop(1, os.getppid(), [listener], None, 30, cfg, logging.getLogger("gunicorn"))
        self.worker.wsgi = Redirects(self.application, "https://cdn.example/pictures", 60, Meter())
        self.worker.PIPE = os.pipe()
        os.set_blocking(self.worker.PIPE[0], False)
        self._thread = threading.Thread(target=self.worker.run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.application.go_on.set()
        self.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.worker._selector.close()
        self.worker.tmp.close()
        for fd in self.worker.PIPE:
            os.close(fd)

    def stop(self) -> None:
        """What gunicorn does on SIGTERM."""
        self.worker.alive = False
        os.write(self.worker.PIPE[1], b"x")

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def ask(self, request: bytes) -> Answer:
        """One request on a connection of its own, answered at once."""
        began = time.monotonic()
        with self.connect() as sock:
            sock.sendall(request)
            answer = read_answer(sock)
        assert answer is not None
        assert time.monotonic() - began < LATE
        return answer

    def serves(self) -> bool:
        """Redirects, in the loop, and anything else, in threads."""
        return self.ask(get()).status == 302 and self.ask(post(b"hello")).body == b"hello"


@pytest.fixture
def running() -> Iterator[Running]:
    with Running() as worker:
        yield worker


@contextlib.contextmanager
def limited(monkeypatch: pytest.MonkeyPatch, connections: int = 1000, threads: int = 4, **constants: float) -> Iterator[Running]:
    """A worker with other limits; `constants` are those of its module."""
    for name, value in constants.items():
        monkeypatch.setattr(connection_unix if hasattr(connection_unix, name) else worker_unix, name, value)
    with Running(threads, connections) as worker:
        yield worker


def ended(sock: socket.socket) -> bool:
    """Whether the server closes the connection soon, without a word."""
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(1) == b""
    return True


def test_redirects_need_no_thread(running: Running) -> None:
    """GET, HEAD and what is no key; anything else gets one."""
    for request, status in ((get(), 302), (get().replace(b"GET", b"HEAD"), 302), (get("/media/uploads/x"), 404)):
        assert running.ask(request).status == status
    assert not any("ThreadPool" in name for name in running.application.threads)
    running.ask(get("/elsewhere"))
    assert any("ThreadPool" in name for name in running.application.threads)


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"])
def test_a_redirect_may_be_asked_for_with_a_body(running: Running, framing: bytes) -> None:
    """Nobody does, and it is allowed: the body is none of the next request."""
    with running.connect() as sock:
        for _ in range(3):
            sock.sendall(get()[:-2] + framing + numbered(5))
            assert [answer.headers["X-Request-ID"] for answer in answers(sock, 2)][1] == "5"


def test_requests_in_one_piece_are_answered_in_order(running: Running) -> None:
    """Redirects and uploads mixed, each answered whole, on one connection."""
    with running.connect() as sock:
        requests = [numbered(n) if n % 3 else post(b"body %d " % n * n * 10) for n in range(60)]
        sender = threading.Thread(target=sock.sendall, args=(b"".join(requests),))
        sender.start()
        for number, answer in enumerate(answers(sock, len(requests))):
            if number % 3:
                assert (answer.status, answer.headers["X-Request-ID"]) == (302, str(number))
            else:
                assert (answer.status, answer.body) == (200, b"body %d " % number * number * 10)
        sender.join()


def test_thousands_of_redirects_on_one_connection(running: Running) -> None:
    """Sent without waiting: each is answered, in order, and no more is read of them than is answered."""
    count = 5000
    held: list[int] = []
    with running.connect() as sock:
        sender = threading.Thread(target=sock.sendall, args=(b"".join(map(numbered, range(count))),))
        sender.start()
        for number, answer in enumerate(answers(sock, count)):
            assert (answer.status, answer.headers["X-Request-ID"]) == (302, str(number))
            held.extend(conn.unreader.buf.tell() for conn in list(running.worker._watched.values()))
        sender.join()
    assert max(held) <= 2 * worker_unix.HEAD_READ_BYTES


def test_who_reads_no_answers_does_not_stop_others(running: Running) -> None:
    """A client that only asks, thousands of times, is cut; meanwhile others are answered at once."""
    requests = get() * 1000

    def flood() -> None:
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(running.address)
            while True:
                sock.sendall(requests)

    thread = threading.Thread(target=flood)
    thread.start()
    while thread.is_alive():
        assert running.serves()


def test_a_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new one, and one that was answered and kept."""
    with limited(monkeypatch, KEEPALIVE_SECONDS=0.5) as worker, worker.connect() as new, worker.connect() as kept:
        began = time.monotonic()
        kept.sendall(post(b"hello"))
        assert read_answer(kept)
        for sock in (new, kept):
            assert ended(sock)
        assert 0.4 < time.monotonic() - began < 0.5 + 1 + LATE
        assert not worker.worker._watched


def test_a_head_that_does_not_come_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline for the whole of it: bytes now and then do not extend it. Others are served meanwhile."""
    with limited(monkeypatch, HEAD_SECONDS=0.7, KEEPALIVE_SECONDS=0.7) as worker, worker.connect() as sock:
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 8:
                sock.sendall(b"G")
                assert worker.serves()
                time.sleep(0.1)
        assert 0.6 < time.monotonic() - began < 0.7 + 1 + LATE
        assert ended(sock)


def test_a_slow_body_is_no_slow_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a thread reads a body, the limits on silence are not for it."""
    with limited(monkeypatch, HEAD_SECONDS=0.2, KEEPALIVE_SECONDS=0.2) as worker, worker.connect() as sock:
        sock.sendall(post(b"hello")[:-1])
        time.sleep(1.5)
        sock.sendall(b"o")
        answer = read_answer(sock)
        assert answer is not None
        assert answer.body == b"hello"


def test_what_cannot_be_parsed_is_refused_plainly(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """400, 431 or, for a defect, 500; nothing of the request in it or in the log, and the connection is closed."""
    for request, status in (
        (b"nonsense canary\r\n\r\n", 400),
        (get("/", "X canary"), 400),
        (get("/", "Transfer-Encoding: canary"), 400),
        (get("/", "X: canary" + "y" * 9000), 431),
        (get("/", *["X: canary"] * 101), 431),
        (get("/", *["X: canary" + "y" * 990] * 66)[:-2], 431),
        (get("/fail", "X: canary"), 500),
        (get("/media/uploads/fail", "X: canary"), 500),
    ):
        with running.connect() as sock:
            sock.sendall(request)
            answer = read_answer(sock)
            assert answer is not None
            assert answer.status == status
            assert answer.headers["Connection"] == "close"
            assert b"canary" not in answer.body
            assert ended(sock)
    assert "canary" not in caplog.text
    assert running.serves()
    servers.wait_for(lambda: not running.worker._watched and not running.worker._busy, 5)


def test_several_cookie_headers_are_told_from_one(running: Running) -> None:
    """They are joined by what no header can hold."""
    assert running.ask(post(b"", "Cookie: a=1", "X: y", "Cookie: b=2")).headers["X-Cookie"] == repr("a=1\nb=2")
    assert running.ask(post(b"", "Cookie: a=1, b=2")).headers["X-Cookie"] == repr("a=1, b=2")


def test_a_client_that_leaves_is_forgotten(running: Running) -> None:
    """Before, in and after a head, and in a body."""
    for beginning in (b"", get()[:20], get(), post(b"hello")[:-2]):
        sock = running.connect()
        sock.sendall(beginning)
        time.sleep(0.1)
        sock.close()
    servers.wait_for(lambda: not running.worker._watched and not running.worker._busy, 5)


def test_more_connections_than_allowed_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are served when others have gone, and those that are there are served on."""
    with limited(monkeypatch, connections=3) as worker, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(worker.connect()) for _ in range(8)]
        for number, sock in enumerate(socks):
            sock.sendall(numbered(number))
        answers = [read_answer(sock) for sock in socks[:3]]
        assert [answer and answer.headers["X-Request-ID"] for answer in answers] == ["0", "1", "2"]
        time.sleep(1.2)
        assert len(worker.worker._watched) == 3
        socks[0].sendall(numbered(100))
        assert read_answer(socks[0])
        for sock in socks[:3]:
            sock.close()
        answers = [read_answer(sock) for sock in socks[3:6]]
        assert [answer and answer.status for answer in answers] == [302] * 3


def test_connections_that_wait_for_a_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a thread works for are connections, too."""
    with limited(monkeypatch, connections=2) as worker, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(worker.connect()) for _ in range(3)]
        for sock in socks[:2]:
            sock.sendall(post(b"", path="/wait"))
            assert worker.application.waiting.acquire(timeout=10)
        socks[2].sendall(get())
        time.sleep(1.2)
        assert (len(worker.worker._watched), len(worker.worker._busy)) == (0, 2)
        worker.application.go_on.set()
        socks[0].close()
        answer = read_answer(socks[2])
        assert answer is not None
        assert answer.status == 302


def test_idle_connections_above_the_limit_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there are too many, an answer is the last one on its connection."""
    with limited(monkeypatch, IDLE_CONNECTIONS=2) as worker, contextlib.ExitStack() as stack:
        seen = []
        for _ in range(4):
            sock = stack.enter_context(worker.connect())
            sock.sendall(get())
            answer = read_answer(sock)
            assert answer is not None
            seen.append(answer.headers["Connection"])
            if seen[-1] == "close":
                assert ended(sock)
        assert seen == ["keep-alive", "keep-alive", "close", "close"]


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """This process cannot open another file while the context lasts."""
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_running_out_of_files(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """New connections wait until there is room, without a busy loop; those that are there are served."""
    with running.connect() as old, socket.socket() as new:
        new.settimeout(10)
        old.sendall(get())
        assert read_answer(old)
        with no_more_files():
            new.connect(running.address)
            new.sendall(get())
            began = time.monotonic()
            servers.wait_for(lambda: caplog.text.count("no room") == 2, 5)
            assert time.monotonic() - began > 0.5
            old.sendall(get())
            assert old.recv(12) == b"HTTP/1.1 302"
        answer = read_answer(new)
        assert answer is not None
        assert answer.status == 302


def test_running_out_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for which the system has no thread waits for one that there is; redirects need none."""
    with limited(monkeypatch) as worker, worker.connect() as first, worker.connect() as second:
        first.sendall(post(b"first", path="/wait"))
        assert worker.application.waiting.acquire(timeout=10)

        def start(_self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            second.sendall(post(b"second"))
            servers.wait_for(lambda: len(worker.worker._busy) == 2, 5)
            assert worker.ask(get()).status == 302
            worker.application.go_on.set()
            answers = [read_answer(sock) for sock in (first, second)]
        assert [answer and answer.body for answer in answers] == [b"first", b"second"]
        assert worker.serves()


def test_more_requests_than_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is answered when a thread is free."""
    with limited(monkeypatch, threads=2) as worker, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(worker.connect()) for _ in range(6)]
        for number, sock in enumerate(socks):
            sock.sendall(post(b"%d" % number, path="/wait"))
        for _ in range(2):
            assert worker.application.waiting.acquire(timeout=10)
        assert not worker.application.waiting.acquire(timeout=0.3)
        assert worker.ask(get()).status == 302
        worker.application.go_on.set()
        answers = [read_answer(sock) for sock in socks]
        assert [answer and answer.body for answer in answers] == [b"%d" % number for number in range(6)]


def test_a_connection_is_busy_until_its_answer_is_sent(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the next request is there before the thread that answered the last one has ended: SIGTERM waits for it."""
    watch = running.worker._watch

    def watch_and_dawdle(conn: Connection) -> None:
        watch(conn)
        if threading.current_thread() is not running._thread:
            time.sleep(0.5)

    monkeypatch.setattr(running.worker, "_watch", watch_and_dawdle)
    with running.connect() as sock:
        sock.sendall(post(b"hello"))
        assert read_answer(sock)
        sock.sendall(post(b"last", path="/wait"))
        assert running.application.waiting.acquire(timeout=10)
        time.sleep(0.8)
        running.stop()
        time.sleep(0.2)
        assert running._thread.is_alive()
        running.application.go_on.set()
        answer = read_answer(sock)
        assert answer is not None
        assert answer.body == b"last"


def test_what_is_under_way_when_it_stops(running: Running) -> None:
    """Nobody is let in any more, idle connections are closed, and an upload that has begun gets its answer, and the connection's last."""
    with running.connect() as idle, running.connect() as busy:
        busy.sendall(post(b"hello", path="/wait")[:-2])
        time.sleep(0.3)
        running.stop()
        assert ended(idle)
        with pytest.raises(ConnectionRefusedError):
            servers.wait_for(lambda: running.connect().close(), 5)
        busy.sendall(b"lo")
        assert running.application.waiting.acquire(timeout=10)
        running.application.go_on.set()
        answer = read_answer(busy)
        assert answer is not None
        assert (answer.body, answer.headers["Connection"]) == (b"hello", "close")
        assert ended(busy)


def test_the_arbiter_is_told_that_the_worker_lives(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second; and when there is no arbiter any more, the worker ends."""
    before = running.worker.tmp.last_update()
    servers.wait_for(lambda: running.worker.tmp.last_update() != before, 5)
    running.worker.ppid = 1
    servers.wait_for(lambda: not running._thread.is_alive(), 5)
