"""Uploads and reads at once, for as long as a context lasts, and a record of every answer."""

import contextlib
import hashlib
import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import requests
import urllib3

from pictures import make

SIZES = [2_000] * 4 + [50_000] * 8 + [300_000] * 2 + [1_000_000, 5_000_000]  # bytes; SeaweedFS divides the largest
PAUSE = 0.1  # seconds between a thread's requests: the machine is shared with what is tested
ANSWER_SECONDS = 60
READERS_AT_THE_END = 4


@dataclass(frozen=True)
class Upload:
    """What became of one; status 0 stands for a connection that ended without an answer."""

    began: float
    ended: float
    status: int
    digest: bytes  # of a content that no other upload has
    key: str
    retry_after: str


@dataclass(frozen=True)
class Read:
    """One redirect, and whether the object behind it was what had been uploaded."""

    status: int
    whole: bool


class Client:
    """Calls over connections that are kept open."""

    def __init__(self, url: str, certificate: Path) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False  # whose REQUESTS_CA_BUNDLE would stand above the next line
        self._session.verify = str(certificate)
        self._store = urllib3.PoolManager(retries=False, timeout=ANSWER_SECONDS)

    def upload(self, user: str, size: int) -> Upload:
        """One upload of a PNG with `size` random bytes behind it."""
        content = make.png(after=random.randbytes(size))
        digest, began = hashlib.sha256(content).digest(), time.monotonic()
        try:
            answer = self._session.post(
                f"{self._url}/media/upload",
                files={"file": ("a.png", content)},
                headers={"Cookie": f"session={user}"},
                timeout=ANSWER_SECONDS,
            )
        except requests.ConnectionError:
            return Upload(began, time.monotonic(), 0, digest, "", "")
        key = answer.json()["key"] if answer.status_code == 201 else ""
        return Upload(began, time.monotonic(), answer.status_code, digest, key, answer.headers.get("Retry-After", ""))

    def read(self, upload: Upload) -> Read:
        """What a browser does: asks the service, and then the store."""
        answer = self._session.get(f"{self._url}/media/{upload.key}", allow_redirects=False, timeout=ANSWER_SECONDS)
        if answer.status_code != 302:
            return Read(answer.status_code, whole=False)
        try:
            content = self._store.request("GET", answer.headers["Location"]).data
        except urllib3.exceptions.HTTPError:  # cut short, or not there
            content = b""
        return Read(answer.status_code, hashlib.sha256(content).digest() == upload.digest)

    def close(self) -> None:
        self._session.close()
        self._store.clear()


class Traffic:
    """Threads that upload, each time as another of `users`, and threads that read what was acknowledged."""

    def __init__(self, url: str, certificate: Path, users: list[str], uploaders: int = 4, readers: int = 2) -> None:
        self.uploads: list[Upload] = []
        self.reads: list[Read] = []
        self._users = itertools.cycle(users)
        self._client = lambda: Client(url, certificate)
        self._stop = threading.Event()
        work = [self._upload] * uploaders + [self._read] * readers
        self._threads = [threading.Thread(target=self._repeat, args=(call,), daemon=True) for call in work]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * ANSWER_SECONDS)

    @property
    def acknowledged(self) -> list[Upload]:
        return [upload for upload in self.uploads if upload.status == 201]

    def read_all(self) -> list[Read]:
        """Every acknowledged object, once."""

        def read(uploads: list[Upload]) -> list[Read]:
            with contextlib.closing(self._client()) as client:
                return [client.read(upload) for upload in uploads]

        known = self.acknowledged
        with ThreadPoolExecutor(READERS_AT_THE_END) as pool:
            return [found for some in pool.map(read, (known[n::READERS_AT_THE_END] for n in range(READERS_AT_THE_END))) for found in some]

    def _upload(self, client: Client) -> None:
        self.uploads.append(client.upload(next(self._users), random.choice(SIZES)))

    def _read(self, client: Client) -> None:
        if known := self.acknowledged:
            self.reads.append(client.read(random.choice(known)))

    def _repeat(self, call: Callable[[Client], None]) -> None:
        with contextlib.closing(self._client()) as client:
            while not self._stop.wait(PAUSE):
                call(client)
