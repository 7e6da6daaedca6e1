"""The operator's takedown, against real stores."""

import io
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import faulty
import servers
from media_storage import erase, keys

# moto is no store that anybody takes pictures down from.
pytestmark = pytest.mark.parametrize("store", ["seaweedfs", "minio"], indirect=True, scope="session")

PICTURE = b"not looked at"


@dataclass
class Bucket:
    """A bucket of the test's own, and the command in front of it."""

    name: str
    store: servers.RunningStore
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        return {**self.store.environ, "MINIO_BUCKET": self.name}

    def put(self, *names: str) -> None:
        client = self.store.client
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: client.put_object(self.name, name, io.BytesIO(PICTURE), len(PICTURE)), names))

    def keys(self) -> set[str]:
        return self.store.object_keys(self.name)

    def erase(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        done = servers.media_storage("erase", *arguments, environ=self.environ, folder=self.folder, typed=typed)
        assert "Traceback" not in done.stderr
        assert servers.SECRET_KEY not in done.stdout + done.stderr
        return done

    @contextmanager
    def asked(self, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
        """The command at its question."""
        command = [sys.executable, "-m", "media_storage", "erase", *arguments]
        own = {**servers.bare_environ(), **self.environ, **environ, "PYTHONUNBUFFERED": "1"}
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=own, cwd=self.folder, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stdout is not None
            shown = ""
            while not shown.endswith("[y/N]: "):
                shown += process.stdout.read(1) or pytest.fail(f"{shown}\n{process.communicate()}")
            yield process


@pytest.fixture
def bucket(store: servers.RunningStore, tmp_path: Path) -> Bucket:
    made = Bucket(f"erase-{uuid.uuid4().hex[:12]}", store, tmp_path)
    store.client.make_bucket(made.name)
    return made


def minted(user: str, count: int = 1) -> list[str]:
    return [keys.mint(user, "png") for _ in range(count)]


def test_a_users_objects_go_and_nobody_elses(bucket: Bucket) -> None:
    """Also not those of users whose ids begin alike, nor what this service cannot have made."""
    mine = minted("7", 3)
    others = [*minted("70"), *minted("7.1"), *minted("77", 2), *minted("17"), "uploads/7/notes.txt", "7/x.png"]
    bucket.put(*mine, *others)
    done = bucket.erase("--user", "7", typed="y\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert bucket.keys() == set(others)
    for key in mine:
        assert f"{key}  {len(PICTURE)} bytes" in done.stdout
    assert f"3 object(s) with {3 * len(PICTURE)} bytes will be deleted" in done.stdout
    assert "1 other object(s) beside them were not made by this service" in done.stdout
    assert "3 object(s) deleted" in done.stdout
    assert "may keep a copy" in done.stdout
    assert bucket.name in done.stdout
    assert bucket.store.endpoint in done.stdout


def test_keys_go_and_what_is_gone_is_no_failure(bucket: Bucket) -> None:
    """Named one by one, one of them twice and one that never was; run again, there is nothing left to delete."""
    first, second, kept = minted("7", 3)
    bucket.put(first, second, kept)
    done = bucket.erase("--yes", first, second, second, *minted("7"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert bucket.keys() == {kept}
    assert "1 of the keys given are not there" in done.stdout
    again = bucket.erase(first, second)
    assert again.returncode == 0
    assert "nothing to delete" in again.stdout
    assert "[y/N]" not in again.stdout


@pytest.mark.parametrize("typed", ["n\n", "\n", ""], ids=["no", "enter", "no terminal"])
def test_nothing_goes_without_a_yes(bucket: Bucket, typed: str) -> None:
    """Neither on a no, nor on the default, nor where nobody can answer."""
    bucket.put(*minted("7", 2))
    before = bucket.keys()
    done = bucket.erase("--user", "7", typed=typed)
    assert done.returncode == 1
    assert "Nothing was deleted." in done.stderr
    assert bucket.keys() == before


def test_thousands_go_in_batches(bucket: Bucket) -> None:
    """More than a page of a listing, with a list that is cut short for the reader."""
    mine = minted("alice.b", 1100)
    bucket.put(*mine, *minted("alice"))
    done = bucket.erase("--user", "alice.b", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "and 1,090 more" in done.stdout
    assert "1,100 object(s) deleted" in done.stdout
    assert len(done.stdout.splitlines()) == erase.SHOWN + 5
    assert not bucket.keys() & set(mine)
    assert len(bucket.keys()) == 1


def test_what_was_not_shown_stays(bucket: Bucket) -> None:
    """An upload that arrives while the operator thinks is named and left; what somebody else deleted meanwhile is no failure."""
    shown, gone, later = minted("7", 3)
    bucket.put(shown, gone)
    with bucket.asked("--user", "7") as process:
        servers.wait_for(lambda: _is_newest(bucket, later), 10)
        bucket.store.client.remove_object(bucket.name, gone)
        out, err = process.communicate("y\n", timeout=60)
    assert process.returncode == 1, out + err
    assert bucket.keys() == {later}
    assert "1 object(s) deleted" in out
    assert "1 object(s) were uploaded meanwhile and stay" in out


def _is_newest(bucket: Bucket, key: str) -> bool:
    """Stores may date objects to the second: `key` is put until its date is another."""
    bucket.put(key)
    dates = {item.object_name: item.last_modified for item in bucket.store.client.list_objects(bucket.name, recursive=True)}
    return dates.pop(key) > max(dates.values())


def test_an_outage_in_the_middle_is_told(bucket: Bucket, tmp_path: Path) -> None:
    """What was deleted until then is counted, and the rest is there for the next run."""
    mine = minted("7", 2 * erase.BATCH + 1)
    bucket.put(*mine)
    one_batch = 30_000  # bytes: each request to delete so many is more than half of it
    with faulty.Front(bucket.store.endpoint) as front:
        with bucket.asked("--user", "7", MINIO_ENDPOINT=front.url) as process, front.behaving(faulty.cutting(one_batch)):
            out, err = process.communicate("y\n", timeout=60)
        assert process.returncode == 1, out + err
        assert f"{erase.BATCH} object(s) deleted" in out
        assert "Stopped before the end, run this again" in out
        assert len(bucket.keys()) == erase.BATCH + 1
        with front.refusing():
            closed = servers.media_storage("erase", "--user", "7", environ=bucket.environ | {"MINIO_ENDPOINT": front.url}, folder=tmp_path)
    assert closed.returncode == 1
    assert "Nothing was deleted" in closed.stderr
    assert bucket.erase("--user", "7", "--yes").returncode == 0
    assert not bucket.keys()
