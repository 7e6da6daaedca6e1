"""What counts as an image: the type from the first bytes, then the header of the whole file, read but never decoded.

`sniff` asks libmagic, which is content with a bare signature. `identify` therefore also reads the header up to the first
byte of picture data, as a browser's decoder would, and refuses what no browser draws. One short reader per type;
``tests/pictures`` holds their verdicts against Chromium's.

Nothing here trusts a length it reads: files are walked by seeking, at most `MAX_PARTS` steps, so that neither memory nor
time depends on what a hostile file claims.
"""

import contextlib
import functools
import os
import re
import struct
import zlib
from collections.abc import Callable
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
"""Chunks or segments before the picture data. Colour profiles need 255 at most and 10 MB of full JPEG segments are 160;
without a limit, a file made of empty ones costs a step for every four bytes."""


@dataclass(frozen=True)
class Image:
    """A picture that a browser can draw; ``width`` and ``height`` are pixels as coded, not as EXIF turns them."""

    content_type: str
    extension: str
    width: int
    height: int


def sniff(head: bytes) -> str:
    """Return the content type that a file's first `HEAD_BYTES` show, or raise `UnsupportedType`."""
    detected = _libmagic().from_buffer(head[:HEAD_BYTES])
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
def _libmagic() -> "magic.Magic":
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
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what browsers decode
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM, RST0-7
_SKIPPED = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # DHT, DAC, DQT, DNL, DRI, COM, APP0-15
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_BLOCK = 512


def _jpeg(file: IO[bytes]) -> tuple[int, int]:
    """Walk the segments to the first scan. A frame header may lie beyond 1 MB, behind EXIF, XMP and ICC segments."""
    frame: tuple[int, int] | None = None
    offset = 2
    for _ in range(MAX_PARTS):
        marker, offset = _next_marker(file, offset)
        if marker in _WITHOUT_LENGTH:
            continue
        (length,) = struct.unpack(">H", _read(file, offset, 2))
        if marker == _SOS:
            return _scan(file, offset + length, frame)
        if marker in _FRAMES and frame is None:
            frame = _frame(_read(file, offset, 8), length)
        elif marker not in _SKIPPED:
            raise InvalidImage(f"JPEG marker {marker:#x} before the picture data")
        offset += max(length, 2)
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


def _frame(header: bytes, length: int) -> tuple[int, int]:
    _, precision, height, width, components = struct.unpack(">HBHHB", header)
    if precision != 8:
        raise InvalidImage(f"JPEG with {precision} bits per sample")
    if components not in {1, 3, 4} or length != 8 + 3 * components:
        raise InvalidImage(f"JPEG frame of {length} bytes with {components} components")
    if max(width, height) > 65_500:  # libjpeg's own limit
        raise InvalidImage(f"JPEG of {width} x {height} pixels")
    return width, height


def _scan(file: IO[bytes], offset: int, frame: tuple[int, int] | None) -> tuple[int, int]:
    if frame is None:
        raise InvalidImage("JPEG scan without a frame")
    _read(file, offset, 1)
    return frame


# --- PNG: W3C PNG, third edition ---

_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}  # colour type to bits per sample


def _png(file: IO[bytes]) -> tuple[int, int]:
    """Check IHDR, then walk the chunks to the first IDAT."""
    header = _read(file, 8, 25)
    length, tag, width, height, depth, colour, compression, method, interlace, crc = struct.unpack(">I4sIIBBBBBI", header)
    if (length, tag) != (13, b"IHDR"):
        raise InvalidImage(f"PNG begins with {tag!r}")
    if zlib.crc32(header[4:21]) != crc:
        raise InvalidImage("PNG with a wrong IHDR checksum")
    if depth not in _DEPTHS.get(colour, ()) or (compression, method) != (0, 0) or interlace > 1:
        raise InvalidImage(f"PNG with IHDR fields {header[16:21].hex()}")
    offset = 33
    for _ in range(MAX_PARTS):
        length, tag = struct.unpack(">I4s", _read(file, offset, 8))
        if tag == b"IDAT":
            return width, height
        if tag == b"IEND":
            break
        offset += 12 + length
    raise InvalidImage("PNG without picture data")


# --- WebP: RFC 9649 and RFC 6386 ---


def _webp(file: IO[bytes]) -> tuple[int, int]:
    """A lone VP8 or VP8L chunk, or VP8X, which announces the canvas, and further chunks with the picture among them."""
    riff, tag, length = struct.unpack("<4xI4x4sI", _read(file, 0, 20))
    if tag != b"VP8X":
        return _bitstream(file, 12)
    end = file.seek(0, os.SEEK_END)
    if riff + 8 > end:
        raise InvalidImage(f"WebP of {riff + 8} bytes in a file of {end}")
    _flags, canvas = _read(file, 20, 4), _read(file, 24, 6)
    width, height = 1 + int.from_bytes(canvas[:3], "little"), 1 + int.from_bytes(canvas[3:], "little")
    offset = 12
    for _ in range(MAX_PARTS):
        tag, length = struct.unpack("<4sI", _read(file, offset, 8))
        offset += 8 + length + length % 2
        if offset > riff + 8:
            break
        if tag in {b"VP8 ", b"VP8L", b"ANMF"}:
            return width, height
    raise InvalidImage("WebP without picture data")


def _bitstream(file: IO[bytes], offset: int) -> tuple[int, int]:
    tag, length = struct.unpack("<4sI", _read(file, offset, 8))
    _read(file, offset + 8 + length - 1, 1)
    if tag == b"VP8L":
        (_, bits) = struct.unpack("<BI", _read(file, offset + 8, 5))
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if tag == b"VP8 ":
        width, height = struct.unpack("<6xHH", _read(file, offset + 8, 10))
        return width & 0x3FFF, height & 0x3FFF
    raise InvalidImage(f"WebP begins with {tag!r}")


_READERS: dict[str, Callable[[IO[bytes]], tuple[int, int]]] = {"image/jpeg": _jpeg, "image/png": _png, "image/webp": _webp}
