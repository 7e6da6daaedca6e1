"""The object store. The only importer of minio.

Objects are written with one PUT of known length, signed by minio and sent by us: its own call splits files, sends
bodies again and waits for minutes. What operators do once (buckets, policies) goes through minio's client, with our
timeouts and no retries.
"""

import base64
import json
import logging
import math
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, cast
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error
from minio.signer import sign_v4_s3
from urllib3.exceptions import HTTPError

from media_storage import peer
from media_storage.errors import StoreUnavailable
from media_storage.settings import Settings

log = logging.getLogger(__name__)

ANSWER_BYTES = 65_536
# Per process. Beside 200 uploads of 10 MB SeaweedFS takes twice as long for all at once, and no answer comes in time.
PUTS_AT_ONCE = 8
FORGET_SECONDS = 2.0  # for taking back an object whose PUT may or may not have been done
CACHE_CONTROL = "public, max-age=31536000, immutable"  # a key is never written twice
# A key that no upload will ever be given: it is only asked for.
PROBE_KEY = "uploads/0/00000000-0000-4000-8000-000000000000.jpg"


@dataclass(frozen=True)
class Stored:
    """An object as the store lists it; its size in bytes, and when it was written, by the store's clock."""

    key: str
    size: int
    written: datetime


class Store:
    """One bucket of an S3 store. Safe to share between threads, not between processes."""

    def __init__(self, settings: Settings) -> None:
        self.bucket = settings.minio_bucket
        self._peer = peer.Peer(settings.minio_endpoint)
        self._bucket_url = urlsplit(f"{settings.minio_endpoint}/{settings.minio_bucket}")
        self._region = settings.minio_region
        self._credentials = Credentials(settings.minio_access_key, settings.minio_secret_key.get_secret_value())
        self._seconds = settings.store_timeout_seconds
        self._turns = threading.BoundedSemaphore(PUTS_AT_ONCE)
        self._answered = self._hung = -math.inf  # when a PUT last was answered, and last was not in time
        endpoint = urlsplit(settings.minio_endpoint)
        self._client = Minio(
            endpoint=endpoint.netloc,
            access_key=settings.minio_access_key,
            secret_key=settings.minio_secret_key.get_secret_value(),
            secure=endpoint.scheme == "https",
            region=settings.minio_region,  # or minio asks the store for it at every start
            http_client=urllib3.PoolManager(retries=False, timeout=self._seconds),
        )

    def put(self, key: str, file: BinaryIO, size: int, crc32: int, content_type: str, *, request_id: str = "") -> None:
        """Stores `size` bytes of `file` under `key`, verified by the store against their CRC-32. `request_id` is for the store's log.

        Raises StoreUnavailable; then nothing is left behind, unless the store commits after all and cannot be told
        otherwise. A connection that turns out dead before an answer is replaced once.
        """
        began = time.monotonic()
        if not self._turns.acquire(timeout=2 * self._seconds):
            raise StoreUnavailable(f"{PUTS_AT_ONCE} other uploads kept the store busy for too long")
        try:
            if self._answered < began < self._hung:  # it would be asking for the same, for as long again
                raise StoreUnavailable("the store did not answer the uploads before this one")
            self._put(key, file, size, crc32, content_type, request_id=request_id)
        finally:
            self._turns.release()

    def _put(self, key: str, file: BinaryIO, size: int, crc32: int, content_type: str, *, request_id: str) -> None:
        headers = {
            "Content-Type": content_type,
            "Content-Length": str(size),
            "Cache-Control": CACHE_CONTROL,
            "x-amz-checksum-crc32": base64.b64encode(crc32.to_bytes(4)).decode(),
        }
        try:
            status, body = self._send("PUT", key, headers, self._seconds, request_id=request_id, file=file)
        except peer.Unreachable as exc:
            raise StoreUnavailable(f"the store cannot be reached: {exc}") from exc
        except peer.CallFailed as exc:
            if isinstance(exc, peer.TooLate):
                self._hung = time.monotonic()
            self._forget(key, request_id)
            raise StoreUnavailable(f"the store did not answer: {exc}") from exc
        self._answered = time.monotonic()
        if status != 200:
            if status >= 500:
                self._forget(key, request_id)
            raise StoreUnavailable(f"the store answered {status}: {_error_code(body)}")

    def delete(self, key: str, *, request_id: str = "") -> None:
        """Removes the object, if it is there; `request_id` as in `put`. Raises StoreUnavailable."""
        try:
            status, body = self._send("DELETE", key, {}, self._seconds, request_id=request_id)
        except peer.CallFailed as exc:
            raise StoreUnavailable(f"the store did not answer: {exc}") from exc
        if status not in (200, 204, 404):
            raise StoreUnavailable(f"the store answered {status}: {_error_code(body)}")

    def objects(self, prefix: str) -> Iterator[Stored]:
        """What the bucket holds whose key begins with `prefix`, asked for a page at a time. Raises StoreUnavailable."""
        with _store_errors():
            for item in self._client.list_objects(self.bucket, prefix, recursive=True):
                if item.object_name and item.last_modified:  # anything but the folders of some stores
                    yield Stored(item.object_name, item.size or 0, item.last_modified)

    def delete_all(self, keys: Iterable[str]) -> dict[str, str]:
        """Removes up to 1000 objects with one call, and answers those that could not be, with the store's reason. Raises as `objects`."""
        with _store_errors():
            errors = self._client.remove_objects(self.bucket, [DeleteObject(key) for key in keys])
            return {error.name or "": error.code for error in errors if error.code != "NoSuchKey"}

    def check(self, timeout: float) -> str:
        """What is wrong with the store as far as an upload would notice: ``""``, ``"store"`` or ``"bucket"``.

        Asks for an object that cannot exist: credentials that may only write and read objects can do that, and the
        store's error tells a missing bucket from a missing object. What it said is logged.
        """
        try:
            status, body = self._send("GET", PROBE_KEY, {}, timeout)
        except peer.CallFailed as exc:
            log.warning("the store cannot be reached: %s", exc)
            return "store"
        code = _error_code(body)
        if code in ("NoSuchKey", "AccessDenied"):  # S3 denies to whoever may not list what is not there
            return ""
        log.warning("the store answered %s: %s", status, code)
        return "bucket" if code == "NoSuchBucket" else "store"

    def create_bucket(self) -> bool:
        """Creates the bucket if it is missing and says whether it did. Raises StoreUnavailable."""
        with _store_errors():
            if self._client.bucket_exists(self.bucket):
                return False
            self._client.make_bucket(self.bucket)
            return True

    def publish(self) -> None:
        """Lets anyone read objects under ``uploads/``, and do nothing else. Raises StoreUnavailable."""
        with _store_errors():
            self._client.set_bucket_policy(self.bucket, json.dumps(public_read_policy(self.bucket)))

    def _send(
        self, method: str, key: str, headers: dict[str, str], seconds: float, *, request_id: str = "", file: BinaryIO | None = None
    ) -> tuple[int, bytes]:
        """One signed request. Status and body of the answer; raises CallFailed."""
        url = self._bucket_url._replace(path=f"{self._bucket_url.path}/{key}")
        now = datetime.now(UTC)
        # The checksum header proves the body: hashing it for the signature as well would cost more than sending it.
        unsigned = "UNSIGNED-PAYLOAD"
        signed = sign_v4_s3(
            method=method,
            url=url,
            region=self._region,
            headers={**headers, "Host": url.netloc, "x-amz-content-sha256": unsigned, "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ")},
            credentials=self._credentials,
            content_sha256=unsigned,
            date=now,
        )
        # Not signed: a proxy in front of the store may put an id of its own there.
        sent = cast("dict[str, str]", signed) | ({"X-Request-ID": request_id} if request_id else {})
        answer = self._peer.call(method, url.path, sent, seconds, body=file)
        return answer.status, answer.body

    def _forget(self, key: str, request_id: str) -> None:
        try:
            self._send("DELETE", key, {}, FORGET_SECONDS, request_id=request_id)
        except peer.CallFailed as exc:
            log.warning("could not make sure that %s is gone: %s", key, exc)


def public_read_policy(bucket: str) -> dict[str, object]:
    """A policy that gives the public the objects, and not the list of them as the usual presets do."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": ["*"]},
                "Action": ["s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{bucket}/uploads/*"],
            }
        ],
    }


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except S3Error as exc:
        raise StoreUnavailable(f"the store answered {exc.code}: {exc.message}", denied=exc.code == "AccessDenied") from exc
    except (MinioException, HTTPError) as exc:
        raise StoreUnavailable(f"the store cannot be reached: {exc}") from exc


def _error_code(body: bytes) -> str:
    """The code in an S3 error document, or a note that there is none."""
    start, end = body.find(b"<Code>"), body.find(b"</Code>")
    return body[start + 6 : end].decode("ascii", "replace") if 0 <= start < end else "no S3 error code"


def anonymous(method: str, url: str, settings: Settings, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of a call without credentials; status 0 and the reason when nobody answers."""
    try:
        with urllib3.PoolManager(retries=False) as pool:
            timeout = urllib3.Timeout(settings.store_timeout_seconds)
            answer = pool.request(method, url, body=body, redirect=False, timeout=timeout, preload_content=False)
            return answer.status, answer.read(ANSWER_BYTES)
    except HTTPError as exc:
        return 0, str(exc).encode()


def warn_if_listable(settings: Settings) -> None:
    """Logs a warning when anyone may list the bucket, as the usual public-download presets allow."""
    status, answer = anonymous("GET", f"{settings.minio_endpoint}/{settings.minio_bucket}?list-type=2&max-keys=1", settings)
    if status == 200:
        log.warning(
            "anyone can list the bucket %s, and with it every user id; `media-storage init-bucket` sets a safer policy",
            settings.minio_bucket,
        )
    elif not status:
        log.warning("the store cannot be reached yet: %s", answer.decode())
