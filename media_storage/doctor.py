"""Asks everything that an upload and its readers depend on, and says what to do about what is wrong."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from media_storage import keys
from media_storage.auth import Backend
from media_storage.errors import Refusal, StoreUnavailable
from media_storage.settings import Settings
from media_storage.storage import Store, anonymous

USER = "doctor"  # whose objects the round trip makes; they are deleted again
SAFER_POLICY = "Run `media-storage init-bucket`, which lets anyone read uploads/* and do nothing else."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` says what to do, and is empty when all is well."""

    what: str
    text: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        return not self.advice


def examine(settings: Settings) -> Iterator[Finding]:
    """Everything there is to find, in the order of an upload. Leaves nothing behind in the bucket."""
    yield _backend(settings)
    store = Store(settings)
    wrong = store.check(settings.store_timeout_seconds)
    if wrong == "store":
        advice = "Is it running, and are MINIO_ENDPOINT, MINIO_ACCESS_KEY and MINIO_SECRET_KEY right? The log above has its answer."
        yield Finding("store", f"{settings.minio_endpoint} does not answer as it should", advice)
    else:
        yield Finding("store", f"{settings.minio_endpoint} answers")
        if wrong == "bucket":
            yield Finding("bucket", f"{store.bucket} does not exist", "Run `media-storage init-bucket`, or set MINIO_BUCKET.")
        else:
            yield from _round_trip(settings, store)
            yield _listing(settings)
            yield _writing(settings, store)
    yield _public_url(settings)
    yield _mixed_content(settings)


def _backend(settings: Settings) -> Finding:
    backend = Backend(settings.backend_verify_url, settings.backend_user_id_field, settings.backend_timeout_seconds)
    try:
        backend.check(settings.backend_timeout_seconds)
    except Refusal as exc:
        return Finding("backend", f"{settings.backend_verify_url}: {exc}", "Start the chat backend, or correct BACKEND_VERIFY_URL.")
    return Finding("backend", f"{settings.backend_verify_url} answers")


def _round_trip(settings: Settings, store: Store) -> Iterator[Finding]:
    """Stores a picture of one pixel, reads it as the public does, and deletes it."""
    key, picture = keys.mint(USER, "png"), _one_pixel()
    try:
        store.put(key, io.BytesIO(picture), len(picture), zlib.crc32(picture), "image/png")
    except StoreUnavailable as exc:
        yield Finding("put", f"an object cannot be stored: {exc}", "Give the credentials s3:PutObject on uploads/* of the bucket.")
        return
    yield Finding("put", "an object can be stored")
    url = f"{settings.public_bucket_url}/{key}"
    status, body = anonymous("GET", url, settings)
    if status == 200 and body == picture:
        yield Finding("public read", f"anyone can read it at {settings.public_bucket_url}/...")
    elif status == 403:
        yield Finding("public read", f"not readable: {settings.public_bucket_url}/... answers 403", SAFER_POLICY)
    else:
        yield Finding("public read", f"{url} answers {status or body.decode()}", "Correct MINIO_PUBLIC_ENDPOINT: browsers are sent there.")
    try:
        store.delete(key)
    except StoreUnavailable as exc:
        yield Finding("delete", f"it cannot be deleted: {exc}", "Give the credentials s3:DeleteObject on uploads/* of the bucket.")
    else:
        yield Finding("delete", "it can be deleted")


def _listing(settings: Settings) -> Finding:
    status, _ = anonymous("GET", f"{settings.minio_endpoint}/{settings.minio_bucket}?list-type=2&max-keys=1", settings)
    if status == 200:
        return Finding("listing", "listable: anyone can list the bucket, and with it every user id", SAFER_POLICY)
    return Finding("listing", "nobody can list the bucket without credentials")


def _writing(settings: Settings, store: Store) -> Finding:
    key = keys.mint(USER, "png")
    status, _ = anonymous("PUT", f"{settings.minio_endpoint}/{settings.minio_bucket}/{key}", settings, _one_pixel())
    if status != 200:
        return Finding("writing", "nobody can write without credentials")
    text = "writable: anyone can store objects in the bucket"
    try:
        store.delete(key)
    except StoreUnavailable:
        text += f"; {key}, made to find out, could not be deleted again"
    return Finding("writing", text, SAFER_POLICY)


def _public_url(settings: Settings) -> Finding:
    status, body = anonymous("GET", f"{settings.public_base_url}/healthz", settings)
    if status == 200:
        return Finding("public URL", f"{settings.public_base_url} answers")
    text = f"{settings.public_base_url}/healthz answers {status or body.decode()}"
    return Finding("public URL", text, "Start the service and the proxy in front of it, or correct PUBLIC_BASE_URL.")


def _mixed_content(settings: Settings) -> Finding:
    schemes = urlsplit(settings.public_base_url).scheme, urlsplit(settings.minio_public_endpoint).scheme
    if schemes[0] == schemes[1]:
        return Finding("scheme", f"{schemes[0]} for both the service and the store")
    text = f"PUBLIC_BASE_URL is {schemes[0]} and MINIO_PUBLIC_ENDPOINT is {schemes[1]}"
    return Finding("scheme", text, "Use https for both or for neither: browsers block or warn about a mixture.")


def _one_pixel() -> bytes:
    """A grey PNG of one pixel."""
    chunks = (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0\x80")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
