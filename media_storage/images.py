"""What counts as an image: the type from the first bytes, then the header of the whole file, read but never decoded.

`sniff` asks libmagic, which is content with a bare signature. `identify` therefore also reads the header up to the first
byte of picture data, as a browser's decoder would, and refuses what no browser draws. One short reader per type;
``tests/pictures`` holds their verdicts against Chromium's.

Nothing here trusts a length it reads: files are walked by seeking, at most `MAX_PARTS` steps, so that neither memory nor
time depends on what a hostile file claims.
"""

import contextlib
import functools
import itertools
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from media_storage.errors import InvalidImage, TooManyPixels, UnsupportedType

if TYPE_CHECKING:
    import magic

CONTENT_TYPES: dict[str, str] = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}
"""Content type to the extension of the key."""

HEAD_BYTES = 2048
"""How many first bytes `sniff` wants; fewer when the file is shorter."""

MAX_PARTS = 10_000
"""Segments or chunks before the picture data; of a WebP, whose animation frames are chunks, all. A colour profile needs 255
JPEG segments at most, and 10 MB in full ones are 160. Without a limit, empty ones would cost a step for every four bytes."""


@dataclass(frozen=True)
class Image:
    """A picture that a browser can draw; ``width`` and ``height`` are pixels as coded, not as EXIF turns them."""

    content_type: str
    extension: str
    width: int
    height: int


def sniff(head: bytes) -> str:
    """Return the content type that a file's first `HEAD_BYTES` show, or raise `UnsupportedType`."""
    detected = libmagic().from_buffer(head[:HEAD_BYTES])
    # From 5.48 on libmagic has a name of its own for animated PNGs; to a browser, and here, they are PNGs.
    content_type = "image/png" if detected == "image/apng" else detected
    if content_type not in CONTENT_TYPES:
        raise UnsupportedType(detected, tuple(CONTENT_TYPES))
    return content_type


def identify(file: IO[bytes], max_pixels: int) -> Image:
    """Read the header of a whole seekable file; ``max_pixels`` 0 means no limit. The file's position afterwards is anywhere.

    Raises `UnsupportedType`, `InvalidImage` (with what is wrong) or `TooManyPixels`.
    """
    file.seek(0)
    content_type = sniff(file.read(HEAD_BYTES))
    width, height = _READERS[content_type](file)
    if not width or not height:
        raise InvalidImage(f"{width} x {height} pixels")
    if max_pixels and width * height > max_pixels:
        raise TooManyPixels(max_pixels)
    return Image(content_type, CONTENT_TYPES[content_type], width, height)


@functools.cache
def libmagic() -> "magic.Magic":
    """Load libmagic and its database once, on first use. One instance serves all threads: python-magic locks each call."""
    with contextlib.suppress(ImportError):  # without it libmagic is the system's or conda's
        import pylibmagic  # noqa: F401, PLC0415 - brings libmagic with it, and must come before `magic`
    import magic  # noqa: PLC0415 - importing it loads the library

    return magic.Magic(mime=True)


def _read(file: IO[bytes], offset: int, count: int) -> bytes:
    file.seek(offset)
    data = file.read(count)
    if len(data) < count:
        raise InvalidImage(f"the file ends before byte {offset + count}, inside its header")
    return data


# --- JPEG: ITU T.81 annex B, with the leniency of libjpeg, which browsers use ---

_SOS = 0xDA
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what every browser decodes
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM, RST0-7
_SKIPPED = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # DHT, DAC, DQT, DNL, DRI, COM, APP0-15
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_BLOCK = 512


def _jpeg(file: IO[bytes]) -> tuple[int, int]:
    """Walk the segments to the first scan. A frame header may lie beyond 1 MB, behind EXIF, XMP and ICC segments."""
    frame = b""
    offset = 2
    for _ in range(MAX_PARTS):
        marker, offset = _next_marker(file, offset)
        if marker in _WITHOUT_LENGTH:
            continue
        length = max(int.from_bytes(_read(file, offset, 2)), 2)  # libjpeg, too, takes a length below 2 for an empty segment
        if marker == _SOS:
            _check_scan(_read(file, offset, length + 1), frame)  # and the first byte of picture data
            _, height, width = struct.unpack_from(">BHH", frame)
            return width, height
        if marker in _FRAMES and not frame:
            frame = _frame(_read(file, offset, length)[2:])
        elif marker not in _SKIPPED:
            raise InvalidImage(f"JPEG marker {marker:#x} before the picture data")
        offset += length
    raise InvalidImage(f"more than {MAX_PARTS} segments before the picture data")


def _next_marker(file: IO[bytes], offset: int) -> tuple[int, int]:
    """Return the next marker and the offset behind it; fill bytes and stray bytes before a marker are passed over, as libjpeg does."""
    file.seek(offset)
    rest = b""
    while block := file.read(_BLOCK):
        if found := _MARKER.search(rest + block):
            return found[1][0], offset + found.end() - len(rest)
        offset += len(block)
        rest = block[-1:]
    raise InvalidImage("the file ends before the picture data")


def _frame(header: bytes) -> bytes:
    """Check a frame header: precision, height, width, the number of components, and of each its number, sampling and table."""
    precision, height, width, components = struct.unpack(">BHHB", header[:6].ljust(6, b"\0"))
    if precision != 8:
        raise InvalidImage(f"JPEG with {precision} bits per sample")
    if components not in {1, 3, 4} or len(header) != 6 + 3 * components:
        raise InvalidImage(f"JPEG frame of {len(header)} bytes for {components} components")
    if not all(1 <= sampling >> 4 <= 4 and 1 <= sampling & 15 <= 4 for sampling in header[7::3]):
        raise InvalidImage(f"JPEG with sampling factors {header[7::3].hex(' ')}")
    if max(width, height) > 65_500:  # libjpeg's own limit
        raise InvalidImage(f"JPEG of {width} x {height} pixels")
    return header


def _check_scan(header: bytes, frame: bytes) -> None:
    components = header[2]
    if not frame:
        raise InvalidImage("JPEG scan without a frame")
    if not 1 <= components <= 4 or len(header) - 1 != 6 + 2 * components or not set(header[3:-4:2]) <= set(frame[6::3]):
        raise InvalidImage(f"JPEG scan header {header[2:-1].hex()}")


# --- PNG: W3C PNG, third edition ---

_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}  # colour type to bits per sample


def _png(file: IO[bytes]) -> tuple[int, int]:
    """Check IHDR, then walk the chunks to the first picture data."""
    header = _read(file, 8, 25)
    length, tag, width, height, depth, colour, *methods, crc = struct.unpack(">I4sIIBBBBBI", header)
    if (length, tag) != (13, b"IHDR"):
        raise InvalidImage(f"PNG begins with {tag!r}")
    if zlib.crc32(header[4:21]) != crc:
        raise InvalidImage("PNG with a wrong IHDR checksum")
    if depth not in _DEPTHS.get(colour, ()) or methods not in ([0, 0, 0], [0, 0, 1]):
        raise InvalidImage(f"PNG with IHDR fields {header[16:21].hex()}")
    if max(width, height) > 1_000_000:  # libpng's own limit
        raise InvalidImage(f"PNG of {width} x {height} pixels")
    _check_png_chunks(file, palette_needed=colour == 3)
    return width, height


def _check_png_chunks(file: IO[bytes], *, palette_needed: bool) -> None:
    """Of the chunks before the picture data, only the palette is one that a decoder may not skip."""
    palette = False
    offset = 33
    for _ in range(MAX_PARTS):
        length, tag = struct.unpack(">I4s", _read(file, offset, 8))
        if tag == b"IDAT" and length:
            _read(file, offset + 8, 1)
            break
        if tag == b"PLTE" and not palette and 0 < length <= 768:
            palette = True
        elif tag != b"IDAT" and not tag[0] & 0x20:  # upper case: critical
            raise InvalidImage(f"PNG chunk {tag!r} before the picture data")
        offset += 12 + length
    else:
        raise InvalidImage(f"more than {MAX_PARTS} chunks before the picture data")
    if palette_needed and not palette:
        raise InvalidImage("PNG without its palette")


# --- WebP: RFC 9649, and RFC 6386 for VP8 ---

_Chunk = tuple[bytes, int, int]  # tag, offset of the content, its length
_PICTURES = frozenset({b"VP8 ", b"VP8L", b"ANMF"})
_ORDERED = _PICTURES | {b"VP8X", b"ALPH", b"ANIM"}  # the others (EXIF, ICCP, XMP, unknown ones) may stand anywhere
_STILL = re.compile(rb"(ALPH)?VP8 |VP8L")
_ANIMATION = re.compile(rb"ANIM(ANMF)+")


def _webp(file: IO[bytes]) -> tuple[int, int]:
    """Either a VP8 or VP8L chunk, or VP8X, which announces a canvas, and behind it a picture or frames.

    All chunks must lie in the file one behind the other: browsers draw nothing of a WebP that is cut short.
    """
    end = 8 + int.from_bytes(_read(file, 4, 4), "little")
    _read(file, end - 1, 1)
    first, *others = [*_chunks(file, 12, end)] or [(b"", 0, 0)]
    return _extended(file, first, others) if first[0] == b"VP8X" else _bitstream(file, first)


def _extended(file: IO[bytes], first: _Chunk, others: list[_Chunk]) -> tuple[int, int]:
    """Return the canvas size; a still picture must fill it, an animation's first frame must lie on it."""
    header = _read(file, first[1], 10)
    animated, reserved = header[0] & 0x02, header[0] & 0xC1
    order = b"".join(tag for tag, _, _ in others if tag in _ORDERED)
    if first[2] != 10 or reserved or not (_ANIMATION if animated else _STILL).fullmatch(order):
        raise InvalidImage(f"WebP with VP8X {header.hex()}, then {order[:40]!r}")
    canvas = 1 + int.from_bytes(header[4:7], "little"), 1 + int.from_bytes(header[7:], "little")
    picture = next(chunk for chunk in others if chunk[0] in _PICTURES)
    width, height = _animation_frame(file, picture) if animated else _bitstream(file, picture)
    if width > canvas[0] or height > canvas[1] or (not animated and (width, height) != canvas):
        raise InvalidImage(f"WebP picture of {width} x {height} on a canvas of {canvas[0]} x {canvas[1]}")
    return canvas


def _chunks(file: IO[bytes], offset: int, end: int) -> Iterator[_Chunk]:
    for _ in range(MAX_PARTS):
        if offset == end:
            return
        tag, length = struct.unpack("<4sI", _read(file, offset, 8))
        content, offset = offset + 8, offset + 8 + length + length % 2
        if offset > end:
            raise InvalidImage(f"WebP chunk {tag!r} of {length} bytes in too little space")
        yield tag, content, length
    raise InvalidImage(f"more than {MAX_PARTS} chunks")


def _animation_frame(file: IO[bytes], frame: _Chunk) -> tuple[int, int]:
    """Return how far the first frame reaches on the canvas; it may have its transparency (ALPH) in front."""
    _, offset, length = frame
    x, y = (2 * int.from_bytes(_read(file, place, 3), "little") for place in (offset, offset + 3))
    chunks = itertools.islice(_chunks(file, offset + 16, offset + length), 2)
    width, height = _bitstream(file, next((chunk for chunk in chunks if chunk[0] != b"ALPH"), frame))
    return x + width, y + height


def _bitstream(file: IO[bytes], chunk: _Chunk) -> tuple[int, int]:
    """Return the size in the header of a lossy (VP8) or lossless (VP8L) picture."""
    tag, offset, length = chunk
    if tag == b"VP8 " and length >= 10:
        head = _read(file, offset, 10)
        frame = int.from_bytes(head[:3], "little")
        first_partition, shown, profile, inter = frame >> 5, frame >> 4 & 1, frame >> 1 & 7, frame & 1
        if head[3:6] == b"\x9d\x01\x2a" and first_partition < length and shown and profile <= 3 and not inter:
            width, height = struct.unpack("<HH", head[6:])
            return width & 0x3FFF, height & 0x3FFF  # above them: how much to scale
    if tag == b"VP8L" and length >= 5:
        signature, bits = struct.unpack("<BI", _read(file, offset, 5))
        if signature == 0x2F and not bits >> 29:  # the version
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise InvalidImage(f"WebP chunk {tag!r} of {length} bytes is no picture")


_READERS: dict[str, Callable[[IO[bytes]], tuple[int, int]]] = {"image/jpeg": _jpeg, "image/png": _png, "image/webp": _webp}
