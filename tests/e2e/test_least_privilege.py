"""The service with credentials that may do only what the README's policy lists, on each store that enforces policies."""

import io
import json
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from minio import Minio, MinioAdmin, S3Error
from minio.credentials import StaticProvider

import servers
from media_storage.dev import store as embedded
from media_storage.dev.pieces import Piece
from pictures import make

README = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
USER, SECRET = "media-storage-user", "media-storage-canary-secret"
READER = "reader"  # who may list the bucket, and nothing else
READERS_POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{servers.BUCKET}"]}],
}
UUID = "6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f"


def readme_policy() -> dict[str, Any]:
    """The policy that the README's Deploy section tells operators to give the service's user."""
    deploy = README.split("\n## Deploy\n", 1)[1].split("\n## ", 1)[0]
    (block,) = re.findall(r"```json\n(.*?)```", deploy, re.DOTALL)
    policy: dict[str, Any] = json.loads(block)
    return policy


@dataclass
class Limited:
    """A store with an administrator and the service's own user, and the service running as that user."""

    store: servers.RunningStore
    service: servers.RunningService

    @property
    def user(self) -> Minio:
        return Minio(self.store.endpoint.removeprefix("http://"), USER, SECRET, secure=False, region="us-east-1")

    def upload(self) -> requests.Response:
        files = {"file": ("a.png", make.png(31, 17), "image/png")}
        return requests.post(f"{self.service.url}/media/upload", files=files, headers={"Cookie": "session=alice"}, timeout=30)


def give_minio_users(store: servers.RunningStore) -> None:
    """Users of MinIO's: one with the README's policy, and one that may only list."""
    administrator = StaticProvider(servers.ACCESS_KEY, servers.SECRET_KEY)
    admin = MinioAdmin(endpoint=store.endpoint.removeprefix("http://"), credentials=administrator, region="us-east-1", secure=False)
    for user, policy in ((USER, readme_policy()), (READER, READERS_POLICY)):
        admin.policy_add(f"{user}-policy", policy=policy)
        admin.user_add(user, SECRET)
        admin.policy_set(f"{user}-policy", user=user)


def seaweedfs_config(folder: Path) -> Path:
    """The identities of SeaweedFS: an administrator, a user with the README's policy, and one that may only list."""
    file = folder / "identities.json"
    identities = [
        {"name": "admin", "credentials": [{"accessKey": servers.ACCESS_KEY, "secretKey": servers.SECRET_KEY}], "actions": ["Admin"]},
    ]
    policies = []
    for user, policy in ((USER, readme_policy()), (READER, READERS_POLICY)):
        identities.append({"name": user, "credentials": [{"accessKey": user, "secretKey": SECRET}], "policyNames": [f"{user}-policy"]})
        policies.append({"name": f"{user}-policy", "content": json.dumps(policy)})
    file.write_text(json.dumps({"identities": identities, "policies": policies}))
    return file


def running_seaweedfs(folder: Path, stack: ExitStack) -> servers.RunningStore:
    """SeaweedFS with identities of its own, beside those that other tests run."""
    port = servers.free_port()
    data = folder / "data"
    data.mkdir(parents=True)
    program = embedded.seaweedfs(
        servers.binary("seaweedfs"), data, port, servers.ACCESS_KEY, servers.SECRET_KEY, first_port=servers.INNER_PORTS + 500
    )
    command = [*program.command, f"-s3.config={seaweedfs_config(folder)}"]
    piece = Piece(program.name, command, {}, folder / "store.log")
    stack.callback(piece.stop)
    store = servers.RunningStore("seaweedfs", f"http://127.0.0.1:{port}", piece)
    piece.wait_until(lambda: _lists_buckets(store), servers.START_SECONDS)
    return store


def _lists_buckets(store: servers.RunningStore) -> bool:
    if not embedded.is_taken(int(store.endpoint.rpartition(":")[2])):
        return False
    try:
        store.client.list_buckets()
    except Exception:  # any answer but a list means that it is still starting
        return False
    return True


@pytest.fixture(scope="module", params=["seaweedfs", "minio"])
def limited(request: pytest.FixtureRequest, backend: servers.ChatBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    folder = tmp_path_factory.mktemp(f"limited-{request.param}")
    with ExitStack() as stack:
        if request.param == "minio":
            store = stack.enter_context(servers.running_store("minio", folder / "store"))
            give_minio_users(store)
        else:
            store = running_seaweedfs(folder / "store", stack)
        environ = {**store.environ, "BACKEND_VERIFY_URL": backend.url, "WORKERS": "1"}
        made = servers.media_storage("init-bucket", environ=environ, folder=folder)
        assert made.returncode == 0, made.stderr
        own = {"MINIO_ACCESS_KEY": USER, "MINIO_SECRET_KEY": SECRET}
        service = stack.enter_context(servers.running_service(environ | own, folder))
        yield Limited(store, service)


def test_the_policy_is_for_the_default_bucket_and_its_uploads_alone() -> None:
    """Three actions, on one prefix."""
    (statement,) = readme_policy()["Statement"]
    assert statement["Resource"] == [f"arn:aws:s3:::{servers.BUCKET}/uploads/*"]
    assert sorted(statement["Action"]) == ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]


def test_the_service_does_all_that_it_promises(limited: Limited) -> None:
    """Ready, upload, read through the redirect, delete; and it does not log a warning on the way."""
    ready = requests.get(f"{limited.service.url}/readyz", timeout=10)
    assert (ready.status_code, ready.json()) == (200, {"backend": "ok", "store": "ok", "bucket": "ok"})
    answer = limited.upload()
    assert answer.status_code == 201, answer.text
    shown = requests.get(answer.json()["url"], timeout=10)
    assert (shown.content, shown.headers["Content-Type"]) == (make.png(31, 17), "image/png")
    assert shown.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    gone = requests.delete(answer.json()["url"], headers={"Cookie": "session=alice"}, timeout=10)
    assert gone.status_code == 204
    assert answer.json()["key"] not in limited.store.object_keys()
    assert requests.delete(answer.json()["url"], headers={"Cookie": "session=alice"}, timeout=10).status_code == 204
    assert not [line for line in limited.service.log_lines() if line["level"] in ("warning", "error")]


def test_doctor_is_content_with_it(limited: Limited, tmp_path: Path) -> None:
    """Every check of `doctor` passes with these credentials too."""
    done = servers.media_storage("doctor", environ=limited.service.environ, folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert not [key for key in limited.store.object_keys() if "/doctor/" in key]


def test_readiness_says_when_the_credentials_are_wrong(limited: Limited, tmp_path: Path) -> None:
    """That they may not ask for much does not mean that any would do: a wrong secret is a store that failed."""
    with servers.running_service(limited.service.elsewhere | {"MINIO_SECRET_KEY": "wrong"}, tmp_path) as service:
        ready = requests.get(f"{service.url}/readyz", timeout=10)
        assert (ready.status_code, ready.json()["store"]) == (503, "failed")


def test_erase_says_that_it_needs_more(limited: Limited, tmp_path: Path) -> None:
    """These credentials may not list: `erase` names what is missing, and deletes nothing."""
    answer = limited.upload()
    done = servers.media_storage("erase", "--user", "7", "--yes", environ=limited.service.environ, folder=tmp_path)
    assert done.returncode == 1
    assert "s3:ListBucket" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert answer.json()["key"] in limited.store.object_keys()


def test_erase_names_what_the_store_keeps(limited: Limited, tmp_path: Path) -> None:
    """With credentials that may list and not delete: what was not deleted, why, and status 1."""
    key = limited.upload().json()["key"]
    environ = limited.service.environ | {"MINIO_ACCESS_KEY": READER, "MINIO_SECRET_KEY": SECRET}
    done = servers.media_storage("erase", key, "--yes", environ=environ, folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "0 object(s) deleted" in done.stdout
    assert re.search(rf"1 object\(s\) could not be deleted:\n  {key}  AccessDenied", done.stdout)
    assert key in limited.store.object_keys()


BEYOND: dict[str, Callable[[Minio], object]] = {
    "create a bucket": lambda user: user.make_bucket("another"),
    "delete the bucket": lambda user: user.remove_bucket(servers.BUCKET),
    "list the bucket": lambda user: list(user.list_objects(servers.BUCKET, recursive=True)),
    "list the uploads": lambda user: list(user.list_objects(servers.BUCKET, prefix="uploads/", recursive=True)),
    "read the policy": lambda user: user.get_bucket_policy(servers.BUCKET),
    "change the policy": lambda user: user.set_bucket_policy(servers.BUCKET, json.dumps({"Version": "2012-10-17", "Statement": []})),
    "remove the policy": lambda user: user.delete_bucket_policy(servers.BUCKET),
    "write outside uploads": lambda user: _put(user, servers.BUCKET, "elsewhere/x.png"),
    "write beside uploads": lambda user: _put(user, servers.BUCKET, "uploads-x.png"),
    "read outside uploads": lambda user: user.get_object(servers.BUCKET, "private/x.png"),
    "delete outside uploads": lambda user: user.remove_object(servers.BUCKET, "private/x.png"),
    "write to another bucket": lambda user: _put(user, "other", "uploads/7/x.png"),
    "read another bucket": lambda user: user.get_object("other", "uploads/7/x.png"),
}


def _put(client: Minio, bucket: str, key: str) -> None:
    client.put_object(bucket, key, io.BytesIO(b"x"), 1)


@pytest.fixture(scope="module")
def others(limited: Limited) -> Limited:
    """What the user must not touch is there: another bucket, and an object that is no upload."""
    limited.store.client.make_bucket("other")
    _put(limited.store.client, "other", "uploads/7/x.png")
    _put(limited.store.client, servers.BUCKET, "private/x.png")
    return limited


@pytest.mark.parametrize("name", BEYOND)
def test_the_credentials_allow_nothing_more(others: Limited, name: str) -> None:
    """Denied by the store itself, and what was there is there."""
    policy = others.store.client.get_bucket_policy(servers.BUCKET)
    with pytest.raises(S3Error) as denied:
        BEYOND[name](others.user)
    assert denied.value.code == "AccessDenied", denied.value
    assert others.store.client.get_bucket_policy(servers.BUCKET) == policy
    assert {bucket.name for bucket in others.store.client.list_buckets()} >= {servers.BUCKET, "other"}
    assert "another" not in {bucket.name for bucket in others.store.client.list_buckets()}
    assert {key for key in others.store.object_keys() if not key.startswith("uploads/")} == {"private/x.png"}
    assert others.store.object_keys("other") == {"uploads/7/x.png"}


def test_credentials_that_may_not_even_write_are_an_outage(limited: Limited, tmp_path: Path) -> None:
    """For another bucket, which the policy does not name: 503 with the store's reason in the log, and `doctor` says what to give."""
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    limited.store.client.make_bucket(bucket)
    with servers.running_service(limited.service.elsewhere | {"MINIO_BUCKET": bucket}, tmp_path) as service:
        answer = replace(limited, service=service).upload()
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert any("AccessDenied" in line.get("reason", "") for line in service.log_lines())
        done = servers.media_storage("doctor", environ=service.environ, folder=tmp_path)
    assert done.returncode == 1
    assert "s3:PutObject" in done.stdout
