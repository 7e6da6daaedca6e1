"""The stores that everything uploads to, each time new and empty."""

import contextlib
import functools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from minio import Minio

from benchmarks import programs
from benchmarks.payload import Picture
from benchmarks.processes import Command, Tree, running
from media_storage.dev import store as embedded

ACCESS_KEY = "bench-access"
SECRET_KEY = "bench-secret"  # noqa: S105 - of a store that lives for seconds on loopback
BUCKET = "irc-media"
REGION = "us-east-1"
KINDS = {"minio": "MinIO", "seaweedfs": "SeaweedFS"}
START_SECONDS = 60
_INNER_PORTS = 30_000  # of SeaweedFS; not those that `dev` or the tests choose
_PRESIGNED = {50_000: 12_000, 1_000_000: 2_000}  # by picture size, so many that hardly any is used twice; else one for each connection


@dataclass(frozen=True)
class Site:
    """What the systems work with: a store, the chat backend (both as host:port), and a folder for their files."""

    kind: str
    store: str
    backend: str
    folder: Path

    @property
    def endpoint(self) -> str:
        """The store's base URL."""
        return f"http://{self.store}"

    @property
    def client(self) -> Minio:
        """The store's administrator."""
        return Minio(self.store, ACCESS_KEY, SECRET_KEY, secure=False, region=REGION)

    def presigned(self, picture: Picture, connections: int) -> Path:
        """A file of presigned paths to PUT `picture` to, each to a key of its own; the same for every round.

        Large pictures have one for each connection, and are written over again and again: see upload.lua for why.
        """
        return _presigned(self, picture.size, connections)


@functools.cache
def _presigned(site: Site, size: int, connections: int) -> Path:
    count = _PRESIGNED.get(size, connections)
    keys = (f"uploads/7/{size}-{connections}-{number}.png" for number in range(count))
    urls = (site.client.get_presigned_url("PUT", BUCKET, key, expires=timedelta(hours=12)) for key in keys)
    file = site.folder / f"presigned-{site.kind}-{size}-{connections}"
    file.write_text("".join(url.removeprefix(site.endpoint) + "\n" for url in urls), encoding="ascii")
    return file


@contextlib.contextmanager
def running_store(site: Site) -> Iterator[Tree]:
    """The site's store, with an empty bucket, while the context lasts; its data is gone afterwards."""
    data = site.folder / f"data-{site.kind}"
    data.mkdir()
    try:
        with running(site.kind, _command(site, data), site.folder, lambda: _has_bucket(site), START_SECONDS) as tree:
            yield tree
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _command(site: Site, data: Path) -> Command:
    binary, port = str(programs.find_store(site.kind)), int(site.store.rpartition(":")[2])
    if site.kind == "minio":
        program = embedded.minio(binary, data, port, ACCESS_KEY, SECRET_KEY)
    else:
        program = embedded.seaweedfs(binary, data, port, ACCESS_KEY, SECRET_KEY, first_port=_INNER_PORTS)
    return Command(program.command, program.environ)


def _has_bucket(site: Site) -> bool:
    """Whether the store answers; makes the bucket as soon as it does."""
    if not embedded.is_taken(int(site.store.rpartition(":")[2])):
        return False
    try:
        if not site.client.bucket_exists(BUCKET):
            site.client.make_bucket(BUCKET)
    except Exception:  # any failure means that it is still starting; the caller bounds the wait
        return False
    return True
