"""Takes the one file part of a multipart body as it arrives, into a bounded spool.

The body is never held: up to 64 KiB of a file stay in memory, of one that has not come to its end 32, the rest goes to an
unlinked temporary file (on Windows one that goes with its process), and everything that is not the file is counted and thrown
away. The bytes are those that were sent, for every length and content and however the network cuts them.
"""

import contextlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from werkzeug.exceptions import ClientDisconnected

from media_storage.errors import BadMultipart, EmptyFile, FileTooLarge, MissingFile, MultipleFiles, NotMultipart, Overloaded

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

READ_BYTES = 262_144  # at most, at once; a server hands out what has arrived
# Beyond these the spool is a temporary file: a small picture that comes at once needs none, and 500 uploads whose clients let
# themselves be waited for must fit in 128 KiB each, all told.
MEMORY_BYTES = 65_536
WAITING_BYTES = 32_768
MAX_FIELDS = 16  # parts that are not the file
MAX_FIELD_BYTES = 65_536  # of all their contents together
# Everything in a body that is not the file's bytes: fields, part headers, boundaries, line breaks in front and the epilogue.
MAX_OTHER_BYTES = 131_072
# A boundary must not occur in what it separates (RFC 2046, 5.1.1), and clients draw them at random. The parser looks at
# each occurrence byte by byte: 10 MB made of them would take it 3.6 s of CPU instead of 12 ms.
MAX_LINES = 1000


class Readable(Protocol):
    """A body. `read` answers between one and `size` bytes, and none at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Received:
    """A file as it was sent: its content, at any position, its size in bytes and its CRC-32."""

    file: BinaryIO
    size: int
    crc32: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.file.close()


def boundary(content_type: str | None) -> bytes:
    """The boundary that a Content-Type header announces. Raises NotMultipart or BadMultipart."""
    kind, options = parse_options_header(content_type)
    if kind.lower() != b"multipart/form-data":
        raise NotMultipart
    found = options.get(b"boundary", b"")
    if not 1 <= len(found) <= 70:  # RFC 2046, 5.1.1
        raise BadMultipart("The Content-Type header of a multipart body must name a boundary of 1 to 70 characters.")
    return found


def check_length(declared: int | None, max_bytes: int) -> None:
    """Raises FileTooLarge when a body of the declared length cannot hold an acceptable file."""
    if declared is not None and declared > max_bytes + MAX_OTHER_BYTES:
        raise FileTooLarge(max_bytes)


def file(
    body: Readable,
    delimiter: bytes,
    max_bytes: int,
    head_bytes: int,
    check_head: Callable[[bytes], object],
    *,
    declared: int | None = None,
) -> Received:
    """Receives `body` to its end and answers its one file part; close the answer, as a context, to be rid of the spool.

    `check_head` gets the file's first `head_bytes` bytes (or all, when it has fewer) as soon as they are there, and
    raises to refuse. Raises BadMultipart, MissingFile, MultipleFiles, EmptyFile, FileTooLarge,
    Overloaded when the temporary space is full, and whatever `body.read` refuses with. `declared` is the body's length,
    where it is known.
    """
    spool = SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115 - closed with the answer
    try:
        if declared is not None and declared > MEMORY_BYTES:
            with _space():
                spool.rollover()  # where the file will end up anyway
        parts = _Parts(spool, max_bytes, head_bytes, check_head)
        parser = _Parser(delimiter, parts)
        total = 0
        for piece in _pieces(body):
            total += len(piece)
            parser.write(piece)
            if parts.in_file and parts.size > WAITING_BYTES:
                with _space():
                    spool.rollover()
            if total - parts.size > MAX_OTHER_BYTES:
                raise BadMultipart("The multipart body has too much in it beside the file.")
        received = parts.received()
        with _space():
            spool.flush()
    except BaseException:
        with contextlib.suppress(OSError):  # what is still buffered may not fit either
            spool.close()
        raise
    return received


@contextlib.contextmanager
def _space() -> Iterator[None]:
    """Raises Overloaded when there is no space left for the temporary file."""
    try:
        yield
    except OSError as exc:
        raise Overloaded(f"the temporary file cannot be written: {exc}") from exc


def _pieces(body: Readable) -> Iterator[bytes]:
    while True:
        try:
            piece = body.read(READ_BYTES)
        except (ClientDisconnected, OSError) as exc:  # the servers' errors for a cut or wrongly chunked body
            raise BadMultipart("The body ended before its end.", reason=repr(exc)) from exc
        if not piece:
            return
        yield piece


class _Parser:
    """The library's parser. Of the file it is shown only where a boundary may be: one search tells, and it would search again."""

    def __init__(self, delimiter: bytes, parts: "_Parts") -> None:
        self._parts = parts
        self._parser = MultipartParser(delimiter, parts.callbacks())
        self._line = b"\r\n--" + delimiter
        self._lines = 0
        self._tail = b""  # what came last, as far as the parser may still have to decide what it is: a line and a byte behind it

    def write(self, piece: bytes) -> None:
        """Raises BadMultipart, and what the parts refuse with."""
        if not self._tail:  # the library passes over line breaks at the beginning, and over as much of what follows as came with them
            piece = piece.lstrip(b"\r\n")
        size, before = len(self._line), self._tail
        self._tail = (before + piece[-size - 1 :])[-size - 1 :]
        found = piece.count(self._line)
        self._lines += found + (before[1 - size :] + piece[: size - 1]).count(self._line)
        if self._lines > MAX_LINES:
            raise BadMultipart("The boundary of the multipart body occurs in the file. Choose another one.")
        if self._parts.in_file and not found and b"\r" not in before:  # every line begins with one, and holds no other
            start = piece.rfind(b"\r", 1 - size)
            end = start if start >= 0 else len(piece)
            self._parts.part_data(piece, 0, end)
            piece = piece[end:]
        try:
            self._parser.write(piece)
        except FormParserError as exc:
            raise BadMultipart("The multipart body is malformed.", reason=str(exc)) from exc


class _Parts:
    """What the parser calls: tells the file part from the others and holds each to its limits."""

    def __init__(
        self, spool: "SpooledTemporaryFile[bytes]", max_bytes: int, head_bytes: int, check_head: Callable[[bytes], object]
    ) -> None:
        self._spool = spool
        self._max_bytes = max_bytes
        self._head_bytes = head_bytes
        self._check_head = check_head
        self._head: bytearray | None = bytearray()  # None once it was checked
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self.in_file = False
        self._file_seen = False
        self._complete = False
        self._fields = 0
        self._field_bytes = 0
        self._crc32 = 0
        self.size = 0

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self.part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._disposition = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind.lower() != b"form-data":
            raise BadMultipart("Every part needs a header `Content-Disposition: form-data`.")
        # Some clients send a name that is not ASCII as filename* alone.
        self.in_file = b"filename" in options or b"filename*=" in self._disposition.lower()
        if not self.in_file:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise BadMultipart(f"The multipart body has more than {MAX_FIELDS} other fields.")
            return
        if self._file_seen:
            raise MultipleFiles
        if options.get(b"name") != b"file":
            raise MissingFile("The file must be in a field named `file`.")
        self._file_seen = True

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if not self.in_file:
            self._field_bytes += end - start
            if self._field_bytes > MAX_FIELD_BYTES:
                raise BadMultipart(f"The other fields have more than {MAX_FIELD_BYTES} bytes together.")
            return
        self.size += end - start
        if self.size > self._max_bytes:
            raise FileTooLarge(self._max_bytes)
        piece = memoryview(data)[start:end]
        self._crc32 = zlib.crc32(piece, self._crc32)
        if self._head is not None:
            self._head += piece[: self._head_bytes - len(self._head)]
            if len(self._head) == self._head_bytes:
                self._check()
        with _space():
            self._spool.write(piece)

    def _part_end(self) -> None:
        if not self.in_file:
            return
        if self.size == 0:
            raise EmptyFile
        self._check()
        self.in_file = False

    def _check(self) -> None:
        if self._head is not None:
            self._check_head(bytes(self._head))
            self._head = None

    def _end(self) -> None:
        self._complete = True

    def received(self) -> Received:
        if not self._complete:
            raise BadMultipart("The multipart body ended before its closing boundary.")
        if not self._file_seen:
            raise MissingFile("The body has no file. Send one in a field named `file`.")
        return Received(cast("BinaryIO", self._spool), self.size, self._crc32)
