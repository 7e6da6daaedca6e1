"""gunicorn's side of an upload: the body reader and what happens to what nobody read."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

if sys.platform == "win32":
    pytest.skip("gunicorn is for Unix", allow_module_level=True)

from gunicorn.http import body as framing
from gunicorn.http.unreader import SocketUnreader

from media_storage import body_unix
from media_storage.body_unix import Body, Pace
from media_storage.errors import ShuttingDown, UploadTimeout


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        far.settimeout(10)  # the near one has none, as those that the worker accepts
        yield near, far


NO_HURRY = Pace(60, 0)


def with_length(sock: socket.socket, length: int, pace: Pace = NO_HURRY) -> Body:
    unreader = SocketUnreader(sock)
    return Body(SimpleNamespace(unreader=unreader, body=framing.Body(framing.LengthReader(unreader, length))), sock, pace)


def in_chunks(sock: socket.socket) -> Body:
    request = SimpleNamespace(unreader=SocketUnreader(sock))
    request.body = framing.Body(framing.ChunkedReader(request, request.unreader))
    return Body(request, sock, NO_HURRY)


def test_a_read_answers_what_has_arrived(pair: tuple[socket.socket, socket.socket]) -> None:
    """It does not wait for all that was asked for, so that a slow sender can be seen to be slow."""
    near, far = pair
    body = with_length(near, 10)
    far.sendall(b"abc")
    assert body.read(65_536) == b"abc"
    far.sendall(b"defghij")
    assert body.read(2) == b"de"
    assert body.read(65_536) == b"fghij"
    assert body.read(65_536) == b""


def test_the_next_requests_bytes_are_left_alone(pair: tuple[socket.socket, socket.socket]) -> None:
    """What follows the body belongs to the next request on the connection."""
    near, far = pair
    body = with_length(near, 3)
    far.sendall(b"abcGET / HTTP/1.1\r\n")
    assert body.read(100) == b"abc"
    assert body.read(100) == b""
    assert body._reader.unreader.read() == b"GET / HTTP/1.1\r\n"


def test_only_who_is_fast_is_read_in_large_pieces() -> None:
    """A read that was filled makes the next one larger; beside hundreds of slow uploads such reads would take too much memory."""

    class Sender:
        def __init__(self, *arriving: int) -> None:
            self.arriving = list(arriving)
            self.asked: list[int] = []

        def recv(self, size: int, _flags: int) -> bytes:
            self.asked.append(size)
            return bytes(min(size, self.arriving.pop(0)))

    sender = Sender(body_unix.READ_BYTES - 1, 10**9, 10**9, 1, 1)
    body = with_length(sender, 10**9)  # type: ignore[arg-type]
    for _ in range(5):
        body.read(10**9)
    slow, fast = body_unix.READ_BYTES, body_unix.FAST_READ_BYTES
    assert sender.asked == [slow, slow, fast, fast, slow]


def test_chunks_are_joined(pair: tuple[socket.socket, socket.socket]) -> None:
    """Whatever the chunks and however they arrive, read() never answers nothing before the end."""
    near, far = pair
    body = in_chunks(near)

    def send() -> None:
        for piece in (b"3\r\n", b"abc", b"\r\n", b"5;x=y\r\nde", b"fgh\r\n0\r\n", b"\r\n"):
            far.sendall(piece)
            time.sleep(0.02)

    thread = threading.Thread(target=send)
    thread.start()
    assert b"".join(iter(lambda: body.read(4), b"")) == b"abcdefgh"
    thread.join()
    assert body.discard()


@pytest.mark.parametrize("sent", [b"-1\r\nx", b"3\r\nabcdef", b"3\r\nab", b"zz\r\n"])
def test_a_malformed_or_cut_body_is_an_oserror(pair: tuple[socket.socket, socket.socket], sent: bytes) -> None:
    """Which the application takes for what it is: the client's fault. The connection serves no other request."""
    near, far = pair
    body = in_chunks(near)
    far.sendall(sent)
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match=r"malformed|Invalid|missing|NoMore|No more"):
        body.readall()
    assert not body.discard()


def test_a_body_shorter_than_declared_is_an_oserror(pair: tuple[socket.socket, socket.socket]) -> None:
    """The end of the connection is not the end of the body."""
    near, far = pair
    body = with_length(near, 10)
    far.sendall(b"abc")
    far.close()
    assert body.read(100) == b"abc"
    with pytest.raises(OSError, match="7 bytes before"):
        body.read(100)


def send_all(sock: socket.socket, data: bytes) -> None:
    """Sends in the background, for as long as somebody takes it."""

    def send() -> None:
        with contextlib.suppress(OSError):
            sock.sendall(data)

    threading.Thread(target=send, daemon=True).start()


def test_what_nobody_read_is_discarded_up_to_a_limit(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused client may finish sending; one that sends more than the limit is not listened to for ever."""
    monkeypatch.setattr(body_unix, "DISCARD_BYTES", 100_000)
    for length, ended in ((90_000, True), (200_000, False)):
        near, far = socket.socketpair()
        with near, far:
            send_all(far, b"x" * length)
            assert with_length(near, length).discard() is ended


def test_a_client_that_trickles_is_not_waited_for(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit is for the whole, not for each byte."""
    monkeypatch.setattr(body_unix, "DISCARD_SECONDS", 0.5)
    near, far = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.1):
            far.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    began = time.monotonic()
    assert not with_length(near, 1000).discard()
    assert time.monotonic() - began < 1.5
    stop.set()
    thread.join()


def test_it_is_a_whole_wsgi_input(pair: tuple[socket.socket, socket.socket]) -> None:
    """WSGI also asks for lines."""
    near, far = pair
    far.sendall(b"one\ntwo\nthree")
    body = with_length(near, 13)
    assert body.readline() == b"one\n"
    assert list(body) == [b"two\n", b"three"]


def drip(sock: socket.socket, stop: threading.Event, seconds: float = 0.05) -> threading.Thread:
    """Sends a byte now and then, until told to stop."""

    def send() -> None:
        while not stop.wait(seconds):
            sock.send(b"x")

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "trickling"])
def test_a_body_under_the_floor_is_refused(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    """Nothing at all, or a byte now and then: both end when the window is over, and the answer can still be sent."""
    monkeypatch.setattr(body_unix, "PACE_SECONDS", 0.5)
    near, far = pair
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait) if silent else drip(far, stop)
    if silent:
        thread.start()
    body = with_length(near, 10_000, Pace(60, 1024))
    began = time.monotonic()
    with pytest.raises(UploadTimeout):
        body.readall()
    assert 0.4 < time.monotonic() - began < 1.5
    stop.set()
    thread.join()
    near.sendall(b"HTTP/1.1 408 ")
    assert far.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.alone
def test_a_body_just_above_the_floor_is_not_refused(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow is allowed: window after window with enough in each."""
    monkeypatch.setattr(body_unix, "PACE_SECONDS", 0.5)
    near, far = pair
    stop = threading.Event()
    thread = drip(far, stop, 0.02)
    body = with_length(near, 60, Pace(60, 10))
    try:
        assert body.readall() == b"x" * 60
    finally:
        stop.set()
        thread.join()


def test_a_body_has_a_time_limit_as_a_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    """However steady it is."""
    near, far = pair
    stop = threading.Event()
    thread = drip(far, stop)
    began = time.monotonic()
    with pytest.raises(UploadTimeout, match="whole"):
        with_length(near, 10_000, Pace(0.5, 1)).readall()
    assert time.monotonic() - began < 1.5
    stop.set()
    thread.join()


def test_the_time_begins_when_the_body_is_asked_for(pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the backend takes for its answer is not counted against the client."""
    monkeypatch.setattr(body_unix, "PACE_SECONDS", 0.3)
    near, far = pair
    body = with_length(near, 3, Pace(0.3, 1024))
    time.sleep(0.5)
    far.sendall(b"abc")
    assert body.readall() == b"abc"


def test_a_body_can_be_interrupted(pair: tuple[socket.socket, socket.socket]) -> None:
    """When the process ends, whoever still sends is told so instead of being cut off."""
    near, far = pair
    body = with_length(near, 10)
    timer = threading.Timer(0.2, body.interrupt)
    timer.start()
    with pytest.raises(ShuttingDown):
        body.readall()
    near.sendall(b"HTTP/1.1 503 ")
    assert far.recv(100).startswith(b"HTTP/1.1 503")
    timer.join()


def test_tiny_chunks_are_allowed_only_in_small_numbers() -> None:
    """Each costs the same whatever is in it, so a body made of single bytes is not read to its end."""
    for count, allowed in ((10_000, True), (50_000, False)):
        near, far = socket.socketpair()
        with near, far:
            send_all(far, b"1\r\nx\r\n" * count + b"0\r\n\r\n")
            body = in_chunks(near)
            if allowed:
                assert body.readall() == b"x" * count
            else:
                with pytest.raises(OSError, match="too small"):
                    body.readall()
