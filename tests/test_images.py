"""What `identify` accepts and refuses, from pictures built part by part. tests/pictures asks Chromium about many more."""

import contextlib
import io
import re
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from media_storage import errors, images
from pictures import make
from pictures.make import (
    APP1,
    APP2,
    COM,
    PNG_SIGNATURE,
    SOF0,
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

LIMIT = 268_435_456
MIB = 1_048_576


def identify(content: bytes, max_pixels: int = LIMIT) -> images.Image:
    return images.identify(io.BytesIO(content), max_pixels)


def short(value: object) -> str | None:
    """Name a test's bytes by their number."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else None


def refused(content: bytes, reason: str) -> None:
    """Assert that the header is refused, for that reason and no other."""
    with pytest.raises(errors.InvalidImage) as refusal:
        identify(content)
    assert re.search(reason, refusal.value.reason), refusal.value.reason


# --- the type ---


def test_the_interface_says_what_each_type_is_called() -> None:
    """Keys end in jpg, png or webp, and a picture carries its type and extension."""
    assert images.CONTENT_TYPES == {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}
    assert images.HEAD_BYTES == 2048
    assert identify(jpeg(640, 480)) == images.Image("image/jpeg", "jpg", 640, 480)
    assert identify(png(640, 480)) == images.Image("image/png", "png", 640, 480)
    assert identify(webp(640, 480)) == images.Image("image/webp", "webp", 640, 480)


@pytest.mark.parametrize(("content", "content_type"), [(jpeg(), "image/jpeg"), (png(), "image/png"), (webp(), "image/webp")], ids=short)
def test_sniff_needs_no_more_than_the_first_bytes(content: bytes, content_type: str) -> None:
    """32 bytes of a picture are enough; what follows does not change the answer."""
    assert images.sniff(content[:32]) == content_type
    assert images.sniff(content[:32] + b"<html>" * 1_000) == content_type


@pytest.mark.parametrize(
    ("content", "detected"),
    [
        (b"", "application/x-empty"),
        (b"<!doctype html><script>alert(1)</script>", "text/html"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml"),
        (b"%PDF-1.4\n", "application/pdf"),
        (b"PK\x03\x04\x14\0\0\0\0\0", None),
        (make.saved(Pillow.new("P", (9, 9)), "GIF"), "image/gif"),
        (make.saved(Pillow.new("RGB", (9, 9)), "BMP"), None),
        (make.saved(Pillow.new("RGB", (9, 9)), "TIFF"), "image/tiff"),
        (make.saved(Pillow.new("RGB", (9, 9)), "AVIF"), None),
        (b"RIFF\x24\0\0\0WAVEfmt ", None),
        (b"\xff\xd8", None),
        (PNG_SIGNATURE, None),
        (b"GIF89a" + png(), "image/gif"),
        (b"<html>" + jpeg(), None),
    ],
    ids=short,
)
def test_anything_else_is_an_unsupported_type(content: bytes, detected: str | None) -> None:
    """The refusal names what was found (where every version of libmagic gives it one name) and what is allowed."""
    for check in (images.sniff, identify):
        with pytest.raises(errors.UnsupportedType) as refusal:
            check(content)
        assert refusal.value.extra["allowed"] == ["image/jpeg", "image/png", "image/webp"]
        assert refusal.value.extra["detected"] == (detected or refusal.value.extra["detected"])


def test_an_animated_png_is_a_png_whatever_libmagic_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 5.48 on libmagic answers image/apng; older ones image/png. Both become image/png."""

    class NewLibmagic:
        def from_buffer(self, head: bytes) -> str:
            assert head.startswith(PNG_SIGNATURE)
            return "image/apng"

    animated = make.frames("PNG")
    assert identify(animated).content_type == "image/png"
    monkeypatch.setattr(images, "libmagic", NewLibmagic)
    assert identify(animated) == images.Image("image/png", "png", 5, 3)


def test_libmagic_of_the_system_serves_where_the_wheel_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pylibmagic (conda, Windows, ARM) `magic` is asked all the same."""
    images.libmagic()  # here the wheel's may be the only libmagic there is
    monkeypatch.setitem(sys.modules, "pylibmagic", None)
    images.libmagic.cache_clear()
    assert images.sniff(png()) == "image/png"


def test_threads_share_onelibmagic() -> None:
    """Uploads run in threads at once; none gets another one's answer."""
    wrong: list[str] = []

    def work(content: bytes, content_type: str) -> None:
        wrong.extend(found for _ in range(300) if (found := images.sniff(content)) != content_type)

    pairs = [(jpeg(), "image/jpeg"), (png(), "image/png"), (webp(), "image/webp")] * 2
    threads = [threading.Thread(target=work, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_spooled_file_is_read_from_its_beginning_wherever_it_stands() -> None:
    """The receiver hands over a SpooledTemporaryFile, in memory or rolled over to disk, positioned at its end."""
    for content in (png(), png(before=chunk(b"tEXt", b"a\0" + bytes(100_000)))):
        with tempfile.SpooledTemporaryFile(max_size=65_536) as file:
            file.write(content)
            assert images.identify(file, LIMIT) == images.Image("image/png", "png", 5, 3)


# --- dimensions and limits ---


@pytest.mark.parametrize(
    "content",
    [png(40, 30), jpeg(40, 30), webp(40, 30), webp(40, 30, lossless=True), webp(40, 30, exif=make.exif(1))],
    ids=short,
)
def test_the_pixel_limit_is_exact(content: bytes) -> None:
    """Width times height may be the limit, not one more; 0 turns the limit off."""
    assert identify(content, 1200).width == 40
    assert identify(content, 0).height == 30
    with pytest.raises(errors.TooManyPixels) as refusal:
        identify(content, 1199)
    assert refusal.value.extra == {"maxPixels": 1199}


@pytest.mark.parametrize(
    "bomb",
    [
        PNG_SIGNATURE + ihdr(16_384, 16_385) + idat(),
        PNG_SIGNATURE + ihdr(1_000_000, 1_000_000) + idat(),
        make.jpeg_with(b"\xff\xc0", sof(65_500, 65_500)),
        riff(vp8x(2**24, 2**24, flags=2), *make.webp_chunks(make.frames("WEBP"))[1:3]),
    ],
    ids=short,
)
def test_a_bomb_has_too_many_pixels(bomb: bytes) -> None:
    """A few hundred bytes may announce gigapixels: refused by what they announce, without decoding."""
    with pytest.raises(errors.TooManyPixels):
        identify(bomb)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_dimensions_are_as_coded_not_as_exif_turns_them(orientation: int) -> None:
    """A phone's picture that EXIF turns by 90 degrees keeps the width and height of its pixels."""
    for content in (jpeg(40, 30, exif=make.exif(orientation)), webp(40, 30, exif=make.exif(orientation))):
        assert (identify(content).width, identify(content).height) == (40, 30)


@pytest.mark.parametrize(
    "content",
    [
        make.jpeg_with(b"\xff\xc0", sof(0, 3)),
        make.jpeg_with(b"\xff\xc0", sof(5, 0)),
        PNG_SIGNATURE + ihdr(0, 3) + idat(),
        PNG_SIGNATURE + ihdr(5, 0) + idat(),
        riff(webp()[12:26] + b"\0\0\3\0" + webp()[30:]),
        riff(webp()[12:26] + b"\5\0\0\0" + webp()[30:]),
    ],
    ids=short,
)
def test_zero_dimensions_are_refused(content: bytes) -> None:
    """No pixels, no picture."""
    refused(content, r"\b0 x|x 0\b")


# --- JPEG ---


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 1}], ids=str)
def test_jpeg_of_every_usual_kind(mode: str, options: dict[str, int]) -> None:
    """Baseline, progressive, restart markers; colour, grayscale and CMYK."""
    assert identify(jpeg(33, 17, mode, **options)) == images.Image("image/jpeg", "jpg", 33, 17)


@pytest.mark.parametrize("marker", [SOF0, SOF1, SOF2])
def test_jpeg_frames_that_browsers_draw(marker: int) -> None:
    """Baseline, extended and progressive frames are accepted."""
    assert identify(make.jpeg_with(b"\xff\xc0", sof(7, 9, marker=marker))).height == 9


@pytest.mark.parametrize("marker", [SOF3, *range(0xC5, 0xCC), *range(0xCD, 0xD0), 0xF7])
def test_jpeg_frames_that_browsers_do_not_draw(marker: int) -> None:
    """Lossless, differential and arithmetic frames, and JPEG-LS, are refused."""
    refused(make.jpeg_with(b"\xff\xc0", sof(marker=marker)), f"marker {marker:#x}")


def test_jpeg_ls_is_refused() -> None:
    """libmagic takes FF D8 FF F7 for a JPEG; no browser draws it."""
    refused(b"\xff\xd8" + segment(0xF7, sof()[4:]) + segment(SOS, bytes(10)) + bytes(99), "marker 0xf7")


@pytest.mark.parametrize("precision", [0, 2, 12, 16])
def test_jpeg_of_other_than_8_bits_is_refused(precision: int) -> None:
    """12-bit JPEG exists, in medicine; browsers do not draw it."""
    refused(make.jpeg_with(b"\xff\xc0", sof(precision=precision)), f"{precision} bits")


@pytest.mark.parametrize("components", [0, 2, 5, 255])
def test_jpeg_of_an_unknown_colour_space_is_refused(components: int) -> None:
    """One component, three or four: browsers know no others."""
    refused(make.jpeg_with(b"\xff\xc0", sof(components=components)), f"{components} components")


@pytest.mark.parametrize("length", [0, 2, 7, 8, 16, 18, 20])
def test_jpeg_frame_of_a_wrong_length_is_refused(length: int) -> None:
    """A frame header is as long as its components need."""
    refused(make.jpeg_with(b"\xff\xc0", b"\xff\xc0" + struct.pack(">H", length) + sof()[4:]), "bits|frame of")


@pytest.mark.parametrize("sampling", [0x01, 0x10, 0x15, 0x51])
def test_jpeg_sampling_factors_are_one_to_four(sampling: int) -> None:
    """Every component's, in both directions."""
    refused(make.jpeg_with(b"\xff\xc0", sof()[:-2] + bytes([sampling, 0])), "sampling")


def test_jpeg_larger_than_libjpeg_takes_is_refused() -> None:
    """65,500 pixels a side, though the format could say 65,535."""
    assert identify(make.jpeg_with(b"\xff\xc0", sof(65_500, 1))).width == 65_500
    refused(make.jpeg_with(b"\xff\xc0", sof(65_501, 1)), "65501")


@pytest.mark.parametrize(
    "before",
    [
        segment(APP1, b"Exif\0\0" + jpeg(160, 120)),  # a thumbnail has a frame header of its own
        segment(APP2, b"ICC_PROFILE\0\1\1" + bytes(60_000)) * 10,
        segment(APP1, b"http://ns.adobe.com/xap/1.0/\0" + b" " * 65_000) * 20,  # the frame header is beyond 1 MB
        segment(COM, b"\xff\xd9\xff\xc0\xff\xda"),
        segment(COM, b"x") * 2_000,
        segment(COM)[:2] + b"\0\0",  # libjpeg takes this for an empty segment
        b"\xff" * 3_000,
        b"\xff\xd3\xff\x01",
        b"\0\1\2 stray \xff\0" * 300,
        bytes(images._BLOCK - 1) + segment(COM, sof(1, 1)),  # a marker across two blocks of reading
    ],
    ids=[
        "EXIF thumbnail",
        "ICC",
        "XMP",
        "markers in a comment",
        "comments",
        "length 0",
        "fill",
        "no length",
        "stray",
        "two blocks",
    ],
)
def test_jpeg_with_much_before_its_frame(before: bytes) -> None:
    """Whatever precedes the frame header, the dimensions are the frame's."""
    first = segment(COM, b"libmagic wants FF behind the start")
    assert identify(jpeg(50, 40, before=first + before)) == images.Image("image/jpeg", "jpg", 50, 40)


def test_mpo_is_a_jpeg() -> None:
    """A stereo camera's MPO is a JPEG with more of them behind it; browsers draw the first."""
    assert identify(make.frames("MPO", 50, 40)) == images.Image("image/jpeg", "jpg", 50, 40)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xd8\xff<!doctype html><script>alert(1)</script>", "marker 0x3c"),
        (b"\xff\xd8\xff\xe0<!doctype html><script>alert(1)</script>", "ends before"),
        (b"\xff\xd8\xff" + bytes(5_000), "ends before"),
        (b"\xff\xd8" + b"\xff" * 5_000, "ends before"),
        (make.jpeg_with(b"\xff\xc0", b""), "without a frame"),
        (make.jpeg_with(b"\xff\xc0", sof() + sof()), "marker 0xc0"),
        (jpeg(before=b"\xff\xd8"), "marker 0xd8"),
        (jpeg(before=b"\xff\xd9"), "marker 0xd9"),
        (jpeg(before=segment(0xF0)), "marker 0xf0"),
        (jpeg(before=segment(0x02)), "marker 0x2"),
    ],
    ids=short,
)
def test_jpeg_without_a_picture_is_refused(content: bytes, reason: str) -> None:
    """A bare signature with something else behind it, or markers that end a decoder's search."""
    refused(content, reason)


@pytest.mark.parametrize(
    "body", [b"", b"\0\0\0\0", bytes(14), b"\1\x63\0\0\x3f\0", b"\1\1\0\0\x3f", b"\1\1\0\0\x3f\0\0", b"\5" + b"\1\0" * 5 + bytes(3)]
)
def test_jpeg_scan_header_must_fit_the_frame(body: bytes) -> None:
    """A scan has one to four of the frame's components and the length they need."""
    segments, scan = make.jpeg_parts(jpeg())
    before = b"\xff\xd8" + b"".join(segments)
    refused(before + segment(SOS, body) + scan[14:], "scan header")
    refused(before + b"\xff\xda\0\0\0\0", "scan header")


def test_jpeg_cut_before_its_picture_data_is_refused() -> None:
    """Every prefix up to and including the scan header is refused; one byte more is the browser's business."""
    for content in (jpeg(), jpeg(progressive=True), jpeg(mode="L")):
        _, scan = make.jpeg_parts(content)
        start = len(content) - len(scan) + 2 + int.from_bytes(scan[2:4])
        for length in range(4, start + 1):
            refused(content[:length], "ends before")
        assert identify(content[: start + 1]).width == 5


# --- PNG ---


@pytest.mark.parametrize(
    ("colour", "depth"),
    [(colour, depth) for colour, depths in images._DEPTHS.items() for depth in sorted(depths)],
)
def test_png_of_every_colour_type_and_depth(colour: int, depth: int) -> None:
    """The fifteen combinations that the format knows."""
    assert identify(png(33, 17, depth, colour)) == images.Image("image/png", "png", 33, 17)


def test_png_of_no_other_colour_type_or_depth() -> None:
    """All other combinations of the two fields are refused."""
    known = {(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8), (4, 8), (4, 16), (6, 8), (6, 16)}
    assert {(colour, depth) for colour, depths in images._DEPTHS.items() for depth in depths} == known
    for colour in range(9):
        for depth in {*range(18), 24, 32, 64, 255} - {depth for known_colour, depth in known if known_colour == colour}:
            refused(PNG_SIGNATURE + ihdr(5, 3, depth, colour) + idat(), "IHDR fields")


@pytest.mark.parametrize("method", [(1, 0, 0), (0, 1, 0), (0, 64, 0), (0, 0, 2), (0, 0, 255)])
def test_png_of_unknown_methods_is_refused(method: tuple[int, int, int]) -> None:
    """Compression 0, filter 0, interlace 0 or 1: there are no others."""
    assert identify(PNG_SIGNATURE + ihdr(1, 1, method=(0, 0, 1)) + idat(1, 1) + make.IEND).width == 1
    refused(PNG_SIGNATURE + ihdr(method=method) + idat() + make.IEND, "IHDR fields")


def test_png_with_a_broken_ihdr_checksum_is_refused() -> None:
    """Any bit of IHDR turned over is noticed, in its fields or in the checksum itself."""
    content = png()
    for offset in range(16, 33):
        for bit in range(8):
            bent = bytearray(content)
            bent[offset] ^= 1 << bit
            refused(bytes(bent), "checksum")


def test_png_of_apple_is_refused() -> None:
    """CgBI, which Xcode makes of the PNGs in an app, is drawn by no browser."""
    cgbi = PNG_SIGNATURE + chunk(b"CgBI", b"\x50\0\x20\2") + ihdr() + idat() + make.IEND
    with pytest.raises((errors.InvalidImage, errors.UnsupportedType)):  # by libmagic's version
        identify(cgbi)
    with pytest.raises(errors.InvalidImage, match="CgBI"):
        images._png(io.BytesIO(cgbi))


@pytest.mark.parametrize(
    "before",
    [
        chunk(b"tEXt", b"Comment\0" + b"x" * MIB),
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(5_000_000))),
        chunk(b"tEXt", b"a\0b") * 5_000,
        chunk(b"tEXt", b"a\0IDAT"),
        chunk(b"tEXt", b"a\0b", crc=1),  # decoders skip it
        chunk(b"IDAT"),
        chunk(b"PLTE", bytes(768)),
    ],
    ids=["text", "ICC", "5,000 texts", "IDAT in a text", "wrong checksum", "empty data", "palette"],
)
def test_png_with_much_before_its_data(before: bytes) -> None:
    """Chunks that a decoder may skip do not matter, however large or many."""
    assert identify(png(50, 40, before=before)) == images.Image("image/png", "png", 50, 40)


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([], "ends before"),
        ([make.IEND], "IEND"),
        ([b"<!doctype html>"], "html|ends before"),
        ([chunk(b"tEXt", b"a\0b")], "ends before"),
        ([ihdr(), idat()], "IHDR"),
        ([chunk(b"ABCD"), idat()], "ABCD"),
        ([chunk(b"IDAT"), make.IEND], "IEND"),
        ([chunk(b"PLTE"), idat()], "PLTE"),
        ([chunk(b"PLTE", bytes(771)), idat()], "PLTE"),
        ([make.PLTE, make.PLTE, idat()], "PLTE"),
        ([struct.pack(">I", 2**32 - 1) + b"tEXt", idat()], "ends before"),
        ([struct.pack(">I", 9) + b"IDAT"], "ends before"),
    ],
    ids=short,
)
def test_png_without_picture_data_is_refused(chunks: list[bytes], reason: str) -> None:
    """An IHDR with nothing, the end, junk or an unknown critical chunk behind it."""
    refused(PNG_SIGNATURE + ihdr() + b"".join(chunks), reason)


def test_png_with_a_palette_type_needs_its_palette() -> None:
    """Colour type 3 without PLTE before the data has no colours."""
    refused(PNG_SIGNATURE + ihdr(colour=3) + idat(colour=3) + make.IEND, "palette")


def test_png_header_must_be_13_bytes() -> None:
    """IHDR of another length is refused, by libmagic or here."""
    for length in (12, 14):
        bad = PNG_SIGNATURE + chunk(b"IHDR", (ihdr()[8:21] + b"\0")[:length]) + idat() + make.IEND
        with pytest.raises((errors.InvalidImage, errors.UnsupportedType)):
            identify(bad)
        with pytest.raises(errors.InvalidImage, match="begins"):
            images._png(io.BytesIO(bad))


def test_png_larger_than_libpng_takes_is_refused() -> None:
    """A million pixels a side, though the format could say 2,147,483,647."""
    assert identify(PNG_SIGNATURE + ihdr(1_000_000, 1) + idat()).width == 1_000_000
    refused(PNG_SIGNATURE + ihdr(1, 1_000_001) + idat(), "1000001")


def test_png_cut_before_its_picture_data_is_refused() -> None:
    """Every prefix up to and including the IDAT header is refused; one byte more is the browser's business."""
    for content in (png(), png(colour=3), png(before=chunk(b"tEXt", b"a\0b"))):
        start = content.index(b"IDAT") + 4
        for length in range(16, start + 1):
            refused(content[:length], "ends before")
        assert identify(content[: start + 1]).width == 5


# --- WebP ---

(LOSSY,), (LOSSLESS,) = make.webp_chunks(webp()), make.webp_chunks(webp(lossless=True))
_, ANIM, ANMF, *_ = make.webp_chunks(make.frames("WEBP"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize(
    "extras", [{}, {"exif": make.exif(1)}, {"icc_profile": b"i" * 999}, {"xmp": b"<x/>"}], ids=["", "EXIF", "ICC", "XMP"]
)
def test_webp_of_every_usual_kind(mode: str, lossless: bool, extras: dict[str, bytes]) -> None:
    """Lossy and lossless, with and without transparency and metadata."""
    assert identify(webp(33, 17, mode, lossless=lossless, **extras)) == images.Image("image/webp", "webp", 33, 17)


def test_webp_with_transparency_in_a_chunk_of_its_own() -> None:
    """A lossy picture's transparency is an ALPH chunk before it."""
    content = make.saved(Pillow.new("RGBA", (33, 17), (1, 2, 3, 90)), "WEBP")
    assert b"ALPH" in content
    assert identify(content) == images.Image("image/webp", "webp", 33, 17)


def test_webp_animation_has_its_canvas_dimensions() -> None:
    """A first frame may be smaller than the canvas; what counts is the canvas."""
    assert identify(make.frames("WEBP", 33, 17)) == images.Image("image/webp", "webp", 33, 17)
    small_at_2_2 = riff_chunk(b"ANMF", b"\1\0\0\1\0\0" + ANMF[14:])
    assert identify(riff(vp8x(9, 8, flags=2), ANIM, small_at_2_2)) == images.Image("image/webp", "webp", 9, 8)
    refused(riff(vp8x(6, 8, flags=2), ANIM, small_at_2_2), "7 x 5 on a canvas of 6 x 8")


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([], "no picture"),
        ([b"<!doctype html><script>alert(1)</script>"], "too little space"),
        ([riff_chunk(b"ABCD", b"x" * 40)], "no picture"),
        ([riff_chunk(b"ALPH", bytes(40)), LOSSY], "no picture"),
        ([vp8x()], "then b''"),
        ([vp8x(), riff_chunk(b"EXIF", b"x" * 40)], "then b''"),
        ([vp8x(), vp8x(), LOSSY], "VP8X"),
        ([vp8x(), LOSSY, LOSSY], "VP8 VP8 "),
        ([vp8x(), riff_chunk(b"ALPH", bytes(9)), LOSSLESS], "ALPHVP8L"),
        ([vp8x(), riff_chunk(b"ALPH", bytes(9))], "ALPH"),
        ([vp8x(), ANIM, ANMF], "ANIMANMF"),
        ([vp8x(flags=2), LOSSY], "VP8 "),
        ([vp8x(flags=2), ANMF], "ANMF"),
        ([vp8x(flags=2), ANIM], "ANIM"),
        ([vp8x(flags=2), ANIM, riff_chunk(b"ANMF", ANMF[8:24])], "no picture"),
        ([vp8x(flags=2), ANIM, riff_chunk(b"ANMF", ANMF[8:16])], "ends before|space"),
        ([vp8x(flags=0xC0), LOSSY], "VP8X"),
        ([riff_chunk(b"VP8X", vp8x()[8:] + b"\0\0"), LOSSY], "VP8X"),
        ([vp8x(6, 3), LOSSY], "5 x 3 on a canvas of 6 x 3"),
        ([vp8x(5, 2), LOSSLESS], "5 x 3 on a canvas of 5 x 2"),
        ([vp8x(), LOSSY, b"A" * 40], "too little space"),
        ([LOSSY, b"A" * 40], "too little space"),
        ([LOSSY, b"A" * 4], "ends before|too little space"),
        ([riff_chunk(b"VP8 ", LOSSLESS[8:])], "no picture"),
        ([riff_chunk(b"VP8L", LOSSY[8:])], "no picture"),
        ([riff_chunk(b"VP8 ", LOSSY[8:17])], "no picture"),
        ([riff_chunk(b"VP8L", LOSSLESS[8:12])], "no picture"),
    ],
    ids=short,
)
def test_webp_whose_chunks_make_no_picture_is_refused(chunks: list[bytes], reason: str) -> None:
    """A RIFF container without a picture, or with parts that libwebp does not put together."""
    refused(riff(*chunks), reason)


@pytest.mark.parametrize(
    ("offset", "bent"),
    [
        (8, lambda byte: byte | 1),  # not a key frame
        (8, lambda byte: byte | 8),  # profile 4
        (8, lambda byte: byte & ~16),  # not shown
        (10, lambda byte: byte | 0xFF),  # a first partition longer than the chunk
        (11, lambda byte: byte ^ 1),  # the start code
        (12, lambda byte: byte ^ 1),
        (13, lambda byte: byte ^ 1),
    ],
    ids=short,
)
def test_webp_with_a_broken_lossy_header_is_refused(offset: int, bent: Callable[[int], int]) -> None:
    """Key frame, profile, visibility, partition and start code, as libwebp checks them."""
    refused(riff(LOSSY[:offset] + bytes([bent(LOSSY[offset])]) + LOSSY[offset + 1 :]), "no picture")


def test_webp_with_a_broken_lossless_header_is_refused() -> None:
    """Signature 2F and version 0."""
    refused(riff(LOSSLESS[:8] + b"\x2e" + LOSSLESS[9:]), "no picture")
    refused(riff(LOSSLESS[:12] + bytes([LOSSLESS[12] | 0x20]) + LOSSLESS[13:]), "no picture")


def test_webp_dimensions_leave_out_the_scaling_bits() -> None:
    """The two bits above a lossy picture's width and height ask for scaling, which decoders ignore."""
    assert identify(riff(LOSSY[:14] + struct.pack("<HH", 0x4005, 0xC003) + LOSSY[18:])) == images.Image("image/webp", "webp", 5, 3)


def test_webp_cut_anywhere_is_refused() -> None:
    """Browsers draw nothing of a WebP that ends before it says."""
    for content in (webp(), webp(lossless=True), webp(exif=make.exif(1)), make.frames("WEBP")):
        for length in range(12, len(content)):
            refused(content[:length], "ends before")


def test_webp_with_a_lying_size_is_refused() -> None:
    """RIFF's own size must end where one of its chunks does, and lie within the file."""
    for content in (webp(), webp(exif=make.exif(1))):
        ends = {len(part) - 8 for part in make.cut(content, make.webp_chunks(content), 12) if b"VP8 " in part}
        for size in {*range(len(content)), 2**31, 2**32 - 1} - ends:
            refused(content[:4] + struct.pack("<I", size) + content[8:], "ends before|space|no picture|VP8X")


# --- bytes behind the end, and polyglots ---


@pytest.mark.parametrize(
    "behind",
    [b"<script>alert(1)</script>", b"PK\x05\x06" + bytes(18), b"%PDF-1.4", bytes(100_000), jpeg(), png(), webp()],
    ids=short,
)
@pytest.mark.parametrize("content", [jpeg(), png(), webp(), make.frames("WEBP"), make.frames("PNG")], ids=short)
def test_bytes_behind_the_end_do_not_matter(content: bytes, behind: bytes) -> None:
    """Browsers draw such files; they are served under the picture's type, so the rest is never run."""
    assert identify(content + behind) == identify(content)


# --- bounded work ---


@pytest.mark.parametrize(
    "content",
    [
        jpeg(before=segment(COM) * (MIB // 4)),
        jpeg(before=b"\xff\xd0" * (MIB // 2)),
        png(before=chunk(b"tEXt") * (MIB // 12)),
        riff(vp8x(), riff_chunk(b"ABCD", b"") * (MIB // 8), LOSSY),
        riff(vp8x(flags=2), ANIM, ANMF * (MIB // len(ANMF))),
    ],
    ids=["JPEG segments", "JPEG markers", "PNG chunks", "WebP chunks", "WebP frames"],
)
def test_too_many_parts_are_refused(content: bytes) -> None:
    """A file of nothing but empty parts would cost a step for every few bytes."""
    refused(content, f"more than {images.MAX_PARTS}")


def test_as_many_parts_as_the_limit_are_accepted() -> None:
    """The limit is exact: parts before the picture, and the one that is the picture."""
    spare = images.MAX_PARTS - 1
    assert identify(png(before=chunk(b"tEXt") * spare)).width == 5
    refused(png(before=chunk(b"tEXt") * (spare + 1)), "more than")


@pytest.mark.parametrize(
    "content",
    [
        jpeg(before=segment(COM, bytes(120)) * 9_000),
        jpeg(before=b"\xff" * MIB),
        jpeg(before=segment(COM) + b"\xff\0" * (MIB // 2)),
        jpeg(before=(b"\xff" * 500 + segment(COM, bytes(496))) * 1_000),
        png(before=chunk(b"tEXt", bytes(100)) * 9_000),
        riff(vp8x(), riff_chunk(b"ABCD", bytes(100)) * 9_000, LOSSY),
        b"\xff\xd8\xff" + b" \n" * (MIB // 2),
        b" \n" * (MIB // 2),
        b"{" * MIB,
    ],
    ids=["segments", "fill", "stuffing", "fill and segments", "PNG", "WebP", "signature and text", "white space", "braces"],
)
def test_no_megabyte_takes_50_ms(content: bytes) -> None:
    """The worst shapes of file that are known, from disk as in the service, in processor time: the machine has other work, too."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        assert min(_seconds(lambda: images.identify(file, LIMIT)) for _ in range(3)) < 0.05


def _seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    with contextlib.suppress(errors.Refusal):
        work()
    return time.thread_time() - start


def test_what_a_file_claims_is_never_read_at_once() -> None:
    """No single read is larger than one JPEG segment, whatever lengths the file claims."""

    class Watched(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size >= 0
            self.largest = max(self.largest, size)
            return super().read(size)

    big = bytes(3 * MIB)
    for content in (
        jpeg(before=segment(COM, bytes(65_533)) * 50),
        make.jpeg_with(b"\xff\xc0", b"\xff\xc0\xff\xff" + bytes(99_999)),
        png(before=chunk(b"tEXt", big)),
        PNG_SIGNATURE + ihdr() + struct.pack(">I", 2**32 - 1) + b"IDAT" + big,
        riff(vp8x(), riff_chunk(b"ABCD", big), LOSSY),
        b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\xff" + big,
    ):
        file = Watched(content)
        with contextlib.suppress(errors.Refusal):
            images.identify(file, LIMIT)
        assert file.largest <= 65_536


# --- any bytes at all ---

SEEDS = [
    jpeg(),
    jpeg(progressive=True, exif=make.exif(6)),
    jpeg(mode="CMYK"),
    png(),
    png(colour=3, before=chunk(b"tEXt", b"a\0b")),
    make.frames("PNG"),
    webp(),
    webp(lossless=True),
    webp(exif=make.exif(6), icc_profile=b"i" * 99),
    make.frames("WEBP"),
]
SIGNATURES = [b"", b"\xff\xd8\xff", PNG_SIGNATURE + ihdr(), b"RIFF\x40\0\0\0WEBPVP8 ", b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0"]


def _answers(content: bytes) -> None:
    """Identify any bytes: a sound answer, or one of the three refusals."""
    try:
        image = identify(content)
    except (errors.UnsupportedType, errors.InvalidImage, errors.TooManyPixels):
        return
    assert images.CONTENT_TYPES[image.content_type] == image.extension
    assert 0 < image.width * image.height <= LIMIT


@settings(max_examples=300, deadline=500)
@given(signature=st.sampled_from(SIGNATURES), rest=st.binary(max_size=500))
@example(signature=b"", rest=b"")
def test_any_bytes_give_an_answer_or_a_refusal(signature: bytes, rest: bytes) -> None:
    """No exception but a refusal, for any bytes, alone or behind a signature."""
    _answers(signature + rest)


@settings(max_examples=500, deadline=500)
@given(st.data())
def test_any_damage_gives_an_answer_or_a_refusal(data: st.DataObject) -> None:
    """Bytes of a sound picture replaced, left out, doubled or cut: still no exception but a refusal."""
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        at, length = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 8))
        content[at : at + length] = data.draw(st.binary(max_size=8))
    _answers(bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content))


@settings(max_examples=100, deadline=500)
@given(width=st.integers(1, 40), height=st.integers(1, 40), mode=st.sampled_from(["L", "RGB"]), data=st.data())
def test_sound_pictures_have_pillows_dimensions(width: int, height: int, mode: str, data: st.DataObject) -> None:
    """What Pillow writes, of any size and with any comment, is read with exactly its size."""
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    options = {"comment": data.draw(st.binary(max_size=300))} if kind == "JPEG" else {"lossless": data.draw(st.booleans())}
    image = identify(make.saved(Pillow.new(mode, (width, height)), kind, **options))
    assert (image.width, image.height) == (width, height)
