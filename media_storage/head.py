"""What waitress and Werkzeug's server let pass in a request's head, and gunicorn does not: whatever another server may read differently.

A head is its bytes: request line, header lines, each with its line end. Its limits here are those of every server.
"""

import re

HEAD_SECONDS = 10.0  # from its first byte to its last
HEAD_BYTES = 65_536
MAX_FIELDS = 100  # as gunicorn's
_REQUEST_LINE = re.compile(rb"[^\s]+ [^\s]+ HTTP/1\.[01]")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\0\r\n]*)")  # RFC 9112, 5; no folding
_LENGTH = re.compile(rb"[0-9]{1,18}")


def check(head: bytes) -> None:
    """Raises ValueError for a head that is malformed, or leaves a doubt where its body ends."""
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    if not _REQUEST_LINE.fullmatch(first) or len(lines) > MAX_FIELDS or not all(map(_FIELD.fullmatch, lines)):
        raise ValueError("a malformed request line or header")
    lengths, codings = _values(head, b"content-length"), _values(head, b"transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise ValueError("more than one length")
    if not all(map(_LENGTH.fullmatch, lengths)) or any(coding.lower() != b"chunked" for coding in codings):
        raise ValueError("an unknown length")


def joined_cookies(head: bytes) -> str:
    """The Cookie headers as our servers give them to the application: several are joined with a line feed."""
    return b"\n".join(_values(head, b"cookie")).decode("latin-1")


def _values(head: bytes, name: bytes) -> list[bytes]:
    fields = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return [value.strip(b" \t") for found, _, value in fields if found.lower() == name]
