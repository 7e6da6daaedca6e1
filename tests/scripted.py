"""An HTTP server on loopback that answers as it is told, and ways to answer that no good server knows."""

import contextlib
import re
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """As it was received."""

    head: bytes
    body: bytes


Answer = bytes | Callable[[socket.socket, Request], bytes | None]


class Server(socketserver.ThreadingTCPServer):
    """Gives every request `answer`, or the next of `script` while there is one. Remembers the requests and counts connections.

    An answer is bytes, or a function of connection and request: it returns bytes, or writes for itself and hangs up.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.answer = answer
        self.script: list[Answer] = []
        self.requests: list[Request] = []
        self.connections = 0
        self.open = 0
        self.reads_body = True  # before it answers
        self.pause = 0.0  # seconds before each look at a body
        self.piece = 1 << 30  # bytes of a body, between two pauses
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def use_tls(self, certificate: Path) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = self.url.replace("http:", "https:")

    def next_answer(self) -> Answer:
        return self.script.pop(0) if self.script else self.answer


class _Conversation(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self.server.connections += 1
        self.server.open += 1
        with contextlib.suppress(OSError):
            while request := self._request():
                self.server.requests.append(request)
                answer = self.server.next_answer()
                data = answer(self.connection, request) if callable(answer) else answer
                if data is None:
                    break
                self.wfile.write(data)
        self.server.open -= 1

    def _request(self) -> Request | None:
        """The next request; None when the connection ends before or in it."""
        lines = [self.rfile.readline()]
        while lines[-1].strip():
            lines.append(self.rfile.readline())
        head, body = b"".join(lines), b""
        length = re.search(rb"(?i)\r\nContent-Length: ([0-9]+)\r\n", head)
        left = int(length[1]) if length and self.server.reads_body else 0
        while left:
            time.sleep(self.server.pause)
            piece = self.rfile.read(min(left, self.server.piece))
            if not piece:
                return None
            body += piece
            left -= len(piece)
        return Request(head, body) if lines[-1] else None


@contextmanager
def serving(answer: Answer, certificate: Path | None = None) -> Iterator[Server]:
    """A server that runs while the context lasts; over TLS when it gets a certificate with its key."""
    with Server(answer) as server:
        if certificate:
            server.use_tls(certificate)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def whole(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with its length."""
    return b"\r\n".join([b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers, b"", body])


def in_chunks(*pieces: bytes) -> bytes:
    """An answer with one chunk for each piece."""
    return b"".join(
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces), b"0\r\n\r\n"]
    )


def ending(answer: bytes) -> Answer:
    """Writes the bytes and hangs up."""
    return lambda sock, _: sock.sendall(answer)


def trickle(at_once: bytes, slowly: bytes) -> Answer:
    """Writes the first bytes, then one every 50 ms: each in time for a timeout that bounds the wait for the next byte only."""

    def answer(sock: socket.socket, _request: Request) -> None:
        sock.sendall(at_once)
        for byte in slowly:
            time.sleep(0.05)
            sock.sendall(bytes([byte]))

    return answer


def after(seconds: float, answer: bytes) -> Answer:
    """Waits before it writes and hangs up."""

    def write(sock: socket.socket, _request: Request) -> None:
        time.sleep(seconds)
        sock.sendall(answer)

    return write


def stop(at_once: bytes) -> Answer:
    """Writes the first bytes and then nothing more, on a connection that stays open for as long as the client wants."""

    def answer(sock: socket.socket, _request: Request) -> None:
        sock.sendall(at_once)
        sock.settimeout(10)
        sock.recv(1)

    return answer
