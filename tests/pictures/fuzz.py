"""Coverage-guided fuzzing of `identify`: ``PYTHONPATH=tests python -m pictures.fuzz [SECONDS]``; needs ``pip install atheris``.

It stops with the input at the first exception that is no refusal, at the first answer that makes no sense, and at the
first input that takes 50 ms of processor time.
"""

import io
import sys
import tempfile
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["media_storage.images"]):
    from media_storage import errors, images

from pictures import material

MAX_PIXELS = 268_435_456
LONGEST = 65_536  # bytes of an input: longer ones only repeat what these do
SLOW = 0.05  # seconds


def one_input(content: bytes) -> None:
    start = time.thread_time()
    try:
        image = images.identify(io.BytesIO(content), MAX_PIXELS)
    except (errors.UnsupportedType, errors.InvalidImage, errors.TooManyPixels):
        pass
    else:
        assert images.CONTENT_TYPES[image.content_type] == image.extension
        assert 0 < image.width * image.height <= MAX_PIXELS
    assert time.thread_time() - start < SLOW


def main(seconds: int) -> None:
    """Fuzz for so many seconds, from the small files of the judge's material."""
    images.sniff(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(20))  # loads libmagic
    with tempfile.TemporaryDirectory() as corpus:
        for number, picture in enumerate(material.made()):
            content = picture.read()
            if len(content) <= LONGEST:
                Path(corpus, str(number)).write_bytes(content)
        atheris.Setup(
            [sys.argv[0], corpus, f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-print_final_stats=1", "-verbosity=0"], one_input
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
