"""Where the stores differ: each cell of the table in docs/stores.md is what that store does."""

import base64
import hashlib
import io
import json
import re
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from minio import Minio, S3Error
from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3

import servers
from media_storage.storage import public_read_policy

DOCS = (Path(__file__).parents[2] / "docs" / "stores.md").read_text(encoding="utf-8")
CONTENT = b"<b>what a browser must not run</b>"
READER = "https://reader.example"


def documented() -> dict[str, dict[str, str]]:
    """The first table: what is asked, and each store's answer."""
    table = next(paragraph for paragraph in DOCS.split("\n\n") if paragraph.startswith("| "))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    kinds = [name.lower() for name in rows[0][1:]]
    return {row[0]: dict(zip(kinds, row[1:], strict=True)) for row in rows[2:]}


@dataclass
class Subject:
    """A store with a bucket that the public may read as ours."""

    store: servers.RunningStore
    bucket: str

    @property
    def client(self) -> Minio:
        return self.store.client

    def url(self, key: str = "uploads/7/a.png", bucket: str = "") -> str:
        return f"{self.store.endpoint}/{bucket or self.bucket}/{key}"

    def put(self, *, content_sha256: str = "UNSIGNED-PAYLOAD", **headers: str) -> requests.Response:
        """A signed PUT of a new object with these headers, whether they are true or not."""
        url, now = self.url(f"uploads/7/{uuid.uuid4()}.png"), datetime.now(UTC)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        given |= {"Host": urlsplit(url).netloc, "x-amz-content-sha256": content_sha256, "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ")}
        credentials = Credentials(servers.ACCESS_KEY, servers.SECRET_KEY)
        signed: Any = sign_v4_s3(
            method="PUT",
            url=urlsplit(url),
            region="us-east-1",
            headers=given,
            credentials=credentials,
            content_sha256=content_sha256,
            date=now,
        )
        return requests.put(url, data=CONTENT, headers=signed, timeout=30)


@pytest.fixture(scope="module")
def subject(store: servers.RunningStore) -> Subject:
    made = Subject(store, f"stores-{uuid.uuid4().hex[:8]}")
    made.client.make_bucket(made.bucket)
    for key in ("uploads/7/a.png", "private/a.png"):
        made.client.put_object(made.bucket, key, io.BytesIO(CONTENT), len(CONTENT), "image/png")
    made.client.set_bucket_policy(made.bucket, json.dumps(public_read_policy(made.bucket)))
    return made


def outcome(answer: requests.Response) -> str:
    """Status, and S3's code if there is one."""
    code = re.search(r"<Code>(\w+)</Code>", answer.text) if answer.status_code >= 400 else None
    return f"{answer.status_code} {code[1]}" if code else str(answer.status_code)


def wrong_crc(subject: Subject) -> str:
    return outcome(subject.put(x_amz_checksum_crc32=base64.b64encode((zlib.crc32(CONTENT) ^ 1).to_bytes(4)).decode()))


def wrong_md5(subject: Subject) -> str:
    return outcome(subject.put(Content_MD5=base64.b64encode(hashlib.md5(b"else").digest()).decode()))


def wrong_sha256(subject: Subject) -> str:
    return outcome(subject.put(content_sha256=hashlib.sha256(b"else").hexdigest()))


def coding_served(subject: Subject) -> str:
    key = urlsplit(subject.put(Content_Encoding="aws-chunked").request.url or "").path.partition("/uploads/")[2]
    return requests.get(subject.url(f"uploads/{key}"), timeout=30).headers.get("Content-Encoding", "none")


def listing(subject: Subject) -> str:
    return outcome(requests.get(subject.url("?list-type=2"), timeout=30))


def outside(subject: Subject) -> str:
    return outcome(requests.get(subject.url("private/a.png"), timeout=30))


def missing(subject: Subject) -> str:
    return outcome(requests.get(subject.url("uploads/7/not-there.png"), timeout=30))


def anonymous_write(subject: Subject) -> str:
    bucket = f"stores-{uuid.uuid4().hex[:8]}"
    subject.client.make_bucket(bucket)
    policy = json.dumps(public_read_policy(bucket)).replace("s3:GetObject", "s3:*")
    subject.client.set_bucket_policy(bucket, policy)
    return outcome(requests.put(subject.url(bucket=bucket), data=CONTENT, timeout=30))


def overridden_type(subject: Subject) -> str:
    return requests.get(subject.url() + "?response-content-type=text/html", timeout=30).headers["Content-Type"]


def sniffing(subject: Subject) -> str:
    return requests.get(subject.url(), timeout=30).headers.get("X-Content-Type-Options", "none")


def cors(subject: Subject) -> str:
    headers = requests.get(subject.url(), headers={"Origin": READER}, timeout=30).headers
    assert headers["Access-Control-Allow-Origin"] == READER
    return "with credentials" if headers.get("Access-Control-Allow-Credentials") == "true" else "without credentials"


def version_told(subject: Subject) -> str:
    return "yes" if re.search(r"\d\.\d", requests.get(subject.url(), timeout=30).headers["Server"]) else "no"


def multipart_listed(subject: Subject) -> str:
    key = "uploads/7/unfinished.png"
    upload = subject.client._create_multipart_upload(subject.bucket, key, {})
    try:
        return "yes" if subject.client._list_multipart_uploads(subject.bucket, prefix="uploads/").uploads else "no"
    finally:
        subject.client._abort_multipart_upload(subject.bucket, key, upload)


def full_bucket(subject: Subject) -> str:
    bucket = f"stores-{uuid.uuid4().hex[:8]}"
    subject.client.make_bucket(bucket)
    subject.client.put_object(bucket, "uploads/7/a.png", io.BytesIO(CONTENT), len(CONTENT))
    try:
        subject.client.remove_bucket(bucket)
    except S3Error as exc:
        return exc.code or ""
    return "deleted"


OBSERVED: dict[str, Callable[[Subject], str]] = {
    "`x-amz-checksum-crc32` that is wrong (what this service sends)": wrong_crc,
    "`Content-MD5` that is wrong": wrong_md5,
    "`x-amz-content-sha256` that is wrong, in the signature too": wrong_sha256,
    "anyone lists the bucket, under the policy of `init-bucket`": listing,
    "anyone reads outside `uploads/`, under that policy": outside,
    "anyone reads an object that is not there": missing,
    "anyone writes, under a policy that allows it": anonymous_write,
    "type of the answer to `?response-content-type=text/html`": overridden_type,
    "`X-Content-Type-Options` of an object": sniffing,
    "pages of any origin may read objects": cors,
    "`Server` tells the version": version_told,
    "`Content-Encoding` served when it was stored as `aws-chunked`": coding_served,
    "unfinished multipart uploads are listed by a prefix": multipart_listed,
    "an administrator deletes a bucket with objects in it": full_bucket,
}


def test_the_table_is_complete() -> None:
    """Each row is tried, and each trial has its row."""
    assert list(documented()) == list(OBSERVED)


@pytest.mark.parametrize("what", OBSERVED)
def test_a_store_does_what_is_documented(subject: Subject, what: str) -> None:
    """The cell is the store's own answer."""
    assert OBSERVED[what](subject) == documented()[what][subject.store.kind].strip("`")
