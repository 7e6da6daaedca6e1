"""The connection pools' deadline: an answer is whole in time, or the call fails in time."""

import contextlib
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from media_storage.deadline import PoolManager

TIMEOUT = 0.3
LATE = 1.5  # no call with TIMEOUT may take this long, on a busy machine either
BIG = bytes(range(256)) * 20_000  # 5 MB

Answer = bytes | Callable[[socket.socket], None]


class Peer(socketserver.ThreadingTCPServer):
    """Answers every request with the same bytes, or as a function writes them and hangs up; counts its connections."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.answer = answer
        self.connections = 0
        self.left = threading.Event()  # a client has closed its connection
        self.reads_after = 0.0  # seconds between a request's header and the first look at its body
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"


class _Conversation(socketserver.StreamRequestHandler):
    server: Peer

    def handle(self) -> None:
        self.server.connections += 1
        with contextlib.suppress(OSError):
            while self._request():
                if callable(self.server.answer):
                    self.server.answer(self.connection)
                    return
                self.wfile.write(self.server.answer)
            self.server.left.set()

    def _request(self) -> bool:
        """Reads one request with its body, if there is one."""
        length, line = 0, self.rfile.readline()
        while line.strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
            line = self.rfile.readline()
        time.sleep(self.server.reads_after)
        return line != b"" and len(self.rfile.read(length)) == length


@contextlib.contextmanager
def peer(answer: Answer) -> Iterator[Peer]:
    with Peer(answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def pool() -> Iterator[PoolManager]:
    """The pools under test, without retries, as the adapters use them."""
    with PoolManager(retries=False) as manager:
        yield manager


def whole(body: bytes, *headers: bytes) -> bytes:
    """An answer with its length."""
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers, b"", body])


def trickle(at_once: bytes, slowly: bytes) -> Callable[[socket.socket], None]:
    """Writes the first bytes, then one every 50 ms: each in time for a timeout that bounds the wait for the next byte only."""

    def answer(sock: socket.socket) -> None:
        sock.sendall(at_once)
        for byte in slowly:
            time.sleep(0.05)
            sock.sendall(bytes([byte]))

    return answer


def after(seconds: float, answer: bytes) -> Callable[[socket.socket], None]:
    """Waits before it writes."""

    def write(sock: socket.socket) -> None:
        time.sleep(seconds)
        sock.sendall(answer)

    return write


def stop(at_once: bytes) -> Callable[[socket.socket], None]:
    """Writes the first bytes and then nothing more, on an open connection."""

    def answer(sock: socket.socket) -> None:
        sock.sendall(at_once)
        time.sleep(3)

    return answer


def read(pool: PoolManager, url: str, seconds: float = TIMEOUT) -> bytes:
    answer = pool.request("GET", url, timeout=urllib3.Timeout(seconds), preload_content=False)
    body: bytes = answer.read()
    answer.release_conn()
    return body


SLOW: dict[str, Answer] = {
    "nothing": stop(b""),
    "status line": trickle(b"", b"HTTP/1.1 200 OK" + b"!" * 100),
    "headers": trickle(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 20),
    "one long header": trickle(b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 100),
    "interim answers": trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 5),
    "body": trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"a" * 100),
    "body without a length": trickle(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 100),
    "chunks": trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n" * 20),
    "all but the last byte": stop(whole(BIG)[:-1]),
}


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW)
def test_a_slow_answer_is_cut_at_the_deadline(pool: PoolManager, answer: Answer) -> None:
    """Wherever an answer trickles or stops, the call ends in a timeout when its time is over."""
    with peer(answer) as server:
        began = time.monotonic()
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            read(pool, server.url)
        assert TIMEOUT * 0.9 < time.monotonic() - began < LATE


def test_every_read_of_a_stream_counts(pool: PoolManager) -> None:
    """A caller that takes a body piece by piece has the same deadline for all of it."""
    with peer(trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"a" * 100)) as server:
        began = time.monotonic()
        answer = pool.request("GET", server.url, timeout=TIMEOUT, preload_content=False)
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            list(answer.stream(1))
        assert time.monotonic() - began < LATE


def test_an_answer_in_time_may_trickle(pool: PoolManager) -> None:
    """Slow is not late: an answer in small pieces that is whole before the deadline is taken."""
    with peer(trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"abcd")) as server:
        assert read(pool, server.url, 10) == b"abcd"


@pytest.mark.parametrize("body", [b"", b"a", b"a" * 8192, BIG], ids=len)
def test_connections_are_reused(pool: PoolManager, body: bytes) -> None:
    """After a complete answer of any size the connection serves the next call, and the bytes are right."""
    with peer(whole(body)) as server:
        for _ in range(5):
            assert read(pool, server.url, 10) == body
        assert server.connections == 1


def test_chunked_answers(pool: PoolManager) -> None:
    """Chunks are joined, and the connection is reused behind the last one."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (b"a", BIG, b"b"))
    with peer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n") as server:
        for _ in range(3):
            assert read(pool, server.url, 10) == b"a" + BIG + b"b"
        assert server.connections == 1


def test_a_server_that_closes_after_each_answer(pool: PoolManager) -> None:
    """Connection: close is heeded; the next call opens a connection of its own."""
    with peer(after(0, whole(b"ok", b"Connection: close"))) as server:
        assert [read(pool, server.url) for _ in range(3)] == [b"ok"] * 3
        assert server.connections == 3


def test_each_call_has_a_deadline_of_its_own(pool: PoolManager) -> None:
    """The time that a first call used or left on a pooled connection says nothing about the next one."""
    with peer(whole(b"ok")) as server:
        assert read(pool, server.url, TIMEOUT) == b"ok"
        time.sleep(2 * TIMEOUT)
        assert read(pool, server.url, TIMEOUT) == b"ok"
        server.answer = after(2 * TIMEOUT, whole(b"late"))
        assert read(pool, server.url, 10) == b"late"
        assert server.connections == 1


def test_a_short_call_does_not_shorten_the_sending_of_the_next(pool: PoolManager) -> None:
    """A large body may go out over a connection whose last call had little time, to a server that reads late."""
    with peer(whole(b"ok")) as server:
        assert read(pool, server.url, TIMEOUT) == b"ok"
        server.reads_after = 2 * TIMEOUT
        assert pool.request("PUT", server.url, body=BIG * 4, timeout=10).data == b"ok"
        assert server.connections == 1


def test_a_connection_that_ran_out_of_time_is_not_reused(pool: PoolManager) -> None:
    """The rest of a late answer cannot become the answer to somebody else's call."""
    with peer(after(2 * TIMEOUT, whole(b"somebody's"))) as server:
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            read(pool, server.url, TIMEOUT)
        server.answer = whole(b"mine")
        assert read(pool, server.url, 10) == b"mine"
        assert server.connections == 2


def test_a_closed_port_fails_at_once(pool: PoolManager) -> None:
    """Nobody there is an error of its own, not a timeout."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        read(pool, f"http://127.0.0.1:{port}/", 10)


def test_a_cut_answer_is_no_answer(pool: PoolManager) -> None:
    """A body that ends before its length is an error, and not a shorter body."""
    with peer(after(0, whole(BIG)[:-1])) as server, pytest.raises(urllib3.exceptions.ProtocolError):
        read(pool, server.url, 10)


def test_an_answer_that_urllib3_refuses_leaves_no_connection(pool: PoolManager) -> None:
    """A header that makes no sense closes the connection at once, however long the error is kept."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nab"
    with peer(answer) as server, pytest.raises(urllib3.exceptions.InvalidHeader) as caught:
        read(pool, server.url, 10)
    assert server.left.wait(LATE)
    assert caught.value


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that it signs itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.mark.parametrize(("answer", "in_time"), [(whole(BIG), True), (trickle(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 90), False)])
def test_the_deadline_holds_over_tls(certificate: Path, answer: Answer, in_time: bool) -> None:
    """An https store or backend is bounded like one without; and its certificate is checked."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with peer(answer) as server, PoolManager(retries=False, ca_certs=str(certificate)) as pool:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        if in_time:
            assert pool.request("GET", url, timeout=10).data == BIG
            with PoolManager(retries=False) as distrustful, pytest.raises(urllib3.exceptions.SSLError):
                distrustful.request("GET", url, timeout=10)
        else:
            began = time.monotonic()
            with pytest.raises(urllib3.exceptions.ReadTimeoutError):
                pool.request("GET", url, timeout=TIMEOUT)
            assert time.monotonic() - began < LATE
