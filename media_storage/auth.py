"""Asks the chat backend whose session a request carries."""

import json
import time
import zlib
from urllib.parse import urlsplit, urlunsplit

from media_storage import keys, peer
from media_storage.errors import BackendInvalid, BackendUnavailable, Unauthenticated

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}


class Backend:
    """The chat backend's ``/auth/me``. Safe to share between threads, not between processes.

    `timeout` (seconds) bounds a whole call. `id_field` may reach inside the answer with dots: ``user.id``.
    """

    def __init__(self, verify_url: str, id_field: str, timeout: float) -> None:
        self._path = id_field.split(".")
        self._timeout = timeout
        self._peer = peer.Peer(verify_url)
        url = urlsplit(verify_url)
        self._target = urlunsplit(("", "", url.path or "/", url.query, ""))

    def user(self, cookie: str, request_id: str) -> str:
        """The id of the user whose session `cookie` (the raw header, latin-1) carries.

        Raises Unauthenticated, BackendInvalid or BackendUnavailable.
        """
        status, body = self._ask({"Cookie": cookie, "X-Request-ID": request_id}, self._timeout)
        if status in (401, 403):
            raise Unauthenticated
        if status == 429 or status >= 500:
            raise BackendUnavailable(f"the backend answered {status}")
        if status != 200:
            raise BackendInvalid(f"the backend answered {status}")
        return _user_id(body, self._path)

    def check(self, timeout: float) -> None:
        """Asks without a cookie; a backend that works says 200, 401 or 403. Raises as `user` does."""
        status, _ = self._ask({}, timeout)
        if status not in (200, 401, 403):
            raise BackendUnavailable(f"a call without a cookie was answered {status}")

    def _ask(self, headers: dict[str, str], seconds: float) -> tuple[int, bytes]:
        """Status and body of the answer; the body counts, and is whole, under a 200 only."""
        try:
            answer = self._peer.call("GET", self._target, {**_HEADERS, **headers}, seconds, until=time.monotonic() + seconds)
        except peer.Malformed as exc:
            raise BackendInvalid(f"the backend does not speak HTTP: {exc}") from exc
        except peer.CallFailed as exc:
            raise BackendUnavailable(f"the backend did not answer: {exc}") from exc
        return answer.status, _decoded(answer) if answer.status == 200 else b""


def _decoded(answer: peer.Answer) -> bytes:
    """The body, unpacked as far as the limit on it goes: some servers compress for whoever asked them not to."""
    if answer.coding not in ("gzip", "x-gzip", "deflate"):
        return answer.body
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(answer.body, peer.BODY_BYTES + 1)
    except zlib.error as exc:
        raise BackendInvalid(f"the backend's answer cannot be unpacked: {exc}") from exc


def _user_id(body: bytes, path: list[str]) -> str:
    if len(body) > peer.BODY_BYTES:
        raise BackendInvalid(f"the backend's answer is longer than {peer.BODY_BYTES} bytes")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise BackendInvalid("the backend's answer is not JSON") from exc
    if not isinstance(value, dict):
        raise BackendInvalid("the backend's answer is not a JSON object")
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    # bool is an int in Python, and is no id.
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not keys.is_user_id(text):
        raise BackendInvalid(f"the backend's answer holds no usable id at {'.'.join(path)}")
    return text
