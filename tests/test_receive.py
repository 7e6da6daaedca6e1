"""The one file part of a body: whatever the body and however it is cut, the same bytes or the same refusal."""

import io
import itertools
import re
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from media_storage import errors, receive

LIMIT = 1000
HEAD = 32


@dataclass
class Body:
    """A body that arrives in pieces of the given sizes, the last of them repeated."""

    content: bytes
    sizes: list[int] = field(default_factory=lambda: [65_536])
    position: int = 0
    reads: int = 0

    def read(self, size: int, /) -> bytes:
        wanted = min(size, self.sizes[min(self.reads, len(self.sizes) - 1)])
        self.reads += 1
        piece = self.content[self.position : self.position + wanted]
        self.position += len(piece)
        return piece


def part(content: bytes, name: bytes = b"file", filename: bytes | None = b"a.png", more: bytes = b"") -> bytes:
    disposition = b'form-data; name="%s"' % name + (b'; filename="%s"' % filename if filename is not None else b"")
    return b"--B\r\nContent-Disposition: " + disposition + b"\r\n" + more + b"\r\n" + content + b"\r\n"


END = b"--B--\r\n"


def taken(body: bytes, sizes: list[int] | None = None, limit: int = LIMIT) -> bytes | str:
    """The file's bytes, or the code of the refusal."""
    heads: list[bytes] = []
    try:
        with receive.file(Body(body, sizes or [65_536]), b"B", limit, HEAD, heads.append) as received:
            received.file.seek(0)
            content = received.file.read()
            assert received.size == len(content)
            assert received.crc32 == zlib.crc32(content)
            assert heads == [content[:HEAD]]
            return content
    except errors.Refusal as refusal:
        return refusal.code


@pytest.mark.parametrize(
    ("content_type", "outcome"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ("Multipart/Form-Data; charset=utf-8; boundary=abc", b"abc"),
        ('multipart/form-data; boundary="a b:c"', b"a b:c"),
        ("multipart/form-data; boundary=" + "x" * 70, b"x" * 70),
        ("multipart/form-data; boundary=" + "x" * 71, errors.BadMultipart),
        ("multipart/form-data; boundary=", errors.BadMultipart),
        ("multipart/form-data", errors.BadMultipart),
        ("multipart/mixed; boundary=abc", errors.NotMultipart),
        ("application/x-www-form-urlencoded", errors.NotMultipart),
        ("image/png", errors.NotMultipart),
        ("", errors.NotMultipart),
        (None, errors.NotMultipart),
    ],
)
def test_the_boundary_comes_from_the_content_type(content_type: str | None, outcome: bytes | type[errors.Refusal]) -> None:
    """Only multipart/form-data with a boundary of 1 to 70 characters is a body to read."""
    if isinstance(outcome, bytes):
        assert receive.boundary(content_type) == outcome
    else:
        with pytest.raises(outcome):
            receive.boundary(content_type)


def test_a_declared_length_that_cannot_fit_is_refused() -> None:
    """The file's limit and what may stand beside it; no declared length is no reason to refuse."""
    receive.check_length(None, LIMIT)
    receive.check_length(LIMIT + receive.MAX_OTHER_BYTES, LIMIT)
    with pytest.raises(errors.FileTooLarge):
        receive.check_length(LIMIT + receive.MAX_OTHER_BYTES + 1, LIMIT)


def test_exactly_the_limit_fits() -> None:
    """The limit itself is allowed, one byte more is not."""
    assert taken(part(b"x" * LIMIT) + END) == b"x" * LIMIT
    assert taken(part(b"x" * (LIMIT + 1)) + END) == "file_too_large"


def test_too_much_is_refused_before_it_is_read() -> None:
    """A lying length or none cannot make the service read on: it stops within one read of the limit."""
    body = Body(part(b"x" * 5_000_000) + END)
    with pytest.raises(errors.FileTooLarge):
        receive.file(body, b"B", 100_000, HEAD, lambda _: None)
    assert body.position <= 100_000 + 2 * receive.READ_BYTES


def test_the_type_is_checked_as_soon_as_the_first_bytes_are_there() -> None:
    """A wrong type is refused after the head, not after the file."""

    def refuse(head: bytes) -> None:
        assert head == b"x" * HEAD
        raise errors.UnsupportedType("text/plain", ())

    body = Body(part(b"x" * 900) + END, [1])
    with pytest.raises(errors.UnsupportedType):
        receive.file(body, b"B", LIMIT, HEAD, refuse)
    assert body.position < 200


def test_a_small_file_stays_in_memory_and_a_large_one_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the limit in memory nothing is written; beyond that, the file has no directory entry that a kill could leave behind.

    A body that is declared to be larger goes there from its first byte.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limit = receive.MEMORY_BYTES
    for size, declared, on_disk in ((limit, None, False), (limit + 1, None, True), (1, limit, False), (1, limit + 1, True)):
        with receive.file(Body(part(b"x" * size) + END, [10**6]), b"B", 10**6, HEAD, lambda _: None, declared=declared) as received:
            assert received.file._rolled is on_disk  # type: ignore[attr-defined]
            assert not list(tmp_path.iterdir())
        assert received.file.closed


def test_who_is_waited_for_has_little_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that comes at once may take twice what one may that stops in the middle, whatever is to come of it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(part(b"")) - 2
    size = receive.WAITING_BYTES
    for sizes, on_disk in (([10**6], False), ([before + size, 10**6], False), ([before + size + 1, 10**6], True)):
        with receive.file(Body(part(b"x" * 2 * size) + END, sizes), b"B", 10**6, HEAD, lambda _: None) as received:
            assert received.file._rolled is on_disk  # type: ignore[attr-defined]
            assert received.crc32 == zlib.crc32(b"x" * 2 * size)
            received.file.seek(0)
            assert received.file.read() == b"x" * 2 * size


def test_a_refusal_closes_the_spool() -> None:
    """Nothing stays open when the body turns out wrong (an unclosed file is an error in these tests)."""
    assert taken(part(b"x" * 200_000), limit=10**6) == "bad_multipart"


@pytest.mark.parametrize(
    "filename", [b"", b"a" * 4000, "ü.png".encode(), b"\xff\xfe", b"../../etc/passwd", b"a\0b", b'q\\"uote', b"\xe2\x80\xae"]
)
def test_any_file_name_is_a_file(filename: bytes) -> None:
    """The name is ignored, whatever it is."""
    assert taken(part(b"content", filename=filename) + END) == b"content"


def test_an_encoded_file_name_alone_is_a_file() -> None:
    """Some clients send a name that is not ASCII as `filename*` and nothing else."""
    body = b"--B\r\nContent-Disposition: form-data; name=file; filename*=utf-8''%C3%BC.png\r\n\r\ncontent\r\n" + END
    assert taken(body) == b"content"


def test_headers_may_be_spelled_in_any_case_and_stand_in_any_order() -> None:
    """Part headers beside Content-Disposition are ignored."""
    body = b'--B\r\ncontent-type: text/html\r\nCONTENT-DISPOSITION: form-data; name="file"; filename="a"\r\nX: y\r\n\r\ncontent\r\n' + END
    assert taken(body) == b"content"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_multipart"),
        (b"x" * 300_000, "bad_multipart"),
        (b"\r\n" * 150_000, "bad_multipart"),
        (part(b"x")[:-5], "bad_multipart"),
        (END, "missing_file"),
        (part(b"x", filename=None) + END, "missing_file"),
        (part(b"x", name=b"avatar") + END, "missing_file"),
        (part(b"x", name=b"avatar") + part(b"y") + END, "missing_file"),
        (part(b"x") + part(b"y") + END, "multiple_files"),
        (part(b"x") + part(b"y", name=b"avatar") + END, "multiple_files"),
        (part(b"") + END, "empty_file"),
        (part(b"x", filename=None) * 17 + part(b"y") + END, "bad_multipart"),
        (part(b"x" * 65_537, filename=None) + part(b"y") + END, "bad_multipart"),
        (part(b"x", more=b"X-A: b\r\n" * 8) + END, "bad_multipart"),
        (part(b"x", more=b"X-A: " + b"b" * 5000 + b"\r\n") + END, "bad_multipart"),
        (part(b"x", more=b"no colon\r\n") + END, "bad_multipart"),
        (b"--B\r\n\r\nx\r\n" + END, "bad_multipart"),
        (b"--B\r\nContent-Disposition: attachment; name=file; filename=a\r\n\r\nx\r\n" + END, "bad_multipart"),
        (part(b"x") + END + b"y" * 140_000, "bad_multipart"),
    ],
)
def test_a_body_that_is_not_one_file_is_refused(body: bytes, code: str) -> None:
    """Each mistake has its code, however the body is cut."""
    assert taken(body) == code
    assert taken(body, [3]) == code
    assert taken(body, [1, 65_536]) == code


def test_sixteen_fields_of_64_kib_are_allowed() -> None:
    """The limits themselves are allowed, before and behind the file."""
    fields = part(b"x" * 8000, name=b"a", filename=None) * 7 + part(b"content") + part(b"x" * 1059, name=b"b", filename=None) * 9
    assert taken(fields + END) == b"content"


class Cut:
    """A connection that is reset in the middle of the body."""

    def read(self, size: int, /) -> bytes:  # noqa: ARG002
        raise ConnectionResetError


def test_a_connection_that_breaks_is_a_refusal() -> None:
    """Servers report it as an OSError; it is no defect of the service."""
    with pytest.raises(errors.BadMultipart):
        receive.file(Cut(), b"B", LIMIT, HEAD, lambda _: None)


# --- any split of any body, beside a slow and obvious model ---

pieces = st.sampled_from([b"\r\n", b"\r", b"\n", b"-", b"--", b"--B", b"\r\n--B", b"\r\n--B-", b"B", b"x", b"\0", b"boundary", b"\xff"])
contents = st.lists(pieces | st.binary(max_size=40), max_size=30).map(b"".join)
fields = st.lists(contents.map(lambda content: part(content, name=b"note", filename=None)), max_size=3).map(b"".join)
cuts = st.lists(st.integers(1, 40), min_size=1, max_size=20)
endings = st.sampled_from([b"", b"\r\n", b"\r\n\r\n", b"\r\nepilogue --B\r\n"])


def model(body: bytes) -> bytes | str:
    """What is in a body with well-formed parts, by splitting the whole of it."""
    whole = b"\r\n" + body
    between, _, closed = whole.partition(b"\r\n--B--")
    if not closed and not whole.endswith(b"\r\n--B--"):
        return "bad_multipart"
    found = []
    for piece in between.split(b"\r\n--B\r\n")[1:]:
        head, _, content = piece.partition(b"\r\n\r\n")
        if b"filename" in head:
            found.append(content)
    if not found:
        return "missing_file"
    return found[0] or "empty_file"


@settings(max_examples=300, deadline=None)
@given(fields, contents, fields, endings, cuts)
def test_any_split_of_any_body_gives_the_same_bytes(before: bytes, content: bytes, behind: bytes, ending: bytes, sizes: list[int]) -> None:
    """Contents full of almost-boundaries, cut anywhere: the parser agrees with a model that sees the whole body."""
    inner = before + part(content) + behind
    body = inner + b"--B--" + ending
    # A content that holds a real delimiter makes another body of it, which the model would have to parse like a parser.
    if re.search(rb"\r\n--B(--|\r\n)", b"\r\n" + content + b"\r\n") or len(content) > LIMIT:
        return
    if any(re.search(rb"\r\n--B(--|\r\n)", text) for text in (before.replace(b"\r\n--B\r\nContent-Disposition", b""),)):
        return
    whole = taken(body)
    assert taken(body, sizes) == whole
    if isinstance(whole, bytes):
        assert whole == model(body)


def test_nearly_boundaries_in_every_order_cut_everywhere() -> None:
    """Three of them behind a while of nothing, in pieces of each size from a byte to a boundary: the bytes that were sent."""
    nearly = (b"\r", b"\n", b"-", b"\r\n--", b"\r\n--Bx", b"\r\n--B-", b"\r\n--B\r", b"xyz" * 4)
    for order in itertools.product(nearly, repeat=3):
        content = b"xyz" * 4 + b"".join(order)
        if not re.search(rb"\r\n--B(--|\r\n)", content + b"\r\n"):
            for size in range(1, 7):
                assert taken(part(content) + END, [size]) == content


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300) | contents, cuts)
@example(b"\r\n\0--B--", [1])
@example(b"\r\n\n--B--", [1])
def test_junk_is_refused_the_same_however_it_is_cut(body: bytes, sizes: list[int]) -> None:
    """Whatever the bytes: a file or a refusal, never another exception, and the cuts do not matter."""
    for junk in (body, part(b"x")[:40] + body, part(b"x") + body, b"--B\r\n" + body):
        assert taken(junk, sizes) == taken(junk)


def test_a_body_may_be_any_readable_object() -> None:
    """io's own files will do."""
    with receive.file(io.BytesIO(part(b"content") + END), b"B", LIMIT, HEAD, lambda _: None) as received:
        assert received.size == 7


@pytest.mark.parametrize("unit", [b"\r\n--Bx", b"\r\n--B\r", b"\r\n--B-", b"\r\n--", b"\r", b"\r\n", b"--B", b"x"])
def test_no_content_takes_long(unit: bytes) -> None:
    """1 MiB of almost-boundaries is taken or refused within 50 ms of processor time."""
    body = part(unit * (1_048_576 // len(unit))) + END
    times = []
    for _ in range(3):
        began = time.thread_time()
        taken(body, limit=2_000_000)
        times.append(time.thread_time() - began)
    assert min(times) < 0.05


def test_a_boundary_all_over_the_file_is_refused() -> None:
    """A few by chance are content; a body made of them is none that a client would send."""
    assert taken(part(b"\r\n--Bx" * 100) + END) == b"\r\n--Bx" * 100
    assert taken(part(b"\r\n--Bx" * 2000) + END, limit=10**6) == "bad_multipart"


def test_a_boundary_is_counted_however_the_body_is_cut() -> None:
    """Occurrences that two pieces share count once, like the others."""
    body = part(b"\r\n--Bx" * 2000) + END
    for size in (1, 2, 3, 5, 6, 7, 64):
        assert taken(body, [size], limit=10**6) == "bad_multipart"
    assert taken(part(b"\r\n--Bx" * 900) + END, [1], limit=10**6) == b"\r\n--Bx" * 900
