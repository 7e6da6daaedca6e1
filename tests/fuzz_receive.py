"""Coverage-guided fuzzing of `receive.file`: ``PYTHONPATH=tests python -m fuzz_receive [SECONDS]``; needs ``pip install atheris``.

The first bytes of an input say how the rest is cut. It stops at the first exception that is no refusal, at the first
body that gives another result in pieces than as a whole, and at the first input that takes 50 ms of processor time.
"""

import io
import sys
import time
import zlib

import atheris

with atheris.instrument_imports(include=["media_storage.receive", "python_multipart.multipart"]):
    from media_storage import errors, receive

LIMIT = 4096
LONGEST = 8192  # bytes of an input
SLOW = 0.05  # seconds
SEED = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ncontent\r\n--B--\r\n'


class Pieces(io.BytesIO):
    """A body that arrives in pieces of one size."""

    def __init__(self, body: bytes, size: int) -> None:
        super().__init__(body)
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(self._size, size or 0))


def outcome(body: bytes, size: int) -> bytes | str:
    """The file, or the refusal's code."""
    try:
        with receive.file(Pieces(body, size), b"B", LIMIT, 32, lambda _: None) as received:
            received.file.seek(0)
            content = received.file.read()
            assert (received.size, received.crc32) == (len(content), zlib.crc32(content))
            assert 0 < len(content) <= LIMIT
            return content
    except errors.Refusal as refusal:
        return refusal.code


def one_input(data: bytes) -> None:
    size, body = data[0] + 1 if data else 1, data[1:]
    began = time.thread_time()
    whole = outcome(body, LONGEST)
    assert time.thread_time() - began < SLOW
    again = outcome(body, size)
    # Of a body with several faults, another one may be met first.
    assert again == whole or (isinstance(again, str) and isinstance(whole, str))


def main(seconds: int) -> None:
    """Fuzz for so many seconds."""
    assert outcome(SEED, 7) == b"content"
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-print_final_stats=1", "-verbosity=0"], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
