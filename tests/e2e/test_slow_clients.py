"""Clients that take their time, on purpose or not: each is cut in time, and none stops the others."""

import contextlib
import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import servers
from crowd import Crowd
from faulty import hanging
from pictures import make
from rawclient import UUID, Answer, Sampler, body_of, connect, head_for, picture, read_answer
from rig import MIB, Rig

if sys.platform != "linux":
    pytest.skip("looks at processes through /proc", allow_module_level=True)
import resource  # which Windows lacks

GET = f"GET /media/uploads/7/{UUID}.jpg HTTP/1.1\r\nHost: x\r\n".encode()
FLOOR_SECONDS = 20  # what a body's speed is averaged over
HEAD_SECONDS = 10
SLACK = 2.0
KIB = 1024


def in_a_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Slow:
    """A client that sends a beginning and then one of `drops` every second; knows when it was answered or cut, and how."""

    def __init__(self, url: str, beginning: bytes, drop: bytes = b"") -> None:
        self.sock = connect(url)
        self.sock.sendall(beginning)
        self._drop = drop
        self.began = time.monotonic()
        self.seconds = 0.0
        self.answer: Answer | None = None
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._listen, daemon=True), threading.Thread(target=self._drip, daemon=True)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        self.answer = read_answer(self.sock)
        self.seconds = time.monotonic() - self.began
        self._over.set()

    def _drip(self) -> None:
        with contextlib.suppress(OSError):
            while self._drop and not self._over.wait(1):
                self.sock.sendall(self._drop)

    @property
    def refusal(self) -> tuple[int, str] | None:
        return (self.answer.status, self.answer.code) if self.answer else None

    def wait(self) -> None:
        for thread in self._threads:
            thread.join(60)
        self.sock.close()


@pytest.mark.alone
@pytest.mark.beside_minio("no store takes part, so once is enough")
def test_whoever_is_too_slow_is_cut_in_time_and_others_are_served(rig: Rig, acknowledged: set[str]) -> None:
    """F10, F11: stalled and trickling bodies are told 408 after 20 s, heads end after 10 s; others' p99 stays under 100 ms.

    80 of each kind at once, on two workers. A body above the floor that takes just as long gets its 201.
    """
    url, begun = rig.url, head_for(MIB) + body_of(picture(MIB))[:50_000]
    steady_body = body_of(picture(50_000))
    with Sampler(url) as redirects, Sampler(url, "/healthz", 200, 0.2) as health:
        stalled = [Slow(url, begun) for _ in range(80)]
        trickling = [Slow(url, begun[:2000], b"x") for _ in range(80)]
        in_chunks = [Slow(url, head_for(None) + in_a_chunk(body_of(picture(MIB))[:2000]), in_a_chunk(b"x")) for _ in range(20)]
        line = [Slow(url, b"GET /heal", b"x") for _ in range(80)]
        headers = [Slow(url, GET, b"X-A: b\r\n") for _ in range(80)]
        steady = Slow(url, head_for(len(steady_body)) + steady_body[:1000], b"")
        for at in range(1000, len(steady_body), 2000):
            time.sleep((FLOOR_SECONDS + 4) / 25)
            steady.sock.sendall(steady_body[at : at + 2000])
        for client in (*stalled, *trickling, *in_chunks, *line, *headers, steady):
            client.wait()
    print(f"redirects p99 {redirects.p99 * 1000:.0f} ms, health p99 {health.p99 * 1000:.0f} ms")
    for client in (*stalled, *trickling, *in_chunks):
        assert client.refusal == (408, "upload_timeout")
        assert FLOOR_SECONDS - 1 < client.seconds < FLOOR_SECONDS + SLACK
    for client in (*line, *headers):
        assert client.answer is None or client.answer.status in (400, 408)
        assert HEAD_SECONDS - 1 < client.seconds < HEAD_SECONDS + SLACK
    assert steady.answer
    acknowledged.add(steady.answer.key)
    assert redirects.p99 < 0.1
    assert health.p99 < 0.1


@pytest.mark.beside_minio("no store takes part, so once is enough")
def test_a_body_has_a_deadline_as_a_whole(rig: Rig, acknowledged: set[str], tmp_path: Path) -> None:
    """UPLOAD_TIMEOUT_SECONDS: fast enough for the floor and still not done: 408 when the time is over, with and without a length."""
    with rig.another_service(tmp_path, UPLOAD_TIMEOUT_SECONDS="3") as service:
        clients = [
            Slow(service.url, head_for(MIB) + body_of(picture(MIB))[:50_000], b"x" * 20_000),
            Slow(
                service.url, head_for(None) + b"c350\r\n" + body_of(picture(MIB))[:50_000] + b"\r\n", b"2710\r\n" + b"x" * 10_000 + b"\r\n"
            ),
        ]
        for client in clients:
            client.wait()
            assert client.refusal == (408, "upload_timeout")
            assert 2.5 < client.seconds < 3 + SLACK


@pytest.mark.alone
def test_no_more_uploads_at_once_than_allowed(rig: Rig, acknowledged: set[str], tmp_path: Path) -> None:
    """MAX_CONCURRENT_UPLOADS: the next is 503 `overloaded` at once; those under way end well, and their places are free again.

    However they ended: stored, refused, cut off, or given up by the store.
    """
    body = body_of(picture(100_000))
    with rig.another_service(tmp_path, WORKERS="1", MAX_CONCURRENT_UPLOADS="4") as service, contextlib.ExitStack() as stack:
        for ending in ("stored", "refused", "cut off", "store hangs"):
            socks = [stack.enter_context(connect(service.url)) for _ in range(4)]
            for sock in socks:
                sock.sendall(head_for(len(body)) + body[:1000])
            time.sleep(0.3)
            began = time.monotonic()
            answer = rig.upload(make.png(), service.url)
            assert (answer.status, answer.code) == (503, "overloaded")
            assert answer.headers["Retry-After"].isdigit()
            assert time.monotonic() - began < 0.5
            if ending == "cut off":
                for sock in socks:
                    sock.close()
                time.sleep(0.3)
                continue
            rest = body[1000:] if ending != "refused" else b"x" * (len(body) - 1000)
            with rig.store_front.behaving(hanging) if ending == "store hangs" else contextlib.nullcontext():
                for sock in socks:
                    sock.sendall(rest)
                answers = [read_answer(sock) for sock in socks]
            statuses = {"stored": 201, "refused": 400, "store hangs": 503}
            assert [answer and answer.status for answer in answers] == [statuses[ending]] * 4
            acknowledged |= {answer.key for answer in answers if answer and answer.status == 201}
        acknowledged.add(rig.upload(make.png(), service.url).key)


@pytest.mark.alone
@pytest.mark.beside_minio("no store takes part, so once is enough")
def test_clients_that_linger_or_idle_do_not_stop_others(rig: Rig, acknowledged: set[str]) -> None:
    """F12, F13, F14: 200 idle after an answer, 200 never send, 16 do not close, 16 strangers have announced 9 MB.

    The strangers get their 401 at once, everyone else is answered in under 100 ms at p99, and whoever idles is closed after 5 s.
    """
    url = rig.url
    strange = b"POST /media/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=B\r\nContent-Length: 9000000\r\n\r\n"
    with contextlib.ExitStack() as stack, Sampler(url) as redirects, Sampler(url, "/healthz", 200) as health:
        idle = [stack.enter_context(connect(url)) for _ in range(200)]
        for sock in idle:
            sock.sendall(GET + b"\r\n")
        silent = [stack.enter_context(connect(url)) for _ in range(200)]
        lingering = [stack.enter_context(connect(url)) for _ in range(16)]
        for sock in lingering:
            sock.sendall(GET + b"Connection: close\r\n\r\n")
        strangers = [stack.enter_context(connect(url)) for _ in range(16)]
        began = time.monotonic()
        for sock in strangers:
            sock.sendall(strange)
        answers = [read_answer(sock) for sock in strangers]
        told = time.monotonic() - began
        assert [answer and answer.status for answer in answers] == [401] * 16
        assert told < 1
        for sock in (*idle, *lingering):
            answer = read_answer(sock)
            assert answer is not None
            assert answer.status == 302
        for sock in (*idle, *silent):
            assert sock.recv(1) == b""
        assert time.monotonic() - began < 5 + SLACK
    print(f"redirects p99 {redirects.p99 * 1000:.0f} ms, health p99 {health.p99 * 1000:.0f} ms, strangers told after {told:.2f} s")
    assert redirects.p99 < 0.1
    assert health.p99 < 0.1


@pytest.mark.alone
@pytest.mark.beside_minio("no store takes part, so once is enough")
def test_500_slow_uploads_at_once(rig: Rig, acknowledged: set[str], tmp_path: Path) -> None:
    """500 uploads of 5 KB/s on two workers: all 201, redirects p99 under 50 ms, a fast upload under 2 s, under 128 KiB of memory each."""
    count, seconds = 500, 16.0
    # A memory of its own: what other tests made the allocator keep would hide the growth.
    with rig.another_service(tmp_path, STORE_TIMEOUT_SECONDS="10", BACKEND_TIMEOUT_SECONDS="3") as service:
        processes = [psutil.Process(service.pid), *psutil.Process(service.pid).children()]
        for _ in range(8):
            acknowledged.add(rig.upload(picture(100_000), service.url).key)
        before = rig.live.store.object_keys()
        rss = sum(process.memory_info().rss for process in processes)
        crowd = Crowd(service.url, count, 80_000, seconds)
        client_port = int(service.url.rpartition(":")[2])

        def all_are_there() -> bool:
            held = [c for p in processes[1:] for c in p.net_connections("tcp") if c.raddr and c.laddr.port == client_port]
            return len(held) >= count

        servers.wait_for(all_are_there, 10)
        time.sleep(2)
        fast = []
        with Sampler(service.url) as redirects:
            while len(fast) < 8:
                began = time.monotonic()
                acknowledged.add(rig.upload(picture(MIB), service.url).key)
                fast.append(time.monotonic() - began)
                time.sleep(1)
        assert all_are_there(), "they were to be slow for as long as this"
        grown = (sum(process.memory_info().rss for process in processes) - rss) / count
        statuses = crowd.statuses()
        print(f"redirects p99 {redirects.p99 * 1000:.0f} ms, fast uploads {max(fast):.2f} s, {grown / KIB:.0f} KiB each, {dict(statuses)}")
        assert statuses == {"HTTP/1.1 201 CREATED": count}
        slow_ones = rig.live.store.object_keys() - before - acknowledged
        assert len(slow_ones) == count
        acknowledged |= slow_ones
    assert redirects.p99 < 0.05
    assert max(fast) < 2
    assert grown < 128 * KIB


@pytest.mark.beside_minio("no store takes part, so once is enough")
def test_silent_connections_do_not_fill_the_service(rig: Rig, acknowledged: set[str], tmp_path: Path) -> None:
    """More connections that never send a byte than a worker takes: they are closed in time, and others are served again."""
    with rig.another_service(tmp_path, WORKERS="1", MAX_CONCURRENT_UPLOADS="4") as service, contextlib.ExitStack() as stack:
        for _ in range(2400):
            with contextlib.suppress(TimeoutError):
                stack.enter_context(socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), timeout=0.2))
        began = time.monotonic()
        servers.wait_for(lambda: servers.answers(f"{service.url}/healthz"), HEAD_SECONDS + 5)
        print(f"served again after {time.monotonic() - began:.1f} s")


@pytest.mark.beside_minio("no store takes part, so once is enough")
def test_running_out_of_descriptors_ends_no_worker(rig: Rig, acknowledged: set[str], tmp_path: Path) -> None:
    """At the limit of open files new connections wait; the upload under way gets its 201, and so does the next when there is room."""
    body = body_of(picture(100_000))
    with rig.another_service(tmp_path, WORKERS="1") as service:
        (worker,) = psutil.Process(service.pid).children()
        worker.rlimit(psutil.RLIMIT_NOFILE, (100, 100))
        with contextlib.ExitStack() as stack:
            upload = stack.enter_context(connect(service.url))
            upload.sendall(head_for(len(body)) + body[:90_000])
            time.sleep(0.5)
            for _ in range(120):
                stack.enter_context(connect(service.url)).sendall(GET)  # a head that does not end
            time.sleep(1)
            assert worker.num_fds() > 95
            upload.sendall(body[90_000:])
            answer = read_answer(upload)
            assert answer is not None
            # With no file left it may lack one for the store.
            assert answer.status in (201, 503)
            acknowledged |= {answer.key} if answer.status == 201 else set()
        acknowledged.add(rig.upload(make.png(), service.url).key)
        assert psutil.Process(service.pid).children() == [worker]


@pytest.mark.beside_minio("no store takes part, so once is enough")
def test_the_limit_of_open_files_is_raised(rig: Rig, acknowledged: set[str], tmp_path: Path) -> None:
    """Many systems allow a process 1024 open files unless it asks for more, which 500 uploads per worker need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        with rig.another_service(tmp_path) as service:
            for worker in psutil.Process(service.pid).children():
                assert worker.rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
