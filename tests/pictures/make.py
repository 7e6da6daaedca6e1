"""Builders of small pictures, part by part, so that a test can leave out, bend or insert exactly one part."""

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour types

SOI, EOI, SOF0, SOF1, SOF2, SOF3, DHT, SOS, DQT, DRI, APP0, APP1, APP2, COM = (
    *(0xD8, 0xD9, 0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xFE),
)


# --- PNG ---


def chunk(tag: bytes, data: bytes = b"", crc: int | None = None) -> bytes:
    return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data) if crc is None else crc)


def ihdr(width: int = 5, height: int = 3, depth: int = 8, colour: int = 2, method: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, *method))


def idat(width: int = 5, height: int = 3, depth: int = 8, colour: int = 2) -> bytes:
    """Picture data of one shade, not interlaced."""
    row = (width * depth * CHANNELS[colour] + 7) // 8
    return chunk(b"IDAT", zlib.compress((b"\0" + b"\x55" * row) * height))


PLTE = chunk(b"PLTE", bytes(range(256)) * 3)
IEND = chunk(b"IEND")


def png(width: int = 5, height: int = 3, depth: int = 8, colour: int = 2, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """A whole PNG, with more chunks before its picture data or bytes after its end."""
    palette = chunk(b"PLTE", bytes(3 << depth)) if colour == 3 else b""
    return PNG_SIGNATURE + ihdr(width, height, depth, colour) + palette + before + idat(width, height, depth, colour) + IEND + after


def png_chunks(data: bytes) -> list[bytes]:
    """The whole chunks of a PNG, without its signature."""
    offset, found = len(PNG_SIGNATURE), []
    while offset < len(data):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4])
        found.append(data[offset:end])
        offset = end
    return found


# --- JPEG ---


def segment(marker: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def sof(width: int = 5, height: int = 3, precision: int = 8, components: int = 3, marker: int = SOF0) -> bytes:
    body = b"".join(bytes([number + 1, 0x11, 0]) for number in range(components))
    return segment(marker, struct.pack(">BHHB", precision, height, width, components) + body)


def jpeg(width: int = 5, height: int = 3, mode: str = "RGB", before: bytes = b"", after: bytes = b"", **options: Any) -> bytes:
    """A whole JPEG of Pillow's encoder, with more segments behind its start or bytes after its end."""
    data = saved(Image.new(mode, (width, height), _shade(mode)), "JPEG", **options)
    return data[:2] + before + data[2:] + after


def jpeg_parts(data: bytes) -> tuple[list[bytes], bytes]:
    """The segments between a JPEG's start and its first scan, and the rest from that scan's marker on."""
    offset, found = 2, []
    while data[offset + 1] != SOS:
        end = offset + 2 + int.from_bytes(data[offset + 2 : offset + 4])
        found.append(data[offset:end])
        offset = end
    return found, data[offset:]


def jpeg_with(old: bytes, new: bytes) -> bytes:
    """A whole JPEG in which the segment that begins with `old` is `new`."""
    segments, scan = jpeg_parts(jpeg())
    return b"\xff\xd8" + b"".join(new if part.startswith(old) else part for part in segments) + scan


# --- WebP ---


def riff_chunk(tag: bytes, data: bytes) -> bytes:
    return tag + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def vp8x(width: int = 5, height: int = 3, flags: int = 0) -> bytes:
    return riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))


def webp(width: int = 5, height: int = 3, mode: str = "RGB", **options: Any) -> bytes:
    """A whole WebP of Pillow's encoder; ``lossless=True`` for VP8L."""
    return saved(Image.new(mode, (width, height), _shade(mode)), "WEBP", **options)


def webp_chunks(data: bytes) -> list[bytes]:
    offset, found = 12, []
    while offset < len(data):
        length = int.from_bytes(data[offset + 4 : offset + 8], "little")
        end = offset + 8 + length + length % 2
        found.append(data[offset:end])
        offset = end
    return found


# --- any ---


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def frames(kind: str, width: int = 5, height: int = 3, count: int = 3) -> bytes:
    """An animation, or an MPO's several pictures."""
    pictures = [Image.new("RGB", (width, height), (60 * number, 90, 120)) for number in range(count)]
    return saved(pictures[0], kind, save_all=True, append_images=pictures[1:])


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def cut(data: bytes, parts: Iterable[bytes], start: int) -> list[bytes]:
    """`data` cut at the end of each of `parts`, which follow each other from `start` on."""
    found = []
    for part in parts:
        start += len(part)
        found.append(data[:start])
    return found


def _shade(mode: str) -> Any:
    return 85 if len(mode) == 1 else (85, 170, 200, 255)[: len(Image.new(mode, (1, 1)).getbands())]
