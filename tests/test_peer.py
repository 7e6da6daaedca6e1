"""Calls to one server: an answer is whole in time, or the call fails in time; whatever comes, and from however many threads."""

import contextlib
import gc
import io
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import servers
import tls
from media_storage import peer as module
from media_storage.peer import BLOCK_BYTES, BODY_BYTES, MAX_HEADERS, Answer, Broken, CallFailed, Malformed, Peer, TooLate, Unreachable
from scripted import Answer as Script
from scripted import Request, Server, after, ending, in_chunks, serving, stop, trickle, whole

TIMEOUT = 0.3
LATE = 1.5  # no call with TIMEOUT may take this long, on a busy machine either
BIG = bytes(range(256)) * 20_000  # 5 MB
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

Serve = Callable[[Script], AbstractContextManager[Server]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1, in one file."""
    return tls.self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def serve_tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Starts servers with a certificate that new peers trust."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    return partial(serving, certificate=certificate)


@pytest.fixture(params=["http", "https"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Starts servers, with and without TLS."""
    return serving if request.param == "http" else request.getfixturevalue("serve_tls")


def get(peer: Peer, seconds: float = 10) -> Answer:
    return peer.call("GET", "/x", {"Accept": "*/*"}, seconds)


def put(peer: Peer, file: BinaryIO, seconds: float = 10) -> Answer:
    size = file.seek(0, io.SEEK_END)
    file.seek(size // 2)  # wherever it stands
    return peer.call("PUT", "/x", {"Content-Length": str(size)}, seconds, body=file)


def forgotten(server: Server) -> None:
    """Fails unless every connection to the server is closed soon."""
    servers.wait_for(lambda: server.open == 0, 5)


# --- what is said ---


def test_a_request_says_what_it_was_given_and_the_host() -> None:
    """Nothing is added but Host, which a caller may name too: what is signed is what goes out."""
    with serving(whole(b"ok")) as server:
        peer = Peer(f"{server.url}/not/this?path")
        peer.call("GET", "/a?b=c", {"X-One": "1", "Cookie": "na\xefve=\xff"}, 10)
        peer.call("DELETE", "/", {"Host": "other"}, 10)
    host = server.url.removeprefix("http://").encode()
    assert [request.head for request in server.requests] == [
        b"GET /a?b=c HTTP/1.1\r\nHost: " + host + b"\r\nX-One: 1\r\nCookie: na\xefve=\xff\r\n\r\n",
        b"DELETE / HTTP/1.1\r\nHost: other\r\n\r\n",
    ]


@pytest.mark.parametrize("bad", ["a\r\nX-Other: 1", "a\nX-Other: 1", "a\rX-Other: 1", "a\r\n\r\nGET / HTTP/1.1", "\r", "\n", "snow \u2603"])
@pytest.mark.parametrize("where", ["method", "target", "name", "value"])
def test_what_would_be_another_header_is_refused(bad: str, where: str) -> None:
    """A line break anywhere, or what no header can carry: nothing is sent, and nobody is connected to."""
    parts = {"method": "GET", "target": "/", "name": "X", "value": "1", where: bad}
    with serving(whole(b"ok")) as server:
        with pytest.raises(Malformed):
            Peer(server.url).call(parts["method"], parts["target"], {parts["name"]: parts["value"]}, 10)
        assert server.connections == 0


def filled(file: IO[bytes], content: bytes) -> BinaryIO:
    file.write(content)
    return cast("BinaryIO", file)


BODIES: dict[str, Callable[[bytes], BinaryIO]] = {
    "memory": io.BytesIO,
    "spool in memory": lambda content: filled(tempfile.SpooledTemporaryFile(), content),  # noqa: SIM115 - the test closes it
    "spool on disk": lambda content: filled(tempfile.SpooledTemporaryFile(max_size=1), content),  # noqa: SIM115 - the same
    "file": lambda content: filled(tempfile.TemporaryFile(), content),  # noqa: SIM115 - the same
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_arrives_whole(serve: Serve, kind: str) -> None:
    """Whatever holds it, wherever that stands, and however its size lies to the block that goes out with the head."""
    with serve(whole(b"ok")) as server:
        peer = Peer(server.url)
        for size in (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 1_048_576, 10_485_760):
            content = os.urandom(size)
            with BODIES[kind](content) as file:
                assert put(peer, file).body == b"ok"
            assert server.requests.pop().body == content
        assert server.connections == 1


def test_a_server_that_takes_its_time_gets_the_whole_body(serve: Serve) -> None:
    """The time is for each block, not for all: a large body over a slow line is no failure."""
    with serve(whole(b"ok")) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        server.pause, server.piece = 0.05, 524_288
        content = BIG * 4
        began = time.monotonic()
        assert put(Peer(server.url), io.BytesIO(content), 0.9).body == b"ok"
        assert time.monotonic() - began > 1
        assert server.requests[0].body == content


def test_a_deaf_server_is_given_up(serve: Serve) -> None:
    """One that takes nothing is cut when the time for a block is over."""
    with serve(whole(b"ok")) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.pause = 5
        began = time.monotonic()
        with pytest.raises(TooLate):
            put(Peer(server.url), io.BytesIO(BIG * 4), TIMEOUT)
        assert TIMEOUT * 0.9 < time.monotonic() - began < LATE


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a reset may discard what came before it")
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_server_that_refuses_before_it_has_read_is_heard(serve: Serve, kind: str) -> None:
    """It answers at once and hangs up on the rest of the body: its answer counts, and is not asked for again."""
    with serve(ending(whole(b"too large", status=b"413 Nope"))) as server:
        server.reads_body = False
        peer = Peer(server.url)
        for _ in range(3):
            with BODIES[kind](BIG * 2) as file:
                assert put(peer, file) == Answer(413, "", b"too large")
        assert len(server.requests) == 3


# --- time ---


def talk_on(sock: socket.socket, _request: Request) -> None:
    """Interim answers as fast as they are taken."""
    while True:
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


SLOW: dict[str, Script] = {
    "nothing": stop(b""),
    "status line": trickle(b"", b"HTTP/1.1 200 OK" + b"!" * 100),
    "headers": trickle(HEAD, b"X-A: b\r\n" * 20),
    "one long header": trickle(HEAD + b"X-A: ", b"a" * 100),
    "interim answers": trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 5),
    "interim answers without an end": talk_on,
    "body": trickle(HEAD + b"Content-Length: 100\r\n\r\n", b"a" * 100),
    "body without a length": trickle(HEAD + b"\r\n", b"a" * 100),
    "chunks": trickle(CHUNKED, b"1\r\na\r\n" * 20),
    "trailers": trickle(CHUNKED + b"0\r\n", b"X-A: b\r\n" * 20),
    "all but the last byte": stop(whole(b"a" * 60_000)[:-1]),
    "a length that never comes": stop(HEAD + b"Content-Length: 999999999999999999\r\n\r\nabc"),
}


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW)
def test_a_slow_answer_is_cut_at_the_deadline(answer: Script) -> None:
    """Wherever an answer trickles or stops, the call ends in TooLate when its time is over, and its connection with it."""
    with serving(answer) as server:
        began = time.monotonic()
        with pytest.raises(TooLate) as caught:
            get(Peer(server.url), TIMEOUT)
        assert TIMEOUT * 0.9 < time.monotonic() - began < LATE
        assert len(server.requests) == 1
        forgotten(server)
    assert caught.value


@pytest.mark.parametrize("name", ["headers", "chunks", "all but the last byte"])
def test_the_deadline_holds_over_tls(serve_tls: Serve, name: str) -> None:
    """An https store or backend is bounded like one without."""
    with serve_tls(SLOW[name]) as server:
        began = time.monotonic()
        with pytest.raises(TooLate):
            get(Peer(server.url), TIMEOUT)
        assert TIMEOUT * 0.9 < time.monotonic() - began < LATE


def test_an_answer_in_time_may_trickle(serve: Serve) -> None:
    """Slow is not late: an answer in small pieces that is whole before the deadline is taken."""
    with serve(trickle(HEAD + b"Content-Length: 4\r\n\r\n", b"abcd")) as server:
        assert get(Peer(server.url)).body == b"abcd"


def test_the_status_is_enough_of_what_is_not_success() -> None:
    """A refusal whose body never ends, or is cut, is a refusal all the same, when the time is over; its connection is not kept."""
    for script in (stop(b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\n"), ending(b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nabc")):
        with serving(script) as server:
            assert get(Peer(server.url), TIMEOUT) == Answer(503, "", b"")
            forgotten(server)


def test_each_call_has_a_deadline_of_its_own() -> None:
    """The time that a first call used or left on a kept connection says nothing about the next one."""
    with serving(whole(b"ok")) as server:
        peer = Peer(server.url)
        assert get(peer, TIMEOUT).body == b"ok"
        time.sleep(2 * TIMEOUT)
        assert get(peer, TIMEOUT).body == b"ok"
        server.answer = after(2 * TIMEOUT, whole(b"late"))
        assert get(peer, 10).body == b"late"
        assert server.connections == 1


def test_a_short_call_does_not_shorten_the_sending_of_the_next() -> None:
    """A large body may go out over a connection whose last call had little time, to a server that reads late."""
    with serving(whole(b"ok")) as server:
        peer = Peer(server.url)
        assert get(peer, TIMEOUT).body == b"ok"
        server.pause = 2 * TIMEOUT
        assert put(peer, io.BytesIO(BIG * 4)).body == b"ok"
        assert server.connections == 1


def test_a_late_answer_is_nobodys() -> None:
    """The rest of a late answer cannot become the answer to somebody else's call."""
    with serving(after(2 * TIMEOUT, whole(b"somebody's"))) as server:
        peer = Peer(server.url)
        with pytest.raises(TooLate):
            get(peer, TIMEOUT)
        server.answer = whole(b"mine")
        assert get(peer).body == b"mine"
        assert server.connections == 2


def test_until_bounds_all_of_a_call() -> None:
    """However much time each step may have: a slow answer, and the second try after a first that took most of it."""
    for answer, connections in ((trickle(HEAD, b"X: " + b"y" * 200), 1), (after(0.7, b""), 2)):
        with serving(answer) as server:
            began = time.monotonic()
            with pytest.raises(TooLate):
                Peer(server.url).call("GET", "/", {}, 10, until=time.monotonic() + 1)
            assert time.monotonic() - began < 1 + LATE
            assert server.connections == connections


def test_the_last_wait_is_no_longer_than_what_is_left() -> None:
    """An answer that stops just before its time is over does not get the same time once more."""

    def stop_late(sock: socket.socket, request: Request) -> None:
        trickle(HEAD, b"X: " + b"y" * 22)(sock, request)  # type: ignore[operator]
        time.sleep(5)

    with serving(stop_late) as server:
        began = time.monotonic()
        with pytest.raises(TooLate):
            get(Peer(server.url), 1.5)
        assert time.monotonic() - began < 2.5


def test_a_call_whose_time_is_over_is_not_made() -> None:
    """Nobody is connected to, and a kept connection is not asked."""
    with serving(whole(b"ok")) as server:
        peer = Peer(server.url)
        for calls in (0, 1):
            with pytest.raises(TooLate):
                peer.call("GET", "/", {}, 10, until=time.monotonic())
            assert len(server.requests) == server.connections == calls
            get(peer)


# --- connections ---


@pytest.mark.parametrize("size", [0, 1, 8192, 60_000, BODY_BYTES, BODY_BYTES + 1])
def test_connections_are_kept(serve: Serve, size: int) -> None:
    """After a complete answer of any size the connection serves the next call, and the bytes are right."""
    body = BIG[:size]
    with serve(whole(body)) as server:
        peer = Peer(server.url)
        for _ in range(5):
            assert get(peer).body == body
        assert server.connections == 1


def test_connections_are_kept_after_chunks(serve: Serve) -> None:
    """Chunks are joined, and the connection is used again behind the last one and its trailers."""
    long = BIG[:40_000]
    extended = CHUNKED + b"1;x=y\r\na\r\n00009C40 \r\n" + long + b"\r\n1\nb\n0\r\nX-Trailer: z\r\n\r\n"
    for answer in (in_chunks(b"a", long, b"b"), extended):
        with serve(answer) as server:
            peer = Peer(server.url)
            for _ in range(3):
                assert get(peer).body == b"a" + long + b"b"
            assert server.connections == 1


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_connections_are_kept_after_answers_without_a_body(status: bytes) -> None:
    """By their status these have none, whatever their headers say of another answer."""
    with serving(b"HTTP/1.1 " + status + b"\r\nContent-Length: 100\r\n\r\n") as server:
        peer = Peer(server.url)
        for _ in range(3):
            assert get(peer) == Answer(int(status[:3]), "", b"")
        assert server.connections == 1


NOT_KEPT: dict[str, bytes] = {
    "close": whole(b"ok", b"Connection: close"),
    "Close": whole(b"ok", b"CONNECTION:Close"),
    "HTTP/1.0": whole(b"ok").replace(b"1.1", b"1.0"),
    "HTTP/1.0 keep-alive": whole(b"ok", b"Connection: keep-alive").replace(b"1.1", b"1.0"),
    "more than the answer": whole(b"ok") + b"HTTP",
    "more than the last chunk": in_chunks(b"ok") + b"\r\n",
    "a second answer": whole(b"ok") + whole(b"not yours"),
}


@pytest.mark.parametrize("answer", NOT_KEPT.values(), ids=NOT_KEPT)
def test_connections_that_are_not_kept(answer: bytes) -> None:
    """Where the server says so, or says more than it was asked: the next call opens a connection of its own."""
    with serving(answer) as server:
        peer = Peer(server.url)
        for number in (1, 2, 3):
            assert get(peer).body == b"ok"
            forgotten(server)
            assert server.connections == number


def test_the_end_of_a_connection_ends_an_answer_without_a_length(serve: Serve) -> None:
    """As HTTP/1.0 had it, and some servers still do."""
    for head in (b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200\r\n\r\n"):
        with serve(ending(head + b"hello")) as server:
            peer = Peer(server.url)
            assert [get(peer).body for _ in range(2)] == [b"hello"] * 2
            assert server.connections == 2


@pytest.mark.parametrize("padding", range(8188, 8195))
def test_what_follows_an_answer_is_no_answer(serve: Serve, padding: int) -> None:
    """Wherever the first answer ends in what is received at once, the next call gets its own; or fails, and gets nobody else's."""
    answer = whole(b"")
    answer = answer[:-4] + b"\r\nX: " + b"x" * (padding - len(answer) - 5) + b"\r\n\r\n"
    assert len(answer) == padding
    with serve(whole(b"mine")) as server:
        server.script = [answer + whole(b"somebody's")]
        peer = Peer(server.url)
        assert get(peer).body == b""
        assert get(peer).body == b"mine"


def test_what_comes_unasked_is_no_answer() -> None:
    """Bytes on an idle connection, as of a server that says 408 before it hangs up, belong to nobody."""

    def twice(sock: socket.socket, _request: Request) -> bytes | None:
        sock.sendall(whole(b"ok"))
        time.sleep(0.1)
        return whole(b"unasked")

    with serving(whole(b"mine")) as server:
        server.script = [twice]
        peer = Peer(server.url)
        assert get(peer).body == b"ok"
        time.sleep(0.3)
        assert get(peer).body == b"mine"
        assert (server.connections, len(server.requests)) == (2, 2)


def test_a_connection_that_ended_while_idle_is_not_asked() -> None:
    """The next call goes over a new one at once: no request is sent twice."""
    with serving(whole(b"new")) as server:
        server.script = [ending(whole(b"old"))]
        peer = Peer(server.url)
        assert get(peer).body == b"old"
        forgotten(server)
        assert put(peer, io.BytesIO(BIG)).body == b"new"
        assert [request.body for request in server.requests] == [b"", BIG]


def test_a_connection_that_dies_under_the_request_is_replaced_once(serve: Serve) -> None:
    """By a new one, which gets the whole body again; not by another of the kept ones, which may be as dead."""
    content = os.urandom(200_000)
    with serve(whole(b"ok")) as server:
        peer = Peer(server.url)
        meet = threading.Barrier(3)

        def together(_sock: socket.socket, _request: Request) -> bytes:
            meet.wait(10)
            return whole(b"ok")

        server.script = [together] * 3
        with ThreadPoolExecutor(3) as threads:
            assert [answer.body for answer in threads.map(get, [peer] * 3)] == [b"ok"] * 3
        assert server.connections == 3
        server.script = [ending(b"")]
        with BODIES["spool on disk"](content) as file:
            assert put(peer, file).body == b"ok"
        assert [request.body for request in server.requests[3:]] == [content] * 2
        assert server.connections == 4


CUT: dict[str, bytes] = {
    "no answer": b"",
    "in the status line": b"HTTP/1.1 2",
    "in HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\x00\x04\x00\x01\x00\x00\x00\x05\x00\xff\xff\xff",
    "after an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "in the headers": HEAD + b"Content-Le",
    "between headers": HEAD + b"Content-Length: 0\r\n",
    "before the body": HEAD + b"Content-Length: 5\r\n\r\n",
    "before the last byte": whole(BIG[:60_000])[:-1],
    "in a large body": HEAD + b"Content-Length: 999999999999999999\r\n\r\nabc",
    "in a chunk's size": CHUNKED + b"1",
    "in a chunk": CHUNKED + b"5\r\nabc",
    "between chunks": CHUNKED + b"5\r\nabcde\r\n",
    "before the trailers' end": CHUNKED + b"5\r\nabcde\r\n0\r\n",
}


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
def test_a_cut_answer_is_no_answer(answer: bytes) -> None:
    """What ends before it is whole is an error, and not a shorter answer. It is asked for twice and not more."""
    with serving(ending(answer)) as server:
        with pytest.raises(Broken) as caught:
            put(Peer(server.url), io.BytesIO(BIG))
        assert [request.body for request in server.requests] == [BIG, BIG]
        forgotten(server)
    assert caught.value


def test_a_cut_answer_over_tls_is_no_answer(serve_tls: Serve) -> None:
    """The same where the end of the connection is an end of TLS first."""
    with serve_tls(ending(CUT["between chunks"])) as server, pytest.raises(Broken):
        get(Peer(server.url))


def test_a_closed_port_fails_at_once() -> None:
    """Nobody there is an error of its own, not a timeout."""
    peer = Peer(f"http://127.0.0.1:{servers.free_port()}")
    with pytest.raises(Unreachable):
        get(peer, 60)


def test_a_name_that_leads_nowhere() -> None:
    """Neither what nobody has registered nor what cannot be a name."""
    for host in ("nowhere.invalid", "x" * 70, "a..b"):
        with pytest.raises(Unreachable):
            get(Peer(f"http://{host}:9/"), 60)


def test_threads_share_a_peer() -> None:
    """Each gets the answer to its own request, and they open no more connections than there are threads."""

    def echo(_sock: socket.socket, request: Request) -> bytes:
        return whole(request.head.split(b" ")[1] + request.body)

    def talk(thread: int) -> None:
        for number in range(40):
            said = f"/{thread}/{number}"
            body = os.urandom(number * 10)
            answer = peer.call("PUT", said, {"Content-Length": str(len(body))}, 30, body=io.BytesIO(body))
            assert answer.body == said.encode() + body

    with serving(echo) as server:
        peer = Peer(server.url)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(talk, range(8)))
        assert server.connections <= 8


def test_no_more_connections_are_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd opens as many as it needs; afterwards those above the limit are closed, and with the peer the rest."""
    monkeypatch.setattr(module, "KEPT_CONNECTIONS", 2)
    meet = threading.Barrier(6)

    def together(_sock: socket.socket, _request: Request) -> bytes:
        meet.wait(10)
        return whole(b"ok")

    with serving(together) as server:
        peer = Peer(server.url)
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(get, [peer] * 6))
        assert server.connections == 6
        servers.wait_for(lambda: server.open == 2, 5)
        del peer
        gc.collect()
        forgotten(server)


def test_an_url_that_cannot_be_called() -> None:
    """Fails once, where it is given, and not again when what was half made is cleared away."""
    with pytest.raises(KeyError):
        Peer("ftp://127.0.0.1")
    gc.collect()


# --- what comes ---

MALFORMED: dict[str, bytes] = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "the version of HTTP/2": b"HTTP/2 200\r\n\r\n",
    "HTTP/0.9": b"<html>\r\n",
    "an empty line": b"\r\n" + whole(b"ok"),
    "a space before the status line": b" " + whole(b"ok"),
    "a version in lower case": b"http/1.1 200 OK\r\n\r\n",
    "a version of more digits": b"HTTP/1.11 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 99 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status of zeros": b"HTTP/1.1 000 OK\r\n\r\n",
    "a negative status": b"HTTP/1.1 -20 OK\r\n\r\n",
    "a status with a phrase too near": b"HTTP/1.1 200OK\r\n\r\n",
    "a status too far": b"HTTP/1.1  200 OK\r\n\r\n",
    "a status in other digits": "HTTP/1.1 \u0662\u0660\u0660 OK\r\n\r\n".encode(),
    "a carriage return in the phrase": b"HTTP/1.1 200 O\rK\r\n\r\n",
    "a status line that is too long": HEAD[:-2] + b"K" * 70_000 + b"\r\n\r\n",
    "a header without a colon": HEAD + b"Content-Length\r\n\r\n",
    "a folded header": HEAD + b"X: a\r\n folded\r\n\r\n",
    "a header that is too long": HEAD + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    "too many headers": HEAD + b"X: a\r\n" * (MAX_HEADERS + 1) + b"\r\n",
    "contradicting lengths": HEAD + b"Content-Length: 1\r\ncontent-length: 2\r\n\r\nab",
    "two lengths in one": HEAD + b"Content-Length: 1, 2\r\n\r\nab",
    "an empty length": HEAD + b"Content-Length:\r\n\r\n",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\nab",
    "a length with a sign": HEAD + b"Content-Length: +1\r\n\r\nab",
    "a length with a space": HEAD + b"Content-Length: 1 0\r\n\r\nab",
    "a length with an underscore": HEAD + b"Content-Length: 1_0\r\n\r\nab",
    "a hexadecimal length": HEAD + b"Content-Length: 0x1\r\n\r\nab",
    "a length in other digits": HEAD + "Content-Length: \u0661\r\n\r\nab".encode(),
    "a length that is no number": HEAD + b"Content-Length: many\r\n\r\nab",
    "a length of 19 digits": HEAD + b"Content-Length: " + b"9" * 19 + b"\r\n\r\nab",
    "a length of 5000 digits": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nab",
    "an unknown coding": HEAD + b"Transfer-Encoding: gzip\r\n\r\nab",
    "a coding over chunks": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an empty coding": HEAD + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "a chunk without a size": CHUNKED + b"\r\nab\r\n",
    "a chunk of no number": CHUNKED + b"xy\r\nab\r\n",
    "a chunk of a negative size": CHUNKED + b"-2\r\nab\r\n",
    "a chunk's size with 0x": CHUNKED + b"0x2\r\nab\r\n",
    "a chunk's size behind a space": CHUNKED + b" 2\r\nab\r\n",
    "a chunk of 64 bits": CHUNKED + b"ffffffffffffffff\r\nab\r\n",
    "a chunk that is longer than it says": CHUNKED + b"2\r\nabc\r\n0\r\n\r\n",
    "a chunk with an endless extension": CHUNKED + b"2;" + b"x" * 70_000,
    "a trailer without a colon": CHUNKED + b"2\r\nab\r\n0\r\ntrailer\r\n\r\n",
    "too many trailers": CHUNKED + b"0\r\n" + b"X: a\r\n" * (MAX_HEADERS + 1) + b"\r\n",
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_http(answer: bytes) -> None:
    """It is told from an outage, at once, and not asked for again; its connection is closed, however long the error is kept."""
    with serving(answer) as server:
        with pytest.raises(Malformed) as caught:
            get(Peer(server.url), 60)
        assert len(server.requests) == 1
        forgotten(server)
    assert caught.value


@pytest.mark.parametrize(
    "name", ["a negative length", "a length of 5000 digits", "an unknown coding", "a chunk of no number", "too many trailers"]
)
def test_a_refusal_counts_whatever_its_body(name: str) -> None:
    """What is not success says enough by its status; its connection is not kept."""
    with serving(MALFORMED[name].replace(b"200 OK", b"401 No")) as server:
        assert get(Peer(server.url)) == Answer(401, "", b"")
        forgotten(server)


def test_what_is_only_unusual() -> None:
    """Line feeds alone, no phrase, many headers, the same length twice, names in any case, a coding: all of it is HTTP in use."""
    usual = {
        b"HTTP/1.1 200\nContent-Length: 2\n\nok": "",
        b"HTTP/1.1 200 \r\nCONTENT-LENGTH:2\r\n\r\nok": "",
        whole(b"ok", *[b"X: y"] * (MAX_HEADERS - 1)): "",
        whole(b"ok", b"Content-Length: 2"): "",
        whole(b"ok", b"Content-Encoding: GZip"): "gzip",
        whole(b"ok", b"X: " + b"y" * 65_000): "",
        HEAD + b"Transfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n": "",
        HEAD + b"Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n": "",
        HEAD + b"X\xff: \xfe\r\nContent-Length: 000002\r\n\r\nok": "",
    }
    for answer, coding in usual.items():
        with serving(answer) as server:
            peer = Peer(server.url)
            assert [get(peer) for _ in range(2)] == [Answer(200, coding, b"ok")] * 2
            assert server.connections == 1


def test_interim_answers_are_passed_over() -> None:
    """Any number of them, with headers; what counts is the one that follows."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 5\r\n\r\n"
    with serving(interim * 500 + whole(b"ok", status=b"201 Made")) as server:
        peer = Peer(server.url)
        assert [get(peer) for _ in range(2)] == [Answer(201, "", b"ok")] * 2
        assert server.connections == 1


def in_two(sock: socket.socket, _request: Request) -> bytes:
    """What is read of a large chunk, and the rest of it later."""
    sock.sendall(CHUNKED + b"f4240\r\n" + b"a" * (BODY_BYTES + 1))
    time.sleep(0.2)
    return b"a" * (1_000_000 - BODY_BYTES - 1) + b"\r\n0\r\n\r\n"


LARGE: dict[str, Script] = {
    "one byte too many": whole(b"a" * (BODY_BYTES + 2)),
    "5 MB": whole(b"a" * 5_000_000),
    "one chunk": in_chunks(b"a" * 5_000_000),
    "chunks": in_chunks(*[b"a" * 10_000] * 500),
    "one chunk in two pieces": in_two,
    "without an end": ending(HEAD + b"\r\n" + b"a" * 5_000_000),
    "and cut later": ending(HEAD + b"Content-Length: 5000000\r\n\r\n" + b"a" * 100_000),
}


@pytest.mark.parametrize("answer", LARGE.values(), ids=LARGE)
def test_of_a_large_body_no_more_is_read_than_tells_that_it_is(answer: Script) -> None:
    """`BODY_BYTES` and one more; what is left of it ends with the connection."""
    with serving(answer) as server:
        peer = Peer(server.url)
        for number in (1, 2):
            assert get(peer).body == b"a" * (BODY_BYTES + 1)
            forgotten(server)
            assert server.connections == number


TOKENS = [
    HEAD,
    b"HTTP/1.1 401 No\r\n",
    b"HTTP/1.0 200\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 \r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: %d\r\n" % 10**30,
    b"Content-Length: " + b"1" * 5000,
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Content-Encoding: \xff\r\n",
    b"X: y\r\n" * 99,
    b"\r\n",
    b"\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"ffffffff\r\n",
    b"hello",
    b"x" * 70_000,
]


@pytest.fixture(scope="module")
def listener() -> Iterator[Server]:
    with serving(b"") as server:
        yield server


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(TOKENS) | st.binary(max_size=12), max_size=12).map(b"".join), st.sampled_from([True] * 9 + [False]))
def test_whatever_comes_is_an_answer_or_a_failed_call(listener: Server, data: bytes, ends: bool) -> None:
    """And nothing else: no other exception, and neither after the deadline, whether or not the server hangs up."""
    listener.answer = ending(data) if ends else stop(data)
    began = time.monotonic()
    with contextlib.suppress(CallFailed):
        answer = get(Peer(listener.url), 0.1 if not ends else 5)
        assert 200 <= answer.status <= 999
        assert len(answer.body) <= BODY_BYTES + 1
    assert time.monotonic() - began < (LATE if not ends else 5)


# --- TLS ---


def test_a_certificate_that_nobody_vouches_for(certificate: Path) -> None:
    """The server is not asked: no request leaves on such a connection."""
    with serving(whole(b"ok"), certificate) as server:
        with pytest.raises(Unreachable, match="certificate verify failed"):
            get(Peer(server.url))
        assert server.requests == []


def test_a_certificate_of_another_host(serve_tls: Serve) -> None:
    """One that is trusted, and not for this name."""
    with serve_tls(whole(b"ok")) as server:
        with pytest.raises(Unreachable, match="certificate verify failed"):
            get(Peer(server.url.replace("127.0.0.1", "localhost")))
        assert server.requests == []


def test_a_server_that_does_not_speak_tls() -> None:
    """One that says something else, and one that says nothing: both are given up in time."""
    with serving(whole(b"ok")) as server, socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (server.server_address[1], silent.getsockname()[1]):
            began = time.monotonic()
            with pytest.raises(Unreachable):
                get(Peer(f"https://127.0.0.1:{port}"), TIMEOUT)
            assert time.monotonic() - began < LATE
