"""Faults on purpose: a listener in front of a real server that misbehaves as it is told."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

PIECE = 65_536


class Front:
    """A TCP listener on loopback in front of `target`. Its behaviour can be changed; that drops the open connections."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("http://").partition("/")[0].partition(":")
        self._target = (host, int(port))
        self._behaviour: Behaviour = passing
        self._open: list[socket.socket] = []
        self.received = 0  # bytes from clients, and to them, since the behaviour was changed
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close_listener()
        self._drop()

    @contextmanager
    def behaving(self, behaviour: "Behaviour") -> Iterator[None]:
        """Misbehaves while the context lasts."""
        self._behaviour = behaviour
        self._drop()
        self.received = self.sent = 0
        try:
            yield
        finally:
            self._behaviour = passing
            self._drop()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Nobody listens while the context lasts."""
        self._close_listener()
        self._drop()
        try:
            yield
        finally:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def connect(self) -> socket.socket:
        far = socket.create_connection(self._target)
        self._open.append(far)
        return far

    def take(self, near: socket.socket) -> bytes:
        piece = near.recv(PIECE)
        self.received += len(piece)
        return piece

    def give(self, near: socket.socket, piece: bytes) -> None:
        near.sendall(piece)
        self.sent += len(piece)

    def take_request(self, near: socket.socket) -> None:
        """Reads one request with its body. Raises ConnectionError when it ends before that."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.take(near)
            if not piece:
                raise ConnectionError
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
        left = length - len(rest)
        while left > 0 and (piece := self.take(near)):
            left -= len(piece)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                self._open.append(near)
                threading.Thread(target=self._serve, args=(near, self._behaviour), daemon=True).start()

    def _serve(self, near: socket.socket, behaviour: "Behaviour") -> None:
        with contextlib.suppress(OSError):
            behaviour(self, near)
        near.close()

    def _close_listener(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends accept() in the other thread
        self._listener.close()

    def _drop(self) -> None:
        dropped, self._open = self._open, []
        for sock in dropped:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


Behaviour = Callable[[Front, socket.socket], None]


def reset(sock: socket.socket) -> None:
    """Closes with RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _answers(front: Front, far: socket.socket, near: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := far.recv(PIECE):
            front.give(near, piece)
        near.shutdown(socket.SHUT_WR)


def _relay(front: Front, near: socket.socket, change: Callable[[int, bytes], bytes]) -> None:
    """Passes bytes both ways; `change` gets each of the client's pieces with its offset."""
    with front.connect() as far:
        answers = threading.Thread(target=_answers, args=(front, far, near), daemon=True)
        answers.start()
        offset = 0
        with contextlib.suppress(OSError):
            while piece := front.take(near):
                far.sendall(change(offset, piece))
                offset += len(piece)
        with contextlib.suppress(OSError):
            far.shutdown(socket.SHUT_WR)
        answers.join()


def passing(front: Front, near: socket.socket) -> None:
    """As if it were not there."""
    _relay(front, near, lambda _, piece: piece)


def recording(into: bytearray) -> Behaviour:
    """Passes everything, and keeps what the clients send."""

    def behave(front: Front, near: socket.socket) -> None:
        def change(_: int, piece: bytes) -> bytes:
            into.extend(piece)
            return piece

        _relay(front, near, change)

    return behave


def hanging(front: Front, near: socket.socket) -> None:
    """Takes everything and never answers."""
    while front.take(near):
        pass


def deaf(front: Front, near: socket.socket) -> None:
    """Accepts and takes nothing."""
    near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    time.sleep(30)


def resetting(front: Front, near: socket.socket) -> None:
    """Resets the connection when a request has begun."""
    front.take(near)
    reset(near)


def cutting(after: int) -> Behaviour:
    """Resets both sides when `after` bytes of a connection's requests have passed."""

    def behave(front: Front, near: socket.socket) -> None:
        def change(offset: int, piece: bytes) -> bytes:
            if offset + len(piece) > after:
                reset(near)
                raise ConnectionError
            return piece

        _relay(front, near, change)

    return behave


def flipping(offset_to_flip: int) -> Behaviour:
    """Changes one bit of what a connection's client sends; the length stays."""

    def behave(front: Front, near: socket.socket) -> None:
        def change(offset: int, piece: bytes) -> bytes:
            index = offset_to_flip - offset
            return piece[:index] + bytes([piece[index] ^ 1]) + piece[index + 1 :] if 0 <= index < len(piece) else piece

        _relay(front, near, change)

    return behave


def throttled(bytes_per_second: int) -> Behaviour:
    """Takes no more than this from each connection."""

    def behave(front: Front, near: socket.socket) -> None:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)

        def change(_: int, piece: bytes) -> bytes:
            time.sleep(len(piece) / bytes_per_second)
            return piece

        _relay(front, near, change)

    return behave


def losing_answers(front: Front, near: socket.socket) -> None:
    """Lets the server do what it is asked and resets the connection instead of passing on its answer."""
    with front.connect() as far:

        def send() -> None:
            with contextlib.suppress(OSError):
                while piece := front.take(near):
                    far.sendall(piece)

        threading.Thread(target=send, daemon=True).start()
        far.recv(PIECE)
        reset(near)


def answering(raw: bytes) -> Behaviour:
    """Reads each request to its end and answers these bytes; the server behind is not asked."""

    def behave(front: Front, near: socket.socket) -> None:
        front.take_request(near)
        front.give(near, raw)

    return behave


def once(behaviour: Behaviour) -> Behaviour:
    """Misbehaves on the first connection and passes the others."""
    used = threading.Lock()

    def behave(front: Front, near: socket.socket) -> None:
        (behaviour if used.acquire(blocking=False) else passing)(front, near)

    return behave


def early(raw: bytes) -> Behaviour:
    """Answers these bytes as soon as a request begins, and reads no more of it."""

    def behave(front: Front, near: socket.socket) -> None:
        front.take(near)
        front.give(near, raw)
        time.sleep(0.1)
        near.close()

    return behave


def trickling(raw: bytes, seconds: float = 0.1, at_once: int = 0) -> Behaviour:
    """Reads a request and answers these bytes, all but the first few one at a time."""

    def behave(front: Front, near: socket.socket) -> None:
        front.take_request(near)
        front.give(near, raw[:at_once])
        for byte in raw[at_once:]:
            time.sleep(seconds)
            front.give(near, bytes([byte]))

    return behave


def flooding(head: bytes, length: int) -> Behaviour:
    """Reads a request and answers with `length` bytes."""

    def behave(front: Front, near: socket.socket) -> None:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        front.take_request(near)
        front.give(near, head)
        while front.sent < length:
            front.give(near, b"[" * PIECE)

    return behave


def http_answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body
