"""More than one machine, as docs/scaling.md describes it: two replicas behind nginx, one Redis, a SeaweedFS cluster; and what dies.

One minute of uploads and reads, in which a volume server and a replica are killed and the other replica is restarted: every
acknowledged object stays readable and whole, nobody sees anything but 201, 302 and 503, and users are counted over both replicas.
"""

import contextlib
import random
import re
import shutil
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import cluster
import nginx
import servers
from media_storage import errors
from pictures import make
from rawclient import Answer, body_of, connect, head_for, read_answer
from redis_server import running_redis
from replicas import Site, running_replicas
from traffic import Client, Traffic

if sys.platform != "linux":
    pytest.skip("kills groups of processes, and deploy/ is for Linux", allow_module_level=True)

# Two replicas, a proxy and six processes of a store start before it, and every object is read three times behind it.
pytestmark = [pytest.mark.timeout(400), pytest.mark.long]

TRAFFIC_SECONDS = 60
VOLUME_SERVER_DIES, REPAIR_BEGINS, REPLICA_DIES, REPLICA_IS_BACK = 8, 14, 20, 30  # seconds from the beginning
BETWEEN_RESTARTS = 3  # what docs/scaling.md asks for
LAST_SECONDS = 10  # by then all is as before
PER_MINUTE = 20
HALF_SENT = 6  # uploads under way when a replica dies


@contextlib.contextmanager
def chat_backend() -> Iterator[servers.ChatBackend]:
    """One with more users than uploads in a minute, so that only those who mean to meet their limit."""
    backend = servers.ChatBackend()
    backend.users |= {f"user{number}": number for number in range(1000, 6000)}
    backend._server.socket.listen(128)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cluster.Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with cluster.running_cluster(folder) as running:
        yield running
    shutil.rmtree(folder)  # pytest keeps the folders of its last runs


@pytest.fixture(scope="module")
def replicas(seaweedfs: cluster.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("replicas")
    with chat_backend() as backend, running_redis(folder, servers.free_port()) as redis_uri:
        environ = {
            **seaweedfs.store.environ,
            "PUBLIC_BASE_URL": "https://media.example.com",
            "BACKEND_VERIFY_URL": backend.url,
            "UPLOADS_PER_MINUTE": str(PER_MINUTE),
            "RATE_LIMIT_STORAGE_URI": redis_uri,
        }
        made = servers.media_storage("init-bucket", environ=environ, folder=folder)
        assert made.returncode == 0, made.stderr
        with running_replicas(environ, folder) as running:
            yield running


def test_a_user_is_counted_over_both_replicas(replicas: Site) -> None:
    """Of twice as many uploads at once as a minute allows exactly the allowed number passes, and each replica had some of them."""

    def upload(user: str) -> int:
        with contextlib.closing(Client(replicas.url, replicas.certificate)) as client:
            return client.upload(user, 100).status

    for number in range(1000, 1005):  # a new user when the minute ended in between
        minute = time.time() // 60
        with ThreadPoolExecutor(4) as pool:
            statuses = Counter(pool.map(upload, [f"user{number}"] * (2 * PER_MINUTE)))
        if time.time() // 60 == minute:
            break
    assert statuses == {201: PER_MINUTE, 429: PER_MINUTE}
    for replica in replicas.replicas:
        assert [line for line in replica.service.log_lines() if line.get("user") == str(number)]


def test_nginx_closes_idle_connections_first() -> None:
    """Or it would send uploads into connections that a replica is closing, and could not give them to another one."""
    from media_storage import connection_unix  # noqa: PLC0415 - not on Windows, where this file is collected too

    (seconds,) = re.findall(r"keepalive_timeout (\d+)s;", nginx.shipped("nginx-upstream.conf"))
    assert int(seconds) < connection_unix.KEEPALIVE_SECONDS


class HalfSent:
    """Uploads through the proxy of which half the body has been sent."""

    def __init__(self, site: Site) -> None:
        context = ssl.create_default_context(cafile=site.certificate)
        self._missing = []
        for number in range(HALF_SENT):
            sock = context.wrap_socket(connect(site.url), server_hostname="127.0.0.1")
            body = body_of(make.png(after=random.randbytes(400_000)))
            sock.sendall(head_for(len(body), f"session=user{1100 + number}") + body[:200_000])
            self._missing.append((sock, body[200_000:]))

    def finish(self) -> list[Answer | None]:
        answers = []
        for sock, rest in self._missing:
            with sock:
                sock.sendall(rest)
                answers.append(read_answer(sock))
        return answers


def check_refusal(answer: Answer) -> None:
    """nginx says in the replica's place what a replica that ends says itself, and when to try again."""
    expected = errors.ShuttingDown()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Retry-After"] == str(expected.retry_after)
    document = answer.document
    assert document.pop("requestId") == answer.headers["X-Request-ID"]
    assert document == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": expected.detail,
        "code": expected.code,
    }


def documented_repair() -> list[str]:
    """What docs/scaling.md tells to type into `weed shell`."""
    (block,) = re.findall(r"```\n(lock\n.*?)```", cluster.DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return [str(line) for line in block.splitlines()]


@pytest.fixture(scope="module")
def minute(replicas: Site, seaweedfs: cluster.Cluster) -> Traffic:
    """What happened in the minute: the story of this module."""
    users = [f"user{number}" for number in range(2000, 6000)]
    first, second = replicas.replicas
    deaths: dict[str, float] = {}
    with ThreadPoolExecutor(1) as pool, Traffic(replicas.url, replicas.certificate, users) as traffic:
        began = time.monotonic()

        def at(seconds: int) -> None:
            time.sleep(max(0.0, began + seconds - time.monotonic()))

        at(VOLUME_SERVER_DIES)
        seaweedfs.kill_volume_server()
        deaths["a volume server"] = time.monotonic()
        at(REPAIR_BEGINS)
        repair = pool.submit(seaweedfs.shell, *documented_repair())
        at(REPLICA_DIES)
        half_sent = HalfSent(replicas)
        time.sleep(0.5)
        first.kill()
        deaths["a replica"] = time.monotonic()
        answers = half_sent.finish()
        at(REPLICA_IS_BACK)
        first.start()
        time.sleep(BETWEEN_RESTARTS)
        second.end()
        second.start()
        at(TRAFFIC_SECONDS)
    print(repair.result())
    report(traffic, deaths)
    statuses = {answer.status if answer else 0 for answer in answers}
    assert statuses == {201, 503}, answers  # some were the killed replica's, some the other's
    for answer in answers:
        if answer and answer.status == 503:
            check_refusal(answer)
    return traffic


def report(traffic: Traffic, deaths: dict[str, float]) -> None:
    """Prints the figures that docs/scaling.md gives."""
    print(f"uploads: {Counter(upload.status for upload in traffic.uploads)}, reads: {Counter(read.status for read in traffic.reads)}")
    for what, death in deaths.items():
        near = [upload for upload in traffic.uploads if upload.ended > death and upload.began < death + LAST_SECONDS]
        refused = [upload.ended - death for upload in near if upload.status != 201]
        slowest = max(upload.ended - upload.began for upload in near)
        print(f"{what} killed: {len(refused)} refused, the last after {max(refused, default=0):.2f} s; the slowest took {slowest:.2f} s")


def test_nobody_sees_anything_but_201_302_and_503(minute: Traffic) -> None:
    """No broken connection, no 502 or 504 of the proxy's; a 503 says when to try again."""
    assert {upload.status for upload in minute.uploads} <= {201, 503}
    assert {read.status for read in minute.reads} == {302}
    assert all(upload.retry_after.isdigit() for upload in minute.uploads if upload.status == 503)


def test_what_was_acknowledged_is_whole_at_once(minute: Traffic) -> None:
    """Also with a volume server dead, and for those who read in that second."""
    assert len(minute.acknowledged) > TRAFFIC_SECONDS
    assert all(read.whole for read in minute.reads)
    assert all(read.whole for read in minute.read_all())


def test_uploads_go_on(minute: Traffic) -> None:
    """Without a refusal before the first death, and in the last seconds, with two of three volume servers."""
    began = min(upload.began for upload in minute.uploads)
    early = [upload for upload in minute.uploads if upload.ended < began + VOLUME_SERVER_DIES]
    late = [upload for upload in minute.uploads if upload.began > began + TRAFFIC_SECONDS - LAST_SECONDS]
    assert {upload.status for upload in early} == {upload.status for upload in late} == {201}


def test_no_upload_is_stored_twice(minute: Traffic, seaweedfs: cluster.Cluster) -> None:
    """Whatever the proxy did with those whose replica died: each content, and no two are the same, is in the bucket once at most."""
    tags = Counter(item.etag for item in seaweedfs.store.client.list_objects(servers.BUCKET, prefix="uploads/", recursive=True))
    assert len(tags) > len(minute.acknowledged)
    assert set(tags.values()) == {1}


def test_volumes_are_copied_to_the_servers_that_are_left(minute: Traffic, seaweedfs: cluster.Cluster) -> None:
    """By the documented commands, while uploads went on: now another volume server may die, and the last one has everything."""
    assert set(seaweedfs.copies().values()) == {2}
    seaweedfs.kill_volume_server()
    assert all(read.whole for read in minute.read_all())
