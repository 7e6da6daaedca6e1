"""A request's bytes as gunicorn receives them: never waited for longer than their sender is allowed to take."""

import contextlib
import io
import math
import select
import socket
import time
from dataclasses import dataclass
from typing import Any

from gunicorn.http.body import LengthReader
from gunicorn.http.errors import ParseException

from media_storage.errors import ShuttingDown, UploadTimeout

# gunicorn itself reads 8 KiB at a time. Whoever fills the smaller of these is given the larger one for the next read: that saves
# 2 ms of CPU for 10 MB, and beside 500 slow uploads it would take a process three times the memory.
READ_BYTES = 65_536
FAST_READ_BYTES = 262_144
# A client that is still sending when it is refused sees the refusal only if somebody goes on reading.
DISCARD_BYTES = 32 * 1_048_576
DISCARD_SECONDS = 5.0
# Of a chunked body, how much may arrive that is none of its data: sizes, extensions, trailers. gunicorn collects them without a limit.
FRAMING_BYTES = 131_072
# A chunk costs gunicorn 7 µs however small it is: beyond the first of them, they must hold this much on average.
FREE_CHUNKS = 16_384
MIN_CHUNK_BYTES = 64
# How the speed of a body is judged: as much as the floor allows for this time must arrive within it.
PACE_SECONDS = 20.0


def _recv_until(sock: socket.socket, size: int, deadline: float) -> bytes:
    """What arrives, up to `size` bytes. Raises TimeoutError when that is nothing until `deadline`."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    with contextlib.suppress(BlockingIOError):
        return sock.recv(size, socket.MSG_DONTWAIT)  # mostly there is something, and asking first would cost a call
    waiting = select.poll()
    waiting.register(sock, select.POLLIN)
    if not waiting.poll(remaining * 1000):  # a recv() that waits holds its whole buffer meanwhile
        raise TimeoutError
    return sock.recv(size)


@dataclass(frozen=True)
class Pace:
    """How fast a body must arrive: whole within `timeout` seconds, and at `floor` bytes per second."""

    timeout: float
    floor: int


class Body(io.RawIOBase):
    """``wsgi.input``: hands out what has arrived, without waiting for all that was asked for, and not for ever.

    The framing stays gunicorn's: its readers parse lengths and chunks. Its own body collects 1 KiB at a time
    until it has as much as was asked for, which costs most of an upload's CPU and lets a client that
    sends a byte now and then hold a read for ever.
    """

    def __init__(self, req: Any, sock: socket.socket, pace: Pace) -> None:
        self._reader = req.body.reader
        self._sock = sock
        self._pace = pace
        self._end = math.inf  # when the whole must be there; set when the first byte is asked for
        self._window_end = math.inf  # when as much as the floor asks for must be there
        self._window_bytes = 0
        self._read_bytes = READ_BYTES
        self._discard_end: float | None = None
        self._interrupted = False
        self._ahead = b""
        self._framing_bytes = 0  # that arrived since the reader last handed out data
        self._chunks = 0
        self._chunk_bytes = 0
        self._at_end = False
        self._broken = False
        req.unreader.sock = self  # every byte of the body passes through recv()

    def readable(self) -> bool:
        return True

    def recv(self, size: int) -> bytes:
        """What the readers call for more of the connection's bytes. Raises TimeoutError, or OSError when they ask without end."""
        size = max(size, self._read_bytes)
        if self._framing_bytes > FRAMING_BYTES:
            raise OSError("the chunks' framing has no end")
        data = self._receive(size)
        self._read_bytes = FAST_READ_BYTES if len(data) >= size else READ_BYTES
        self._framing_bytes += len(data)
        return data

    def _receive(self, size: int) -> bytes:
        if self._discard_end is not None:
            return _recv_until(self._sock, size, self._discard_end)
        now = time.monotonic()
        if self._end == math.inf:
            self._end = now + self._pace.timeout
            self._window_end = now + PACE_SECONDS
        data = _recv_until(self._sock, size, min(self._end, self._window_end))
        self._window_bytes += len(data)
        if self._window_bytes >= self._pace.floor * PACE_SECONDS:
            self._window_bytes = 0
            self._window_end = time.monotonic() + PACE_SECONDS
        return data

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, at least one unless the body has ended.

        Raises OSError when it is cut or malformed, UploadTimeout when it is too slow, ShuttingDown after `interrupt`.
        """
        if size < 0:
            return self.readall()
        if not self._ahead and not self._at_end:
            self._ahead = self._more_or_refuse()
            self._at_end = not self._ahead
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _more_or_refuse(self) -> bytes:
        try:
            data = self._more()
        except TimeoutError as exc:
            whole = time.monotonic() >= self._end
            raise UploadTimeout(
                "the whole body took too long" if whole else f"{self._window_bytes} bytes in the last {PACE_SECONDS} s"
            ) from exc
        except ParseException as exc:
            self._broken = True
            raise OSError(f"malformed body: {exc}") from exc
        except OSError as exc:
            self._broken = True
            if self._interrupted:
                raise ShuttingDown from exc
            raise
        self._framing_bytes = 0
        return data

    def _more(self) -> bytes:
        reader = self._reader
        if not isinstance(reader, LengthReader):
            return self._next_chunk()
        if reader.length == 0:
            return b""
        data: bytes = reader.unreader.read()
        if len(data) > reader.length:  # the start of the next request
            reader.unreader.unread(data[reader.length :])
            data = data[: reader.length]
        if not data:
            raise ConnectionError(f"the client closed the connection {reader.length} bytes before the body's end")
        reader.length -= len(data)
        return data

    def _next_chunk(self) -> bytes:
        piece: bytes = next((piece for piece in self._reader.parser if piece), b"")
        self._chunks += 1
        self._chunk_bytes += len(piece)
        if piece and (self._chunks - FREE_CHUNKS) * MIN_CHUNK_BYTES > self._chunk_bytes:
            raise OSError("the chunks are too small")
        return piece

    def interrupt(self) -> None:
        """From another thread: ends a read that waits, as if the client had gone; its answer can still be sent."""
        self._interrupted = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def discard(self) -> bool:
        """Reads on and throws away, up to a limit; whether the body has ended, so that a next request may follow."""
        self._discard_end = time.monotonic() + DISCARD_SECONDS
        left = DISCARD_BYTES
        # That the client goes away, or is slow, once it has its answer is its right.
        with contextlib.suppress(OSError, UploadTimeout, ShuttingDown):
            while not self._broken and left > 0:
                data = self.read(FAST_READ_BYTES)
                if not data:
                    return True
                left -= len(data)
        return False
