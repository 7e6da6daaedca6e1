"""Asks the chat backend whose session a request carries."""

import contextlib
import json
import time
from http.client import HTTPException
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter

from media_storage import deadline, keys
from media_storage.errors import BackendInvalid, BackendUnavailable, Unauthenticated

ANSWER_BYTES = 65_536
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}
POOL_SIZE = 64  # connections kept open; more callers at once open connections of their own


class _Transport(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager = deadline.PoolManager(num_pools=4, maxsize=POOL_SIZE)


class Backend:
    """The chat backend's ``/auth/me``. Safe to share between threads, not between processes.

    `timeout` (seconds) bounds a whole call. `id_field` may reach inside the answer with dots: ``user.id``.
    """

    def __init__(self, verify_url: str, id_field: str, timeout: float) -> None:
        self._url = verify_url
        self._path = id_field.split(".")
        self._timeout = timeout
        # requests' transport without its Session: no cookie is kept for the next caller, no redirect is looked at, and
        # the environment's proxies and netrc do not see a session cookie.
        self._transport = _Transport()

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
        """Status and first bytes of the answer. A connection that turns out dead is replaced once, within the same time."""
        deadline_at = time.monotonic() + seconds
        for last_try in (False, True):
            try:
                return self._call(headers, deadline_at - time.monotonic())
            except (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as exc:
                raise BackendUnavailable("the backend did not answer in time") from exc
            except (urllib3.exceptions.DecodeError, requests.exceptions.InvalidHeader) as exc:
                raise BackendInvalid(f"the backend's answer is malformed: {exc}") from exc
            except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
                cause = _protocol_fault(exc)
                # A status line that was cut off is an outage; one that is none at all is another protocol.
                if isinstance(cause, HTTPException) and not isinstance(cause, OSError) and not str(cause).startswith("HTTP/"):
                    raise BackendInvalid(f"the backend does not speak HTTP: {cause}") from exc
                # A kept connection ends like this when the backend restarts.
                if last_try or not isinstance(cause, OSError):
                    raise BackendUnavailable(f"the backend cannot be reached: {exc}") from exc
        raise AssertionError("unreachable")

    def _call(self, headers: dict[str, str], seconds: float) -> tuple[int, bytes]:
        if seconds <= 0:
            raise TimeoutError
        # As bytes: what only Unicode calls a space may stand at a cookie's beginning.
        sent = {name: value.encode("latin-1") for name, value in {**_HEADERS, **headers}.items()}
        timeout: Any = urllib3.Timeout(total=seconds)
        question = requests.Request("GET", self._url, headers=sent).prepare()
        with self._transport.send(question, stream=True, timeout=timeout) as answer:
            if answer.status_code == 200:
                return 200, answer.raw.read(ANSWER_BYTES + 1, decode_content=True)
            # The status says it all; reading a short body to its end keeps the connection.
            with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
                answer.raw.read(ANSWER_BYTES, decode_content=False)
            return answer.status_code, b""


def _protocol_fault(exc: BaseException) -> object:
    """What went wrong before there was an answer: requests wraps urllib3's error, which wraps the interpreter's."""
    inner = exc.args[0] if exc.args else None
    return inner.args[1] if isinstance(inner, urllib3.exceptions.ProtocolError) and len(inner.args) > 1 else None


def _user_id(body: bytes, path: list[str]) -> str:
    if len(body) > ANSWER_BYTES:
        raise BackendInvalid(f"the backend's answer is longer than {ANSWER_BYTES} bytes")
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
