"""The judge's material: what the packages of `fetch` ship, and what is made here, each with its kind and whether it is hostile."""

import io
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pictures import fetch, make
from pictures.make import (
    APP0,
    APP1,
    COM,
    SOF1,
    SOF2,
    SOF3,
    SOS,
    chunk,
    idat,
    ihdr,
    jpeg,
    png,
    riff,
    riff_chunk,
    segment,
    sof,
    vp8x,
    webp,
)

HTML = b"<!doctype html><html><body><script>alert(document.domain)</script></body></html>"
JS = b"*/=alert(document.domain)/*"
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="5" height="3"><script>alert(1)</script></svg>'
PHP = b"<?php system($_GET['c']); __halt_compiler(); ?>"


@dataclass(frozen=True)
class Picture:
    """One file of the material. ``hostile``: made to be taken for something else than it is, or to break a reader."""

    kind: str
    name: str
    content: Path | bytes
    hostile: bool = False
    declared: str = ""  # the content type that a client claims, where it lies

    def read(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


def fetched() -> list[Picture]:
    """The files of the packages; empty when they have not been fetched."""
    files = sorted(path for path in fetch.folder().glob("*/*") if path.is_file())
    return [Picture(_kind(path), f"{path.parent.name}/{path.name}", path) for path in files]


def made() -> list[Picture]:
    """The files made here: the same ones each time."""
    found = [
        *_pictures(),
        *_broken_jpeg(),
        *_broken_png(),
        *_broken_webp(),
        *_polyglots(),
        *_other_formats(),
        *_liars(),
        *_bombs(),
        *_cut(),
        *_bent(),
    ]
    assert len({picture.name for picture in found}) == len(found)
    return found


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG of a package"
    if head.startswith(make.PNG_SIGNATURE):
        return "PNG of a package"
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "WebP of a package"
    return "other file of a package"


def _pictures() -> Iterator[Picture]:
    """Sound pictures of every variety."""
    for mode in ("RGB", "L", "CMYK"):
        for name, options in {
            "baseline": {},
            "progressive": {"progressive": True},
            "restart": {"restart_marker_blocks": 1},
            "optimized": {"optimize": True},
        }.items():
            yield Picture("JPEG", f"{name} {mode}.jpg", jpeg(40, 30, mode, **options))  # type: ignore[arg-type]
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        yield Picture("JPEG", f"subsampling {subsampling}.jpg", jpeg(33, 17, subsampling=subsampling))
    for orientation in range(1, 9):
        yield Picture("JPEG", f"EXIF orientation {orientation}.jpg", jpeg(40, 30, exif=make.exif(orientation)))
        yield Picture("WebP", f"EXIF orientation {orientation}.webp", webp(40, 30, exif=make.exif(orientation)))
        yield Picture(
            "PNG", f"EXIF orientation {orientation}.png", make.saved(Image.new("RGB", (40, 30)), "PNG", exif=make.exif(orientation))
        )
    yield Picture("JPEG", "ICC of 300 kB.jpg", jpeg(icc_profile=bytes(300_000)))
    yield Picture("JPEG", "XMP of 1.3 MB first.jpg", jpeg(before=segment(APP1, b"http://ns.adobe.com/xap/1.0/\0" + b" " * 65_000) * 20))
    yield Picture("JPEG", "2,000 comments first.jpg", jpeg(before=segment(COM, b"hello") * 2_000))
    yield Picture("JPEG", "fill bytes.jpg", jpeg(before=b"\xff" * 3_000))
    yield Picture("JPEG", "stray bytes.jpg", jpeg(before=segment(COM, b"x") + b"\0\1\2stray" * 100))
    yield Picture("JPEG", "stray bytes and FF 00.jpg", jpeg(before=segment(COM, b"x") + b"\xff\0" * 1_000))
    yield Picture("JPEG", "SOF1.jpg", make.jpeg_with(b"\xff\xc0", sof(marker=SOF1)))
    yield Picture("JPEG", "DNL before.jpg", jpeg(before=segment(0xDC, b"\0\3")))
    yield Picture("JPEG", "RST before.jpg", jpeg(before=b"\xff\xd3\xff\x01"))
    yield Picture("JPEG", "segment of length 0.jpg", jpeg(before=segment(COM)[:2] + b"\0\0"))
    yield Picture("JPEG", "MPO.jpg", make.frames("MPO"))
    for colour, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}.items():
        for depth in depths:
            yield Picture("PNG", f"colour {colour} depth {depth}.png", png(40, 30, depth, colour))
    yield Picture("PNG", "interlaced.png", make.PNG_SIGNATURE + ihdr(1, 1, 8, 2, (0, 0, 1)) + idat(1, 1) + make.IEND)
    yield Picture("PNG", "APNG.png", make.frames("PNG"))
    yield Picture("PNG", "text of 1 MB first.png", png(before=chunk(b"tEXt", b"Comment\0" + b"x" * 1_000_000)))
    yield Picture("PNG", "ICC first.png", make.saved(Image.new("RGB", (5, 3)), "PNG", icc_profile=random.Random(1).randbytes(200_000)))
    yield Picture("PNG", "900 text chunks first.png", png(before=chunk(b"tEXt", b"a\0b") * 900))
    yield Picture("PNG", "5,000 text chunks first.png", png(before=chunk(b"tEXt", b"a\0b") * 5_000))
    yield Picture("PNG", "00000008acTL in a text.png", png(before=chunk(b"tEXt", b"a\0\0\0\0\x08acTL\0\0\0\1\0\0\0\0")))
    for mode in ("RGB", "RGBA"):
        yield Picture("WebP", f"lossy {mode}.webp", webp(40, 30, mode))
        yield Picture("WebP", f"lossless {mode}.webp", webp(40, 30, mode, lossless=True))
        yield Picture("WebP", f"extended lossy {mode}.webp", webp(40, 30, mode, icc_profile=b"icc" * 50, xmp=b"<x/>"))
        yield Picture("WebP", f"extended lossless {mode}.webp", webp(40, 30, mode, lossless=True, exif=make.exif(1)))
    yield Picture("WebP", "see-through lossy.webp", make.saved(Image.new("RGBA", (40, 30), (1, 2, 3, 90)), "WEBP"))
    yield Picture("WebP", "animated.webp", make.frames("WEBP"))
    yield Picture("WebP", "animated lossless.webp", _animated_lossless())
    for name, data in _bases():
        yield Picture("bytes behind the end", f"zeros behind {name}", data + bytes(1_000))


def _bases() -> Iterator[tuple[str, bytes]]:
    yield "a.jpg", jpeg()
    yield "progressive.jpg", jpeg(progressive=True)
    yield "a.png", png()
    yield "lossy.webp", webp()
    yield "lossless.webp", webp(lossless=True)
    yield "extended.webp", webp(exif=make.exif(1), icc_profile=b"icc" * 50)
    yield "animated.webp", make.frames("WEBP")
    yield "animated.png", make.frames("PNG")


def _animated_lossless() -> bytes:
    pictures = [Image.new("RGB", (5, 3), (60 * number, 9, 9)) for number in range(3)]
    return make.saved(pictures[0], "WEBP", save_all=True, append_images=pictures[1:], lossless=True)


def _broken_jpeg() -> Iterator[Picture]:
    def broken(name: str, content: bytes) -> Picture:
        return Picture("broken JPEG", f"{name}.jpg", content, hostile=True)

    for marker in (SOF3, *range(0xC5, 0xCC), *range(0xCD, 0xD0), 0xDE, 0xDF, 0xF7, 0xF8, 0xFD, 0x02, 0xBF):
        yield broken(f"frame marker {marker:X}", make.jpeg_with(b"\xff\xc0", sof(marker=marker)))
        if not 0xC0 <= marker <= 0xCF:
            yield broken(f"marker {marker:X} before the frame", jpeg(before=segment(marker, bytes(9))))
    yield broken("JPEG-LS", b"\xff\xd8\xff\xf7" + segment(0xF7, bytes(9))[2:] + segment(SOS, bytes(6)) + bytes(99))
    for precision in (0, 1, 2, 4, 7, 9, 12, 16):
        yield broken(f"{precision} bits", make.jpeg_with(b"\xff\xc0", sof(precision=precision)))
    for width, height in ((0, 3), (5, 0), (0, 0), (65_500, 1), (65_501, 1), (1, 65_535), (65_535, 65_535)):
        yield broken(f"{width} x {height}", make.jpeg_with(b"\xff\xc0", sof(width, height)))
    for components in (0, 1, 2, 4, 5, 10, 11):
        yield broken(f"{components} components", make.jpeg_with(b"\xff\xc0", sof(components=components)))
    for length in (0, 2, 7, 8, 16, 18, 20):
        yield broken(f"frame length {length}", make.jpeg_with(b"\xff\xc0", b"\xff\xc0" + struct.pack(">H", length) + sof()[4:]))
    yield broken("sampling factor 0", make.jpeg_with(b"\xff\xc0", sof().replace(b"\x11\0", b"\x01\0")))
    yield broken("sampling factor 5", make.jpeg_with(b"\xff\xc0", sof().replace(b"\x11\0", b"\x15\0")))
    yield broken("scan without a frame", make.jpeg_with(b"\xff\xc0", b""))
    yield broken("two frames", make.jpeg_with(b"\xff\xc0", sof() + sof()))
    yield broken("two starts", jpeg(before=b"\xff\xd8"))
    yield broken("end at once", jpeg(before=b"\xff\xd9"))
    yield broken("end before the scan", make.jpeg_with(b"\xff\xc0", sof() + b"\xff\xd9"))
    yield broken("only ends", b"\xff\xd8" + b"\xff\xd9" * 500)
    yield broken("without quantization", make.jpeg_with(b"\xff\xdb", b""))
    yield broken("without Huffman tables", make.jpeg_with(b"\xff\xc4", b""))
    yield broken("only fill bytes", b"\xff\xd8" + b"\xff" * 5_000)
    yield broken("only zeros", b"\xff\xd8\xff" + bytes(5_000))
    yield broken("thumbnail's frame only", b"\xff\xd8" + segment(APP1, b"Exif\0\0" + jpeg()) + b"\xff\xd9")
    segments, scan = make.jpeg_parts(jpeg())
    head = b"\xff\xd8" + b"".join(segments)
    for name, body in {
        "0 components": b"\0\0\0\0",
        "5 components": bytes(14),
        "unknown component": b"\1\x63\0\0\x3f\0",
        "no body": b"",
    }.items():
        yield broken(f"scan of {name}", head + segment(SOS, body) + scan[14:])
    for count in (0, 1, 2, 5):
        yield broken(f"{count} bytes of scan", head + scan[: 2 + int.from_bytes(scan[2:4]) + count])
    yield broken("scan of ones", head + scan[:14] + b"\xff" * 500)


def _broken_png() -> Iterator[Picture]:
    def broken(name: str, *chunks: bytes) -> Picture:
        return Picture("broken PNG", f"{name}.png", make.PNG_SIGNATURE + b"".join(chunks), hostile=True)

    rest = idat() + make.IEND
    yield broken("wrong IHDR checksum", ihdr()[:-4] + bytes(4), rest)
    yield broken("CgBI", chunk(b"CgBI", b"\x50\0\x20\2"), ihdr(), chunk(b"IDAT", zlib.compress(bytes(48))[2:-4]), make.IEND)
    yield broken("text before IHDR", chunk(b"tEXt", b"a\0b"), ihdr(), rest)
    yield broken("IHDR of 14 bytes", chunk(b"IHDR", ihdr()[8:21] + b"\0"), rest)
    yield broken("IHDR of 12 bytes", chunk(b"IHDR", ihdr()[8:20]), rest)
    yield broken("two IHDR", ihdr(), ihdr(), rest)
    for width, height in ((0, 3), (5, 0), (0, 0), (2**31, 1), (1, 2**31), (2**32 - 1, 2**32 - 1), (1_000_001, 1), (2**31 - 1, 1)):
        yield broken(f"{width} x {height}", ihdr(width, height), rest)
    for colour, depths in {0: (0, 3, 5, 32), 1: (8,), 2: (1, 4), 3: (16,), 4: (4,), 5: (8,), 6: (1,), 7: (8,)}.items():
        for depth in depths:
            yield broken(f"colour {colour} depth {depth}", ihdr(5, 3, depth, colour), make.PLTE, rest)
    for method in ((1, 0, 0), (0, 1, 0), (0, 64, 0), (0, 0, 2), (0, 0, 255)):
        yield broken("compression {}, filter {}, interlace {}".format(*method), ihdr(method=method), rest)
    yield broken("palette missing", ihdr(colour=3), idat(colour=3), make.IEND)
    yield broken("palette behind the data", ihdr(colour=3), idat(colour=3), make.PLTE, make.IEND)
    yield broken("palette of 4 bytes", ihdr(colour=3), chunk(b"PLTE", bytes(4)), idat(colour=3), make.IEND)
    yield broken("palette empty", ihdr(colour=3), chunk(b"PLTE"), idat(colour=3), make.IEND)
    yield broken("palette of 257", ihdr(colour=3), chunk(b"PLTE", bytes(771)), idat(colour=3), make.IEND)
    yield broken("palette in grayscale", ihdr(colour=0), make.PLTE, idat(colour=0), make.IEND)
    yield broken("palette with a wrong checksum", ihdr(colour=3), chunk(b"PLTE", bytes(768), 1), idat(colour=3), make.IEND)
    yield broken("two palettes", ihdr(colour=3), make.PLTE, make.PLTE, idat(colour=3), make.IEND)
    yield broken("text with a wrong checksum", ihdr(), chunk(b"tEXt", b"a\0b", 1), rest)
    yield broken("unknown critical chunk", ihdr(), chunk(b"ABCD", b"a"), rest)
    yield broken("unknown critical chunk with a wrong checksum", ihdr(), chunk(b"ABCD", b"a", 1), rest)
    yield broken("chunk with a name of zeros", ihdr(), chunk(bytes(4), b"a"), rest)
    yield broken("no data", ihdr(), make.IEND)
    yield broken("only IHDR", ihdr())
    yield broken("only text", ihdr(), chunk(b"tEXt", b"a\0b") * 9)
    yield broken("end, then data", ihdr(), make.IEND, idat())
    yield broken("IEND with a body, then data", ihdr(), chunk(b"IEND", b"x"), idat())
    yield broken("empty data", ihdr(), chunk(b"IDAT"), make.IEND)
    yield broken("empty data, then data", ihdr(), chunk(b"IDAT"), rest)
    yield broken("data that is no zlib", ihdr(), chunk(b"IDAT", b"hello world"), make.IEND)
    yield broken("data with a wrong checksum", ihdr(), chunk(b"IDAT", zlib.compress(bytes(48)), 1), make.IEND)
    yield broken("data too short", ihdr(), idat(5, 1), make.IEND)
    yield broken("frame data first", ihdr(), chunk(b"fdAT", bytes(4) + idat()[8:-4]), make.IEND)
    yield broken("0 frames", ihdr(), chunk(b"acTL", bytes(8)), rest)
    yield broken("acTL of 4 bytes", ihdr(), chunk(b"acTL", bytes(4)), rest)
    yield broken("fcTL before acTL", ihdr(), chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 5, 3, 0, 0, 1, 1, 0, 0)), rest)
    yield broken(
        "frame larger than the picture",
        ihdr(),
        chunk(b"acTL", b"\0\0\0\1" + bytes(4)),
        chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 50, 30, 0, 0, 1, 1, 0, 0)),
        rest,
    )
    for length in (2**31 - 1, 2**31, 2**32 - 1):
        yield broken(f"chunk of {length} bytes", ihdr(), struct.pack(">I", length) + b"tEXt", rest)
    yield Picture("broken PNG", "line ends turned.png", png().replace(b"\r\n", b"\n"), hostile=True)
    yield Picture("broken PNG", "MNG.png", b"\x8aMNG\r\n\x1a\n" + png()[8:], hostile=True)
    yield Picture("broken PNG", "JNG.png", b"\x8bJNG\r\n\x1a\n" + png()[8:], hostile=True)


def _broken_webp() -> Iterator[Picture]:
    def broken(name: str, content: bytes) -> Picture:
        return Picture("broken WebP", f"{name}.webp", content, hostile=True)

    (lossy,), (lossless,) = make.webp_chunks(webp()), make.webp_chunks(webp(lossless=True))
    animated = make.webp_chunks(make.frames("WEBP"))
    anim, anmf = animated[1], animated[2]
    for name, chunks in {
        "no chunk": [],
        "junk": [b"A" * 100],
        "html": [HTML],
        "unknown chunk": [riff_chunk(b"ABCD", b"x" * 40)],
        "VP8X alone": [vp8x()],
        "VP8X and EXIF": [vp8x(flags=8), riff_chunk(b"EXIF", b"x" * 40)],
        "VP8X and junk": [vp8x(), b"A" * 100],
        "VP8X twice": [vp8x(), vp8x(), lossy],
        "ALPH alone": [vp8x(flags=16), riff_chunk(b"ALPH", bytes(40))],
        "ALPH first": [riff_chunk(b"ALPH", bytes(40)), lossy],
        "EXIF first": [riff_chunk(b"EXIF", b"x" * 40), lossy],
        "unknown chunk in VP8X": [vp8x(), riff_chunk(b"ABCD", b"x" * 41), lossy],
        "canvas too wide": [vp8x(6, 3), lossy],
        "canvas too low": [vp8x(5, 2), lossy],
        "canvas huge": [vp8x(2**24, 2**24), lossy],
        "VP8X of 9 bytes": [riff_chunk(b"VP8X", vp8x()[8:17]), lossy],
        "VP8X of 12 bytes": [riff_chunk(b"VP8X", vp8x()[8:] + b"\0\0"), lossy],
        "animation flag and a still": [vp8x(flags=2), lossy],
        "animation flag, ANIM and a still": [vp8x(flags=2), anim, lossy],
        "frame without ANIM": [vp8x(flags=2), anmf],
        "frame without the flag": [vp8x(), anim, anmf],
        "no frame": [vp8x(flags=2), anim],
        "ANIM of 2 bytes": [vp8x(flags=2), riff_chunk(b"ANIM", b"\0\0"), anmf],
        "frame beyond the canvas": [vp8x(4, 2, flags=2), anim, anmf],
        "frame without a picture": [vp8x(flags=2), anim, riff_chunk(b"ANMF", anmf[8:24])],
        "frame of 8 bytes": [vp8x(flags=2), anim, riff_chunk(b"ANMF", anmf[8:16])],
        "frame with junk": [vp8x(flags=2), anim, riff_chunk(b"ANMF", anmf[8:24] + b"A" * 40)],
        "two stills": [vp8x(), lossy, lossy],
        "still, then a frame": [vp8x(), lossy, anmf],
        "picture, then junk": [vp8x(), lossy, b"A" * 40],
        "picture, then a long chunk": [vp8x(), lossy, b"EXIF\xff\xff\0\0"],
        "simple picture, a chunk, then junk": [lossy, riff_chunk(b"ABCD", b"x"), b"A" * 40],
        "simple picture, two chunks": [lossy, lossy, lossless],
        "simple picture, then junk": [lossy, b"A" * 40],
        "VP8 in VP8X with a zero size": [vp8x(), riff_chunk(b"VP8 ", b"")],
        "VP8L in the tag VP8": [riff_chunk(b"VP8 ", lossless[8:])],
        "VP8 in the tag VP8L": [riff_chunk(b"VP8L", lossy[8:])],
        "VP8L and ALPH": [vp8x(flags=16), riff_chunk(b"ALPH", bytes(40)), lossless],
        "frame zero size": [vp8x(), riff_chunk(b"VP8L", b"")],
        "reserved VP8X flags": [vp8x(flags=0xC1), lossy],
        "lower case": [b"vp8 " + lossy[4:]],
        "VP8 without space": [b"VP8\0" + lossy[4:]],
    }.items():
        yield broken(name, riff(*chunks))
    body = bytearray(lossy)
    for name, offset, value in (
        ("not a key frame", 8, body[8] | 1),
        ("profile 4", 8, body[8] | 8),
        ("profile 3", 8, body[8] | 6),
        ("hidden", 8, body[8] & ~16),
        ("long first partition", 10, 0xFF),
        ("start code", 11, 0),
        ("start code 2", 12, 0),
        ("start code 3", 13, 0),
    ):
        bent = bytearray(body)
        bent[offset] = value
        yield broken(f"VP8 {name}", riff(bytes(bent)))
    for width, height in ((0, 3), (5, 0), (0x4005, 3), (0x3FFF, 0x3FFF)):
        yield broken(f"VP8 of {width} x {height}", riff(lossy[:14] + struct.pack("<HH", width, height) + lossy[18:]))
    yield broken("VP8L signature", riff(lossless[:8] + b"\x2e" + lossless[9:]))
    yield broken("VP8L version 1", riff(lossless[:12] + bytes([lossless[12] | 0x20]) + lossless[13:]))
    for length in (0, 1, 4, 5, 9, 10, len(lossy) - 10, len(lossy) - 9, len(lossy), 2**31, 2**32 - 10, 2**32 - 1):
        yield broken(f"VP8 chunk of {length}", riff(b"VP8 " + struct.pack("<I", length) + lossy[8:]))
    for data, name in ((webp(), "simple"), (webp(exif=make.exif(1)), "extended")):
        real = len(data) - 8
        for size in (0, 4, 7, 8, 12, 20, real - 2, real - 1, real + 1, real + 2, 2 * real, 2**31, 2**32 - 10, 2**32 - 1):
            yield broken(f"RIFF size {size} ({name})", data[:4] + struct.pack("<I", size) + data[8:])
    yield broken("RIFX", b"RIFX" + webp()[4:])
    yield broken("WAVE", webp()[:8] + b"WAVE" + webp()[12:])
    yield broken(
        "odd chunk without padding",
        b"RIFF" + struct.pack("<I", 4 + 18 + 13 + len(lossy)) + b"WEBP" + vp8x(flags=4) + b"XMP " + struct.pack("<I", 5) + b"<xxx>" + lossy,
    )


def _polyglots() -> Iterator[Picture]:
    """One file, two formats: the other one behind, inside or before the picture, or behind a bare signature."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("index.html"), HTML)
    for other, data in {"HTML": HTML, "ZIP": archive.getvalue(), "PDF": PDF, "JS": JS, "SVG": SVG, "PHP": PHP}.items():
        for kind, name, content in (
            ("behind", "jpg", jpeg(after=data)),
            ("behind", "png", png(after=data)),
            ("behind", "webp", webp() + data),
            ("inside", "jpg", jpeg(before=segment(COM, data))),
            ("inside", "png", png(before=chunk(b"tEXt", b"Comment\0" + data))),
            ("inside", "webp", webp(xmp=data)),
            ("before", "jpg", data + jpeg()),
            ("before", "png", data + png()),
            ("before", "webp", data + webp()),
            ("behind the signature of", "jpg", b"\xff\xd8\xff\xe0" + data),
            ("behind the signature of", "png", make.PNG_SIGNATURE + data),
            ("behind the signature of", "webp", b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data),
            ("behind IHDR of", "png", make.PNG_SIGNATURE + ihdr() + data),
            ("behind VP8X of", "webp", riff(vp8x(), data)),
            ("behind the frame of", "jpg", b"\xff\xd8" + segment(APP0, b"JFIF\0" + bytes(9)) + sof() + data),
        ):
            yield Picture(f"polyglot, {kind.split()[0]}", f"{other} {kind} {name}.{name}", content, hostile=True)
    yield Picture(
        "polyglot, inside", "JS that begins as JPEG.jpg", b"\xff\xd8\xff\xe0\x2f\x2a" + bytes(0x2F2A - 2) + jpeg()[2:] + JS, hostile=True
    )
    yield Picture("polyglot, behind", "JS that begins as GIF.gif", b"GIF89a=1;/*" + bytes(20) + b"*/alert(1)", hostile=True)
    yield Picture("polyglot, behind", "JS that begins as BMP.bmp", b"BM=1;/*" + bytes(60) + b"*/alert(1)", hostile=True)


def _other_formats() -> Iterator[Picture]:
    """Every other format that Pillow can write, and some that it cannot."""
    Image.init()
    for kind in sorted(Image.SAVE.keys() - {"JPEG", "PNG", "WEBP", "MPO", "HDF5", "GRIB", "BUFR", "WMF", "FITS"}):
        for mode in ("RGB", "RGBA", "P", "L", "1", "F"):
            with warnings.catch_warnings(action="ignore"):  # some formats are on their way out of Pillow
                try:
                    content = make.saved(Image.new(mode, (32, 32)), kind)
                except (OSError, KeyError, ValueError, SystemError):
                    continue
            yield Picture("other format", f"{kind} {mode}.{kind.lower()}", content, hostile=True)
            break
    for name, content in {
        "SVG": SVG,
        "HTML": HTML,
        "text": b"hello\n" * 50,
        "JSON": b'{"a": 1}',
        "XML": b'<?xml version="1.0"?><a/>',
        "MP4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "JXL": b"\xff\x0a\xfa\x1f",
        "JXL container": b"\0\0\0\x0cJXL \r\n\x87\n",
        "WAV": b"RIFF\x24\0\0\0WAVEfmt ",
        "AVI": b"RIFF\x24\0\0\0AVI LIST",
        "zeros": bytes(2_000),
        "noise": random.Random(3).randbytes(2_000),
        "one byte": b"\xff",
        "JPEG signature": b"\xff\xd8\xff",
        "PNG signature": make.PNG_SIGNATURE,
        "WebP signature": b"RIFF\0\0\0\0WEBP",
        "PSD": b"8BPS\0\1" + bytes(80),
        "EXE": b"MZ" + bytes(200),
        "ELF": b"\x7fELF\2\1\1" + bytes(60),
        "Java": b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(60),
        "shell": b"#!/bin/sh\nrm -rf /\n",
        "gzip": b"\x1f\x8b\x08" + bytes(30),
        "JPEG in base64": b"/9j/4AAQSkZJRgABAQ",
        "data URL": b"data:image/png;base64,iVBORw0KGgo=",
        "WASM": b"\0asm\1\0\0\0",
        "FLIF": b"FLIF1" + bytes(50),
        "DICM": bytes(128) + b"DICM" + jpeg(),
    }.items():
        yield Picture("other format", f"{name} by hand", content, hostile=True)


def _liars() -> Iterator[Picture]:
    """Sound pictures under another type's name and declared content type: the bytes decide."""
    declared = {
        "jpg": "image/jpeg",
        "png": "image/png",
        "webp": "image/webp",
        "gif": "image/gif",
        "html": "text/html",
        "svg": "image/svg+xml",
    }
    for real, content in {"jpg": jpeg(40, 30), "png": png(40, 30), "webp": webp(40, 30)}.items():
        for claimed in declared.keys() - {real}:
            yield Picture("lying name and type", f"{real} called.{claimed}", content, hostile=True, declared=declared[claimed])
    for claimed in ("jpg", "png", "webp"):
        for real, content in {
            "GIF": make.saved(Image.new("P", (9, 9)), "GIF"),
            "BMP": make.saved(Image.new("RGB", (9, 9)), "BMP"),
            "SVG": SVG,
            "HTML": HTML,
        }.items():
            yield Picture("lying name and type", f"{real} called.{claimed}", content, hostile=True, declared=declared[claimed])


def _bombs() -> Iterator[Picture]:
    rows = zlib.compressobj(9)
    data = b"".join([*(rows.compress(bytes(2_501) * 100) for _ in range(200)), rows.flush()])
    yield Picture(
        "bomb",
        "400 megapixels in 50 kB.png",
        make.PNG_SIGNATURE + ihdr(20_000, 20_000, 1, 0) + chunk(b"IDAT", data) + make.IEND,
        hostile=True,
    )
    for width, height in ((16_384, 16_385), (65_536, 65_536), (2**28 + 1, 1)):
        yield Picture("bomb", f"{width} x {height}.png", make.PNG_SIGNATURE + ihdr(width, height) + idat() + make.IEND, hostile=True)
    for width, height in ((16_400, 16_400), (65_500, 65_500), (65_500, 4_100)):
        yield Picture("bomb", f"{width} x {height}.jpg", make.jpeg_with(b"\xff\xc0", sof(width, height)), hostile=True)
    yield Picture("bomb", "progressive 65500 x 65500.jpg", _progressive(65_500, 65_500), hostile=True)
    anim, anmf = make.webp_chunks(make.frames("WEBP"))[1:3]
    yield Picture("bomb", "animation of 16384 x 16385.webp", riff(vp8x(16_384, 16_385, flags=2), anim, anmf), hostile=True)
    yield Picture("bomb", "animation of 2**24 x 2**24.webp", riff(vp8x(2**24, 2**24, flags=2), anim, anmf), hostile=True)
    yield Picture("bomb", "20 MB of text.png", png(before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000)))), hostile=True)
    yield Picture("bomb", "200,000 empty segments.jpg", jpeg(before=segment(COM) * 200_000), hostile=True)
    yield Picture("bomb", "100,000 empty chunks.png", png(before=chunk(b"tEXt") * 100_000), hostile=True)
    yield Picture(
        "bomb", "100,000 empty chunks.webp", riff(vp8x(), riff_chunk(b"ABCD", b"") * 100_000, *make.webp_chunks(webp())), hostile=True
    )
    yield Picture("bomb", "1 MB of fill bytes.jpg", jpeg(before=b"\xff" * 1_000_000), hostile=True)


def _progressive(width: int, height: int) -> bytes:
    data = jpeg(progressive=True)
    return data.replace(sof(marker=SOF2)[:9], sof(width, height, marker=SOF2)[:9])


def _cut() -> Iterator[Picture]:
    """Truncations at the end of every part, one byte behind it, and in its middle."""
    for name, data in _bases():
        if name.endswith("jpg"):
            segments, scan = make.jpeg_parts(data)
            ends = make.cut(data, [*segments, scan[: 2 + int.from_bytes(scan[2:4])]], 2)
        elif name.endswith("png"):
            ends = make.cut(data, make.png_chunks(data), 8)
        else:
            ends = make.cut(data, make.webp_chunks(data), 12)
        lengths = {len(part) + more for part in ends for more in (-1, 0, 1, 4)} | {2, 3, 4, 8, 12, 16, 20, 24, 29, 33}
        for length in sorted(length for length in lengths if length < len(data)):
            yield Picture("truncated", f"{name} cut at {length}", data[:length], hostile=True)
    for name, data in _noise():
        yield Picture("photograph", name, data)
        for part in (1, 5, 9):
            yield Picture("truncated", f"{name} cut at {part} tenths", data[: len(data) * part // 10], hostile=True)


def _noise() -> Iterator[tuple[str, bytes]]:
    """Photographs, as far as their size goes."""
    pictures = [Image.frombytes("RGB", (300, 200), random.Random(seed).randbytes(180_000)).resize((600, 400)) for seed in range(2)]
    yield "photo.jpg", make.saved(pictures[0], "JPEG")
    yield "progressive photo.jpg", make.saved(pictures[0], "JPEG", progressive=True)
    yield "photo.png", make.saved(pictures[0], "PNG")
    yield "photo.webp", make.saved(pictures[0], "WEBP")
    yield "lossless photo.webp", make.saved(pictures[0], "WEBP", lossless=True)
    yield "extended photo.webp", make.saved(pictures[0], "WEBP", xmp=b"<x/>")
    yield "animated photo.webp", make.saved(pictures[0], "WEBP", save_all=True, append_images=pictures[1:])


def _bent() -> Iterator[Picture]:
    """One byte of the first bytes replaced."""
    chance = random.Random(7)
    for name, data in _bases():
        for offset in range(min(len(data), 48)):
            bent = bytearray(data)
            bent[offset] ^= chance.randrange(1, 256)
            yield Picture("one byte bent", f"{name} bent at {offset}", bytes(bent), hostile=True)
