"""Many slow uploads from one process of their own, so that the clocks of a test are not held up by them."""

import multiprocessing
import selectors
import socket
import time
from collections import Counter
from dataclasses import dataclass

from rawclient import body_of, connect, head_for, picture


@dataclass
class _Client:
    sock: socket.socket
    rest: bytes
    answer: bytes = b""


def upload_slowly(url: str, count: int, size: int, seconds: float) -> Counter[str]:
    """Uploads `count` pictures of `size` bytes at once, each in pieces over `seconds`; how often each status line came."""
    body = body_of(picture(size))
    message = head_for(len(body)) + body
    piece = len(message) // int(seconds * 2) + 1
    selector = selectors.DefaultSelector()
    clients = []
    for _ in range(count):
        clients.append(_Client(connect(url), message))
        selector.register(clients[-1].sock, selectors.EVENT_READ, clients[-1])
    began, tick = time.monotonic(), 0
    while selector.get_map() and time.monotonic() < began + seconds + 30:
        if time.monotonic() >= began + tick * 0.5:
            tick += 1
            for client in clients:
                if not client.answer:
                    client.sock.sendall(client.rest[:piece])
                    client.rest = client.rest[piece:]
        for key, _ in selector.select(0.05):
            key.data.answer += (data := key.data.sock.recv(65_536)) or b"\r\n"
            if b"\r\n" in key.data.answer or not data:
                selector.unregister(key.data.sock)
    for client in clients:
        client.sock.close()
    return Counter(client.answer.partition(b"\r\n")[0].decode() or "no answer" for client in clients)


def _run(url: str, count: int, size: int, seconds: float, results: "multiprocessing.SimpleQueue[Counter[str]]") -> None:
    results.put(upload_slowly(url, count, size, seconds))


class Crowd:
    """`upload_slowly` in another process."""

    def __init__(self, url: str, count: int, size: int, seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._results = context.SimpleQueue()
        self._process = context.Process(target=_run, args=(url, count, size, seconds, self._results))
        self._process.start()

    def statuses(self) -> Counter[str]:
        """Waits for the end."""
        found: Counter[str] = self._results.get()
        self._process.join()
        self._process.close()
        self._results.close()
        return found
