"""Uploads per minute, counted in memory and in a real Redis; a Redis that is dead, hangs or talks nonsense stops nothing."""

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import redis
import requests

import servers
from media_storage import ratelimit, settings
from media_storage.errors import RateLimited
from media_storage.ratelimit import Limiter, MemoryCounter, RedisCounter, limiter_for
from pictures import make
from redis_server import running_redis

MINUTE = 28_000_000  # a window's number
SILENT_SECONDS = 0.3  # what a dead Redis may cost
SETTLE_SECONDS = 12  # of a minute that a test may need


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis"), servers.free_port()) as uri:
        yield uri


@pytest.fixture
def uri(shared_redis: str) -> str:
    """An empty Redis."""
    with redis.Redis.from_url(shared_redis) as client:
        client.flushall()
    return shared_redis


@pytest.fixture(params=["memory", "redis"])
def counter(request: pytest.FixtureRequest) -> ratelimit.Counter:
    """A fresh counter of each kind."""
    return MemoryCounter() if request.param == "memory" else RedisCounter(request.getfixturevalue("uri"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The limiter's clock, set by the test."""
    fake = SimpleNamespace(now=60.0 * MINUTE, monotonic=time.monotonic)
    fake.time = lambda: fake.now
    monkeypatch.setattr(ratelimit, "time", fake)
    return fake


def timed(work: Callable[[], object]) -> float:
    """How many seconds it took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def test_each_name_and_each_window_is_counted_for_itself(counter: ratelimit.Counter) -> None:
    """From one upwards; another user, or another minute, begins anew."""
    assert [counter.add("alice", MINUTE) for _ in range(3)] == [1, 2, 3]
    assert counter.add("bob", MINUTE) == 1
    assert counter.add("alice", MINUTE + 1) == 1
    assert counter.add("alice", MINUTE + 1) == 2


def test_a_straggler_of_the_last_minute_forgets_nothing(counter: ratelimit.Counter) -> None:
    """Two threads may ask in the wrong order around the full minute: the new minute's count goes on."""
    assert [counter.add("alice", MINUTE + 1) for _ in range(3)] == [1, 2, 3]
    counter.add("alice", MINUTE)
    assert counter.add("alice", MINUTE + 1) >= 4


def test_threads_lose_no_count(counter: ratelimit.Counter) -> None:
    """Eight at once: every number from 1 to 400 is given once."""
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: counter.add("alice", MINUTE), range(400)))
    assert sorted(counts) == list(range(1, 401))


def test_processes_share_a_redis_exactly(uri: str) -> None:
    """Two counters, as two processes have them, each used by four threads: every number is given once."""
    counters = [RedisCounter(uri), RedisCounter(uri)]
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda number: counters[number % 2].add("alice", MINUTE), range(400)))
    assert sorted(counts) == list(range(1, 401))


def test_redis_keeps_no_count_for_ever(uri: str) -> None:
    """One key for a user and a minute, gone two minutes later."""
    for _ in range(3):
        RedisCounter(uri).add("alice", MINUTE)
    with redis.Redis.from_url(uri) as client:
        (key,) = client.keys()
        assert b"alice" in key
        assert 0 < client.ttl(key) <= 2 * ratelimit.WINDOW


def test_what_is_above_the_limit_waits_for_the_next_minute(counter: ratelimit.Counter, clock: SimpleNamespace) -> None:
    """Exactly as many as allowed; others are not held up by it; then the minute is over and it begins anew."""
    limiter = Limiter(3, counter)
    clock.now += 12.5
    for _ in range(3):
        limiter.count("alice")
    with pytest.raises(RateLimited) as refused:
        limiter.count("alice")
    assert refused.value.retry_after == 48
    limiter.count("bob")
    clock.now += 47.4
    with pytest.raises(RateLimited):
        limiter.count("alice")
    clock.now += 0.2
    limiter.count("alice")


@pytest.mark.parametrize(("into", "retry_after"), [(0.0, 60), (0.01, 60), (59.0, 1), (59.999, 1)])
def test_retry_after_is_whole_seconds_to_the_next_minute(clock: SimpleNamespace, into: float, retry_after: int) -> None:
    """Never zero, and never so short that the next try is refused as well."""
    limiter = Limiter(1, MemoryCounter())
    clock.now += into
    limiter.count("alice")
    with pytest.raises(RateLimited) as refused:
        limiter.count("alice")
    assert refused.value.retry_after == retry_after
    clock.now += retry_after
    limiter.count("alice")


def test_no_limit_asks_nobody() -> None:
    """0 allows any number, and a Redis that is configured beside it is not looked for."""
    limiter = limiter_for(0, f"redis://127.0.0.1:{servers.free_port()}/0")
    assert timed(lambda: [limiter.count("alice") for _ in range(1000)]) < 0.1


def test_the_settings_choose_the_counter(uri: str) -> None:
    """`memory://` counts in this process, `redis://` in Redis, where a second limiter sees it."""
    for address, refused_at_once in (("memory://", False), (uri, True)):
        limiter_for(1, address).count("alice")
        context = pytest.raises(RateLimited) if refused_at_once else contextlib.nullcontext()
        with context:
            limiter_for(1, address).count("alice")


@pytest.mark.parametrize("uri", ["redis://127.0.0.1:abc/0", "redis://127.0.0.1:99999/0", "redis://127.0.0.1:6379/first"])
def test_an_address_that_leads_nowhere_is_a_problem_of_the_settings(uri: str) -> None:
    """Named at start like every other, instead of workers that die, or a database that nobody meant."""
    given = {"PUBLIC_BASE_URL": "http://x", "MINIO_ENDPOINT": "http://x", "MINIO_ACCESS_KEY": "x", "MINIO_SECRET_KEY": "x"}
    with pytest.raises(settings.SettingsError) as refused:
        settings.load({**given, "UPLOADS_PER_MINUTE": "1", "RATE_LIMIT_STORAGE_URI": uri})
    (problem,) = refused.value.problems
    assert problem.startswith("RATE_LIMIT_STORAGE_URI: ")


# --- a Redis that is not what it should be ---


class Mute:
    """A listener that takes connections and says nothing, or only `answer`; counts them."""

    def __init__(self, answer: bytes = b"") -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        self.connections: list[socket.socket] = []
        self._answer = answer
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                self.connections.append(sock)
                if self._answer:
                    sock.sendall(self._answer)

    def __enter__(self) -> "Mute":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for sock in (self.listener, *self.connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """A port where not even a connection is made: the queue of an owner that accepts nothing is full."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


@contextlib.contextmanager
def dead(kind: str) -> Iterator[str]:
    if kind == "closed port":
        yield f"redis://127.0.0.1:{servers.free_port()}/0"
    elif kind == "full backlog":
        with full_backlog() as uri:
            yield uri
    else:
        answer = {"hangs": b"", "not Redis": b"HTTP/1.1 400 Bad Request\r\n\r\n", "hangs up": b"-ERR max clients\r\n"}[kind]
        with Mute(answer) as mute:
            yield mute.uri


@pytest.mark.parametrize("kind", ["closed port", "hangs", "full backlog", "not Redis", "hangs up"])
def test_a_dead_redis_stops_nothing(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Uploads go on uncounted: the first call costs less than 0.3 s, those after it nothing; the log says so, once."""
    with dead(kind) as uri, caplog.at_level(logging.WARNING):
        limiter = limiter_for(1, uri)
        assert timed(lambda: limiter.count("alice")) < SILENT_SECONDS
        assert timed(lambda: [limiter.count("alice") for _ in range(200)]) < 0.05
    (line,) = caplog.messages
    assert "not counted" in line


def test_a_dead_redis_is_asked_again_once_in_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not more often, however many uploads there are; each time it costs as little."""
    now = time.monotonic
    skipped = 0.0
    monkeypatch.setattr(ratelimit, "time", SimpleNamespace(time=time.time, monotonic=lambda: now() + skipped))
    with Mute() as mute:
        limiter = limiter_for(1, mute.uri)
        for round_number in (1, 2, 3):
            assert timed(lambda: [limiter.count("alice") for _ in range(50)]) < SILENT_SECONDS + 0.05
            assert len(mute.connections) == round_number
            skipped += 4.5
            limiter.count("alice")
            assert len(mute.connections) == round_number
            skipped += 0.6


def test_many_at_once_each_wait_for_a_dead_redis_at_most_once() -> None:
    """Sixteen uploads that begin together are all through in little more than the time of one."""
    with Mute() as mute:
        limiter = limiter_for(1, mute.uri)
        with ThreadPoolExecutor(16) as pool:
            took = list(pool.map(lambda _: timed(lambda: limiter.count("alice")), range(16)))
    assert max(took) < SILENT_SECONDS + 0.3  # sixteen threads on a busy machine


def test_counting_goes_on_when_redis_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that starts late, and one that was killed and comes again on its port, is used without a restart of ours."""
    monkeypatch.setattr(ratelimit, "REDIS_PAUSE", 0.1)
    port = servers.free_port()
    counter = RedisCounter(f"redis://127.0.0.1:{port}/0")
    for _ in range(2):
        assert counter.add("alice", MINUTE) == 0
        with running_redis(tmp_path, port):
            time.sleep(0.15)
            assert [counter.add("alice", MINUTE) for _ in range(3)] == [1, 2, 3]
        assert counter.add("alice", MINUTE) == 0
        time.sleep(0.15)


def test_a_password_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not when it is wrong, and not when nobody is there."""
    port = servers.free_port()
    limiter_for(1, f"redis://:redis-canary@127.0.0.1:{port}/0").count("alice")
    with running_redis(tmp_path, port, "--requirepass", "another"):
        limiter_for(1, f"redis://:redis-canary@127.0.0.1:{port}/0").count("alice")
    assert len(caplog.messages) == 2
    assert "redis-canary" not in caplog.text


# --- the service ---


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A store and a chat backend, and the settings that lead to them."""
    folder = tmp_path_factory.mktemp("site")
    backend = servers.ChatBackend()
    with servers.running_store("moto", folder / "store") as store:
        environ = {**store.environ, "BACKEND_VERIFY_URL": backend.url, "WORKERS": "2"}
        assert servers.media_storage("init-bucket", environ=environ, folder=folder).returncode == 0
        yield environ
    backend.close()


def upload(service: servers.RunningService, user: str) -> requests.Response:
    files = {"file": ("a.png", make.png(), "image/png")}
    return requests.post(f"{service.url}/media/upload", files=files, headers={"Cookie": f"session={user}"}, timeout=30)


def begin_within_a_minute() -> None:
    """Waits for the next one when too little is left of this."""
    left = 60 - time.time() % 60
    if left < SETTLE_SECONDS:
        time.sleep(left + 0.1)


def test_the_service_counts_exactly_for_all_its_workers(site: dict[str, str], tmp_path: Path) -> None:
    """UPLOADS_PER_MINUTE=3 on two workers: of twelve uploads at once three are 201 and nine 429; a dead Redis lets all pass."""
    port = servers.free_port()
    limits = {"UPLOADS_PER_MINUTE": "3", "RATE_LIMIT_STORAGE_URI": f"redis://127.0.0.1:{port}/0"}
    with running_redis(tmp_path, port), servers.running_service(site | limits, tmp_path) as service, ThreadPoolExecutor(6) as pool:
        servers.wait_for(lambda: len(psutil.Process(service.pid).children()) == 2, 10)
        begin_within_a_minute()
        answers = list(pool.map(lambda _: upload(service, "alice"), range(12)))
        assert Counter(answer.status_code for answer in answers) == {201: 3, 429: 9}
        for answer in answers:
            if answer.status_code == 429:
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert answer.json()["code"] == "rate_limited"
                assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert upload(service, "bob").status_code == 201
        with redis.Redis(port=port) as client:
            client.shutdown(nosave=True)
        answers = list(pool.map(lambda _: upload(service, "alice"), range(8)))
        assert [answer.status_code for answer in answers] == [201] * 8


def test_a_process_alone_counts_in_memory(site: dict[str, str], tmp_path: Path) -> None:
    """`memory://`, the default: exact with one worker; what is refused before, for want of a session, does not count."""
    limits = {"UPLOADS_PER_MINUTE": "3", "WORKERS": "1"}
    with servers.running_service(site | limits, tmp_path) as service:
        begin_within_a_minute()
        assert upload(service, "mallory").status_code == 401
        assert [upload(service, "alice").status_code for _ in range(5)] == [201, 201, 201, 429, 429]
        assert upload(service, "bob").status_code == 201
