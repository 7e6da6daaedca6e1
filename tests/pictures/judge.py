"""Our verdict beside Chromium's on every file of the material: ``PYTHONPATH=tests python -m pictures.judge`` prints the table.

`EXPLAINED` is the whole list of what the two may disagree about, and why. Everything else is a finding.
"""

import collections
import io
import re
import warnings
from dataclasses import dataclass

from PIL import Image as Pillow

from media_storage import errors, images
from pictures import chromium, material

MAX_PIXELS = 268_435_456

NOT_OURS = "a browser draws it, but it is none of the three types"
PIXELS = "a browser lays it out (and may run out of memory drawing it), but it is beyond the pixel limit"
PARTS = "sound, but of more parts than any real picture, each of which costs time"
DATA = "the header is sound; the damage is in tables, animation or picture data, which are not decoded here"
ARITHMETIC = "arithmetic coding: a Chromium built on the system's libjpeg draws it; the contract names Huffman-coded frames only"
STRICTER = "chunks that do not follow each other to the end of RIFF: Chromium stops looking one chunk behind a lone picture"

# (kind: name as a regular expression, our answer, whether Chromium draws it) → why.
EXPLAINED = [
    (r"other f.*|polyglot.*|lying name.*", "unsupported_type", True, NOT_OURS),
    (r"bomb: .*", "too_many_pixels", True, PIXELS),
    (r"bomb: \d+,000 empty .*", "invalid_image", True, PARTS),
    (r"broken JPEG: frame marker C9\.jpg", "invalid_image", True, ARITHMETIC),
    (r"broken JPEG: (4 components|without quantization|\d bytes of scan|scan of ones)\.jpg", "image/jpeg", False, DATA),
    (r"broken PNG: (palette with a wrong checksum|data that is no zlib|frame larger than the picture)\.png", "image/png", False, DATA),
    (r"broken WebP: ANIM of 2 bytes\.webp", "image/webp", False, DATA),
    (r"broken WebP: simple picture, a chunk, then junk\.webp", "invalid_image", True, STRICTER),
    (
        r"PNG of a package: pillow.*/apng__(chunk_no_fctl|chunk_repeat_fctl|sequence_fdat_fctl|sequence_start)\.png",
        "image/png",
        False,
        DATA,
    ),
    (r"truncated: .*\.jpg cut at \d+", "image/jpeg", False, DATA),
    (r"one byte bent: (a|progressive)\.jpg bent at ([45]|2\d|3\d|4\d)", "image/jpeg", False, DATA),
    (r"one byte bent: a\.png bent at 4\d", "image/png", False, DATA),
    (r"one byte bent: lossy\.webp bent at (2[6-9]|3\d|4\d)", "image/webp", False, DATA),
    (r"one byte bent: lossless\.webp bent at (2[1-9]|3\d|4\d)", "image/webp", False, DATA),
]


@dataclass(frozen=True)
class Case:
    """One file, what `identify` says of it (a content type or the refusal's code), and what Chromium says."""

    picture: material.Picture
    answer: str
    image: images.Image | None
    chromium: chromium.Verdict

    @property
    def label(self) -> str:
        return f"{self.picture.kind}: {self.picture.name}"

    @property
    def agreed(self) -> bool:
        return (self.image is not None) == self.chromium.draws

    @property
    def explanation(self) -> str | None:
        """Why the two may disagree, if that is known."""
        for pattern, answer, draws, reason in EXPLAINED:
            if (self.answer, self.chromium.draws) == (answer, draws) and re.fullmatch(pattern, self.label):
                return reason
        return None

    @property
    def same_size(self) -> bool:
        """Whether Chromium lays the picture out with our dimensions, turned as the file's EXIF says."""
        assert self.image
        laid_out = self.chromium.width, self.chromium.height
        size = self.image.width, self.image.height
        return laid_out == size or (laid_out == size[::-1] and _turned(self.picture.read()))


def cases() -> tuple[str, list[Case]]:
    """Return the browser's version and every file's case."""
    pictures = [*material.fetched(), *material.made()]
    ours = [_ours(picture) for picture in pictures]
    # A store serves what was accepted under its checked type; the rest is shown to the browser as what it claims to be.
    files = [
        (picture.content, image.content_type if image else picture.declared or "image/png")
        for picture, (_, image) in zip(pictures, ours, strict=True)
    ]
    version, verdicts = chromium.verdicts(files)
    return version, [Case(picture, *answer, verdict) for picture, answer, verdict in zip(pictures, ours, verdicts, strict=True)]


def _ours(picture: material.Picture) -> tuple[str, images.Image | None]:
    try:
        image = images.identify(io.BytesIO(picture.read()), MAX_PIXELS)
    except errors.Refusal as refusal:
        return refusal.code, None
    return image.content_type, image


def _turned(content: bytes) -> bool:
    with warnings.catch_warnings(action="ignore"):  # Pillow's, about what is damaged on purpose
        try:
            return Pillow.open(io.BytesIO(content)).getexif().get(0x0112, 1) >= 5
        except (OSError, SyntaxError, ValueError):
            return False


def table(found: list[Case]) -> str:
    """Count the cases by kind, both verdicts, and why they differ where they do."""
    counts = collections.Counter(
        (
            case.picture.kind,
            case.answer,
            "draws" if case.chromium.draws else "refuses",
            "" if case.agreed else case.explanation or "FINDING",
        )
        for case in found
    )
    lines = ["| kind of file | ours | Chromium | files | where they differ, why |", "| --- | --- | --- | ---: | --- |"]
    lines += [f"| {kind} | {answer} | {draws} | {count} | {reason} |" for (kind, answer, draws, reason), count in sorted(counts.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    browser, judged = cases()
    print(f"Chromium {browser}: {len(judged)} files, {sum(case.picture.hostile for case in judged)} of them hostile\n")
    print(table(judged))
    for odd in judged:
        if not odd.agreed and odd.explanation is None:
            print("FINDING", odd.label, odd.answer, odd.chromium)
        if odd.image and odd.chromium.loaded and not odd.same_size:
            print("SIZE", odd.label, odd.image, odd.chromium)
