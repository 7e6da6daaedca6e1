"""Pictures of a wanted size, and the bodies that carry them."""

import random
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

COOKIE = "session=bench"
_BOUNDARY = "bench-7f2c61d09a3e4b58"
_SEED = 5


@dataclass(frozen=True)
class Picture:
    """One picture on disk: the file alone, and as the field `file` of a form. `size` is the file's bytes."""

    label: str
    size: int
    file: Path
    form: Path

    @property
    def form_type(self) -> str:
        """The form's Content-Type."""
        return f"multipart/form-data; boundary={_BOUNDARY}"


def write(label: str, size: int, folder: Path) -> Picture:
    """Writes a picture of exactly `size` bytes into `folder`, which exists."""
    image = png(size)
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="holiday.png"\r\nContent-Type: image/png\r\n\r\n'
    picture = Picture(label, size, folder / f"{size}.png", folder / f"{size}.form")
    picture.file.write_bytes(image)
    picture.form.write_bytes(head.encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode())
    return picture


def png(size: int) -> bytes:
    """A PNG of exactly `size` bytes: a sound header, and noise where its pixels would be, as compressed pixels look."""
    header = struct.pack(">IIBBBBB", 1280, 720, 8, 2, 0, 0, 0)
    frame = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b"")
    noise = random.Random(_SEED).randbytes(size - len(frame))  # noqa: S311 - the same picture in every run
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", noise) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
