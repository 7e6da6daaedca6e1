"""What was acknowledged is there, whole; what was changed on its way is not."""

import concurrent.futures
import contextlib
import hashlib
import http.client
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import servers
from faulty import cutting, flipping, once, resetting
from media_storage.dev import store as embedded
from media_storage.dev.pieces import Piece
from pictures import make
from rawclient import body_of, connect, head_for, picture, read_answer
from rig import MIB, Rig, running_rig

pytestmark = pytest.mark.long

if sys.platform != "linux":
    pytest.skip("looks at processes through /proc", allow_module_level=True)


@pytest.fixture(scope="module", params=["seaweedfs", "minio"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(request.param, tmp_path_factory.mktemp(f"integrity-{request.param}")) as running:
        yield running


@pytest.mark.parametrize("offset", [2000, 70_000, MIB - 1])
def test_a_byte_that_changes_on_the_way_to_the_store(rig: Rig, offset: int) -> None:
    """One bit, early, in the middle or late in the body: the store's checksum catches it, the answer is 503, and there is no object."""
    with rig.unharmed(), rig.store_front.behaving(flipping(offset)):
        answer = rig.upload(picture(MIB))
        assert (answer.status, answer.code) == (503, "store_unavailable")
        assert rig.store_front.received > MIB


def test_a_byte_that_changes_in_an_object_of_the_same_length_is_the_only_reason(rig: Rig) -> None:
    """The same path without the fault: the pipe itself changes nothing."""
    with rig.unharmed() as acknowledged, rig.store_front.behaving(flipping(10 * MIB)):
        content = picture(MIB)
        key = rig.upload(content).key
        acknowledged.add(key)
        assert rig.live.stored(key).content == content


def test_a_kept_connection_that_died_is_replaced(rig: Rig) -> None:
    """A store that restarted between two uploads, and one that closes as the PUT begins, cost no upload: one more try, and 201."""
    with rig.unharmed() as acknowledged:
        acknowledged |= {rig.upload(make.png()).key for _ in range(8)}
        with rig.store_front.refusing():
            pass
        acknowledged |= {rig.upload(picture(100_000)).key for _ in range(8)}
        with rig.store_front.behaving(once(resetting)):
            acknowledged.add(rig.upload(picture(100_000)).key)


def test_a_store_that_cuts_every_upload_once(rig: Rig) -> None:
    """Whatever is cut where, an answer tells the truth: 201 and whole, or 503 and no object."""
    places = random.Random(4)
    for _ in range(20):
        with rig.unharmed() as acknowledged:
            content = picture(300_000)
            with rig.store_front.behaving(cutting(places.randrange(100, 320_000))):
                answer = rig.upload(content)
            assert answer.status in (201, 503)
            if answer.status == 201:
                acknowledged.add(answer.key)
                assert rig.live.stored(answer.key).content == content


@dataclass
class Restarting:
    """A store that can be killed and started again on the same data and ports."""

    kind: str
    program: embedded.Program
    store: servers.RunningStore
    folder: Path
    kills: int = field(default=0)

    def start(self) -> None:
        log = self.folder / f"store-{self.kills}.log"
        self.store.piece = Piece(self.program.name, self.program.command, self.program.environ, log)

    def kill(self) -> None:
        self.store.piece.send_signal(9)
        self.store.piece.stop()
        self.kills += 1


@contextlib.contextmanager
def restarting_store(kind: str, folder: Path) -> Iterator[Restarting]:
    data = folder / "data"
    data.mkdir(parents=True)
    port = servers.free_port()
    if kind == "minio":
        program = embedded.minio(servers.binary(kind), data, port, servers.ACCESS_KEY, servers.SECRET_KEY)
    else:
        program = embedded.seaweedfs(servers.binary(kind), data, port, servers.ACCESS_KEY, servers.SECRET_KEY, first_port=32_000)
    piece = Piece(program.name, program.command, program.environ, folder / "store.log")
    running = Restarting(kind, program, servers.RunningStore(kind, f"http://127.0.0.1:{port}", piece), folder)
    try:
        piece.wait_until(lambda: servers._lists_buckets(running.store), servers.START_SECONDS)
        yield running
    finally:
        running.store.piece.stop()


@pytest.mark.parametrize("kind", ["seaweedfs", "minio"])
def test_a_store_that_is_killed_while_eight_clients_upload(kind: str, backend: servers.ChatBackend, tmp_path: Path) -> None:
    """30 s, three kill -9 and restarts: every 201 is readable and whole afterwards, and there is no other status than 201 and 503.

    An object whose upload was answered 503 may exist: the store had committed it, its answer was lost, and the store was not there
    to take it back. That is the contract's one window; at most one for each client and kill.
    """
    seconds, clients, kills = 30.0, 8, 3
    statuses: Counter[int] = Counter()
    hashes: dict[str, str] = {}
    with restarting_store(kind, tmp_path / "store") as running:
        store = running.store
        environ = {**store.environ, "BACKEND_VERIFY_URL": backend.url, "WORKERS": "2", "STORE_TIMEOUT_SECONDS": "3"}
        made = servers.media_storage("init-bucket", environ=environ | {"PUBLIC_BASE_URL": "http://127.0.0.1"}, folder=tmp_path)
        assert made.returncode == 0, made.stderr
        with servers.running_service(environ, tmp_path / "service") as service:
            over = threading.Event()

            def upload(number: int) -> None:
                sizes = random.Random(number)
                while not over.is_set():
                    content = picture(sizes.choice([1000, 60_000, 400_000, 2_000_000]))[:-16] + sizes.randbytes(16)
                    with connect(service.url) as sock:
                        body = body_of(content)
                        sock.sendall(head_for(len(body)) + body)
                        answer = read_answer(sock)
                    assert answer is not None
                    statuses[answer.status] += 1
                    if answer.status == 201:
                        hashes[answer.key] = hashlib.sha256(content).hexdigest()
                    else:
                        time.sleep(0.05)

            began = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                uploading = [pool.submit(upload, number) for number in range(clients)]
                for kill in range(kills):
                    time.sleep(max(0.0, began + (kill + 0.5) * seconds / (kills + 1) - time.monotonic()))
                    running.kill()
                    time.sleep(1)
                    running.start()
                    store.piece.wait_until(lambda: servers._lists_buckets(store), servers.START_SECONDS)
                time.sleep(max(0.0, began + seconds - time.monotonic()))
                over.set()
            for future in uploading:
                future.result()
            print(f"{kind}: {dict(statuses)}, {time.monotonic() - began:.0f} s")
            assert set(statuses) == {201, 503}
            last = make.png()
            with connect(service.url) as sock:
                sock.sendall(head_for(len(body_of(last))) + body_of(last))
                answer = read_answer(sock)
            assert answer is not None
            hashes[answer.key] = hashlib.sha256(last).hexdigest()
        public = http.client.HTTPConnection(store.endpoint.removeprefix("http://"), timeout=10)
        lost = []
        for key, digest in hashes.items():
            public.request("GET", f"/{servers.BUCKET}/{key}")
            if hashlib.sha256(public.getresponse().read()).hexdigest() != digest:
                lost.append(key)
        public.close()
        assert not lost
        kept = store.object_keys()
        assert kept >= set(hashes)
        print(f"{kind}: {len(kept - set(hashes))} objects in the window")
        assert len(kept - set(hashes)) <= clients * kills
        assert not store.client._list_multipart_uploads(servers.BUCKET).uploads
