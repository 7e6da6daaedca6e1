"""The store adapter: one checked PUT, and what it makes of a store that fails. Real stores are in tests/e2e."""

import base64
import contextlib
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import servers
from media_storage import settings, storage
from media_storage.errors import StoreUnavailable
from media_storage.storage import Store, public_read_policy

KEY = "uploads/7/6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f.png"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
GONE = b"HTTP/1.1 204 No Content\r\n\r\n"


class ScriptedStore:
    """Answers each connection's requests by a script; remembers what was asked."""

    def __init__(self, script: Callable[[int, bytes], bytes | None]) -> None:
        self.requests: list[tuple[bytes, bytes]] = []  # first line, head
        self.bodies: list[int] = []
        self.connections = 0
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._open.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock, sock.makefile("rb") as file:
            while line := file.readline():
                head = b""
                while (header := file.readline()) not in (b"\r\n", b""):
                    head += header
                length = int(next((h.split(b":")[1] for h in head.lower().splitlines() if h.startswith(b"content-length")), b"0"))
                self.requests.append((line.strip(), head))
                answer = self._script(len(self.requests), line)
                if answer is None:
                    return
                self.bodies.append(len(file.read(length)))
                sock.sendall(answer)


@contextlib.contextmanager
def scripted(script: Callable[[int, bytes], bytes | None], seconds: str = "0.5") -> Iterator[tuple[ScriptedStore, Store]]:
    server = ScriptedStore(script)
    environ = {
        "PUBLIC_BASE_URL": "http://localhost:9101",
        "MINIO_ENDPOINT": server.endpoint,
        "MINIO_ACCESS_KEY": "access",
        "MINIO_SECRET_KEY": "secret",
        "STORE_TIMEOUT_SECONDS": seconds,
    }
    try:
        yield server, Store(settings.load(environ, dotenv=Path("nowhere")))
    finally:
        server.close()


def put(store: Store, content: bytes = b"content") -> None:
    file = io.BytesIO(content)
    file.seek(3)  # wherever the file stands
    store.put(KEY, file, len(content), zlib.crc32(content), "image/png")


def test_a_put_is_one_signed_request_with_length_and_checksum() -> None:
    """One request, with what the store needs to verify the body and what browsers need to cache and type it."""
    with scripted(lambda *_: OK) as (server, store):
        put(store)
    ((line, head),) = server.requests
    assert line == f"PUT /irc-media/{KEY} HTTP/1.1".encode()
    headers = {name.lower(): value.strip() for name, _, value in (h.partition(b":") for h in head.splitlines())}
    assert headers[b"content-length"] == b"7"
    assert headers[b"content-type"] == b"image/png"
    assert headers[b"cache-control"] == b"public, max-age=31536000, immutable"
    assert base64.b64decode(headers[b"x-amz-checksum-crc32"]) == struct.pack(">I", zlib.crc32(b"content"))
    assert b"SignedHeaders=cache-control;content-length;content-type;host;x-amz-checksum-crc32" in headers[b"authorization"]
    assert b"transfer-encoding" not in headers
    assert server.bodies == [7]


def test_the_request_id_goes_along_unsigned() -> None:
    """On the PUT, on both tries of it, on what takes it back, and on a DELETE; a proxy may replace it without breaking the signature."""
    with scripted(lambda _, line: GONE if line.startswith(b"DELETE") else None) as (server, store):
        with pytest.raises(StoreUnavailable):
            store.put(KEY, io.BytesIO(b"content"), 7, zlib.crc32(b"content"), "image/png", request_id="request-1")
        store.delete(KEY, request_id="request-1")
        store.delete(KEY)
    assert [line.split()[0] for line, _ in server.requests] == [b"PUT", b"PUT", b"DELETE", b"DELETE", b"DELETE"]
    for _, head in server.requests[:-1]:
        assert b"\r\nX-Request-ID: request-1\r\n" in head
        assert b"request-id" not in head.lower().partition(b"signedheaders=")[2].partition(b",")[0]
    assert b"x-request-id" not in server.requests[-1][1].lower()  # doctor's: there is no request


def test_connections_are_kept() -> None:
    """Many puts, one connection."""
    with scripted(lambda *_: OK) as (server, store):
        for _ in range(5):
            put(store)
        assert server.connections == 1


def test_a_kept_connection_that_died_is_replaced_once() -> None:
    """The store closed it while idle, or just as the request came: the upload succeeds all the same."""
    with scripted(lambda number, _: None if number == 2 else OK) as (server, store):
        put(store)
        put(store)
        assert server.bodies == [7, 7]
        assert server.connections == 2


def test_a_store_that_keeps_hanging_up_is_unavailable() -> None:
    """Two tries, then 503, and the object that may exist is deleted."""
    with scripted(lambda _, line: GONE if line.startswith(b"DELETE") else None) as (server, store):
        with pytest.raises(StoreUnavailable):
            put(store)
        assert [line.split()[0] for line, _ in server.requests] == [b"PUT", b"PUT", b"DELETE"]


@pytest.mark.parametrize(("status", "deletes"), [("400 Bad Request", 0), ("403 Forbidden", 0), ("500 Oops", 1), ("507 Full", 1)])
def test_what_is_not_success_is_unavailable_and_sent_once(status: str, deletes: int) -> None:
    """No retry storm: the body goes out once. Only where the store may have committed is the object deleted."""
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 28\r\n\r\n<Error><Code>X</Code></Error".encode()
    with scripted(lambda _, line: GONE if line.startswith(b"DELETE") else answer) as (server, store):
        with pytest.raises(StoreUnavailable) as caught:
            put(store)
        assert "X" in caught.value.reason
        assert [line.split()[0] for line, _ in server.requests] == [b"PUT"] + [b"DELETE"] * deletes


def test_a_store_that_hangs_is_unavailable_in_time() -> None:
    """It accepts and never answers: the timeout, and two seconds for the deletion, bound the whole."""

    def hang(number: int, line: bytes) -> bytes:
        time.sleep(30 if line.startswith(b"PUT") else 0)
        return GONE

    with scripted(hang) as (server, store):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            put(store)
        assert time.monotonic() - began < 3
        servers.wait_for(lambda: server.requests[-1][0].startswith(b"DELETE"), 5)


def test_whoever_waits_for_a_turn_at_a_hanging_store_is_told_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one timeout after the other: the store is asked by as many as may ask at once, and the rest share their answer."""
    monkeypatch.setattr(storage, "PUTS_AT_ONCE", 2)

    def hang(_: int, line: bytes) -> bytes:
        time.sleep(30 if line.startswith(b"PUT") else 0)
        return GONE

    with scripted(hang) as (server, store), ThreadPoolExecutor(8) as threads:
        began = time.monotonic()
        ended = [threads.submit(put, store) for _ in range(8)]
        assert {type(one.exception()) for one in ended} == {StoreUnavailable}
        assert time.monotonic() - began < 1.5  # 0.5 s for one turn; for four turns 2 s
        assert sum(line.startswith(b"PUT") for line, _ in server.requests) == 2


def test_one_upload_that_hangs_does_not_refuse_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the store answers somebody, whoever waits goes on to ask, also when the one that hung has been given up."""
    monkeypatch.setattr(storage, "PUTS_AT_ONCE", 2)
    given_up = threading.Event()

    def hang_once(number: int, line: bytes) -> bytes:
        if line.startswith(b"DELETE"):
            given_up.set()
            return GONE
        if number == 1:
            time.sleep(30)
        elif number == 2:
            time.sleep(1)  # so that the next one has a second more than the first
        elif number == 3:
            given_up.wait(30)  # until then everybody else waits for a turn
        return OK

    with scripted(hang_once, seconds="2") as (_, store), ThreadPoolExecutor(8) as threads:
        ended = [threads.submit(put, store) for _ in range(8)]
        assert [one.exception() is None for one in ended].count(False) == 1


def test_an_answer_that_trickles_is_cut() -> None:
    """A byte now and then does not keep an upload waiting."""

    def trickle(_: int, line: bytes) -> bytes:
        return GONE if line.startswith(b"DELETE") else b""

    with scripted(trickle) as (server, store):
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.1):
                for sock in server._open[:1]:
                    with contextlib.suppress(OSError):
                        sock.send(b"H")

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            put(store)
        stop.set()
        thread.join()
        assert time.monotonic() - began < 3


def test_nobody_there_is_unavailable_at_once() -> None:
    """A closed port costs nothing, and nothing is deleted."""
    with scripted(lambda *_: OK) as (server, store):
        server.close()
        began = time.monotonic()
        for call in (lambda: put(store), lambda: store.delete(KEY), store.create_bucket, store.publish):
            with pytest.raises(StoreUnavailable):
                call()
        assert store.check(1) == "store"
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("status", "code", "wrong"),
    [
        ("404 Not Found", "NoSuchKey", ""),
        ("403 Forbidden", "AccessDenied", ""),
        ("404 Not Found", "NoSuchBucket", "bucket"),
        ("403 Forbidden", "SignatureDoesNotMatch", "store"),
        ("403 Forbidden", "InvalidAccessKeyId", "store"),
        ("503 Slow Down", "SlowDown", "store"),
        ("200 OK", "", "store"),
    ],
)
def test_the_store_is_asked_in_a_way_that_small_rights_allow(status: str, code: str, wrong: str) -> None:
    """A missing object proves that store, bucket and credentials work; each error is put where it belongs."""
    body = f"<Error><Code>{code}</Code></Error>".encode() if code else b"<html>"
    answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with scripted(lambda *_: answer) as (_, store):
        assert store.check(1) == wrong


def test_the_policy_gives_objects_and_nothing_else() -> None:
    """Only s3:GetObject, only below uploads/."""
    policy = public_read_policy("bucket")
    assert policy["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": {"AWS": ["*"]},
            "Action": ["s3:GetObject"],
            "Resource": ["arn:aws:s3:::bucket/uploads/*"],
        }
    ]
