"""Connection pools for outgoing calls whose answer must be complete before a deadline.

urllib3's read timeout bounds each wait for a byte, so a peer that sends one byte at a time never runs into it. Here
the read timeout of a call bounds its whole answer, from the end of the request to the last byte that is read.
"""

import io
import socket
import time
from http.client import HTTPResponse

import urllib3


class _UntilDeadline(io.RawIOBase):
    """Reads a socket's file, giving each read only the time that is left; raises TimeoutError after that."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]  # typeshed's Buffer is 3.12's
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the answer was not complete in time")
        self._sock.settimeout(remaining)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Deadlined:
    """Mixed into urllib3's connections: answers are read under a deadline that starts when they are asked for."""

    def getresponse(self) -> urllib3.HTTPResponse:
        # urllib3 puts the call's read timeout here before it asks for the answer.
        deadline = time.monotonic() + self.timeout  # type: ignore[attr-defined]

        answers: list[HTTPResponse] = []

        def answer(sock: socket.socket, *args: object, **kwargs: object) -> HTTPResponse:
            response = HTTPResponse(sock, *args, **kwargs)  # type: ignore[arg-type]
            response.fp = io.BufferedReader(_UntilDeadline(sock, deadline))
            answers.append(response)
            return response

        self.response_class = answer
        try:
            return super().getresponse()  # type: ignore[misc,no-any-return]
        except BaseException:
            for response in answers:
                response.close()  # urllib3 forgets an answer whose Content-Length makes no sense, and with it the socket
            raise


class _HTTPConnection(_Deadlined, urllib3.connection.HTTPConnection):  # type: ignore[misc]  # urllib3 types its own
    pass


class _HTTPSConnection(_Deadlined, urllib3.connection.HTTPSConnection):  # type: ignore[misc]  # as above
    pass


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class PoolManager(urllib3.PoolManager):
    """urllib3's pool manager, over connections that keep the deadline. Every call must state a timeout."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
