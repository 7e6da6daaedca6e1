"""Requests that no honest client sends, by raw sockets: never 5xx, never more than a second, never 20 MB more in a worker."""

import contextlib
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

import servers
from live import Audit, Live, on_every_server
from pictures import make

pytestmark = on_every_server("seaweedfs")  # none of this gets as far as a store

MIB = 1_048_576
SECONDS = 1.0
GROWTH = 20 * MIB
ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3}) ")

HEAD = b"POST /media/upload HTTP/1.1\r\nHost: x\r\nCookie: session=alice\r\nContent-Type: multipart/form-data; boundary=B\r\n"
END = b"--B--\r\n"


def part(disposition: bytes, content: bytes = b"", more: bytes = b"") -> bytes:
    return b"--B\r\nContent-Disposition: form-data; " + disposition + b"\r\n" + more + b"\r\n" + content + b"\r\n"


GOOD = part(b'name="file"; filename="a.png"', make.png()) + END


@dataclass
class Seen:
    """What came back, and after how many seconds."""

    answer: bytes
    seconds: float

    @property
    def statuses(self) -> list[int]:
        """Of every answer: what was smuggled in would have one of its own."""
        return [int(status) for status in ANSWER.findall(self.answer)]


def say(live: Live, request: bytes) -> Seen:
    """Sends these bytes and nothing more, and reads until the server closes. Fails when it does not."""
    host, _, port = live.url.removeprefix("http://").partition(":")
    answer = b""
    began = time.perf_counter()
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        with contextlib.suppress(OSError):  # being cut off while sending is an answer too
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while piece := sock.recv(65_536):
                answer += piece
    return Seen(answer, time.perf_counter() - began)


def abuse(live: Live, request: bytes) -> Seen:
    """`say`, and what holds for everything in this file: an answer or a closed connection, no 5xx, in time."""
    seen = say(live, request)
    if seen.seconds > SECONDS:  # the machine may have been busy, which would not happen twice
        seen = say(live, request)
    assert seen.seconds <= SECONDS, seen.seconds
    assert not [status for status in seen.statuses if status >= 500], seen.answer[:300]
    return seen


def workers(live: Live) -> list[psutil.Process]:
    service = psutil.Process(live.service.pid)
    return service.children() or [service]


@pytest.fixture(autouse=True, scope="module")
def warm(live: Live) -> None:
    """Every worker has served uploads, large ones too, so that what they need is there before it is measured."""
    for _ in range(12):
        assert live.upload(make.png(after=b"x" * 5 * MIB)).status_code == 201


@pytest.fixture(autouse=True)
def flat(live: Live, warm: None) -> Iterator[None]:
    """Looks at the workers' memory every few milliseconds of a test, and at the next upload and the log after it."""
    found = workers(live)
    base = {worker.pid: worker.memory_info().rss for worker in found}
    peak = dict(base)
    over = threading.Event()
    lines = len(live.service.log_lines())

    def look() -> None:
        while not over.wait(0.005):
            for worker in found:
                peak[worker.pid] = max(peak[worker.pid], worker.memory_info().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert {worker.pid for worker in workers(live)} == set(base), "a worker was replaced"
    assert max(peak[pid] - base[pid] for pid in base) < GROWTH, (base, peak)
    assert live.upload(make.png()).status_code == 201
    assert not [line for line in live.service.log_lines()[lines:] if line["level"] == "error" or "exception" in line]


# --- which bytes are the body ---

CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)
FRAMINGS = {
    "length, then chunked": b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(GOOD) + CHUNKED,
    "chunked, then length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + CHUNKED,
    "the same length twice": (b"Content-Length: %d\r\n" % len(GOOD)) * 2 + b"\r\n" + GOOD,
    "two lengths": b"Content-Length: %d\r\nContent-Length: 5\r\n\r\n" % len(GOOD) + GOOD,
    "two lengths in one": b"Content-Length: %d, %d\r\n\r\n" % (len(GOOD), len(GOOD)) + GOOD,
    "a negative length": b"Content-Length: -1\r\n\r\n" + GOOD,
    "a length with a sign": b"Content-Length: +%d\r\n\r\n" % len(GOOD) + GOOD,
    "a hexadecimal length": b"Content-Length: 0x%x\r\n\r\n" % len(GOOD) + GOOD,
    "a length with an underscore": b"Content-Length: 1_0\r\n\r\n" + GOOD,
    "a length with a space in it": b"Content-Length: 1 0\r\n\r\n" + GOOD,
    "a length in other digits": "Content-Length: \u0661\u0660\r\n\r\n".encode() + GOOD,
    "an empty length": b"Content-Length: \r\n\r\n" + GOOD,
    "a length of 5000 digits": b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n" + GOOD,
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKED,
    "chunked in two headers": b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n" + CHUNKED,
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "compressed chunks": b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "chunked not last": b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "no coding": b"Transfer-Encoding: identity\r\n\r\n" + CHUNKED,
    "an empty coding": b"Transfer-Encoding: \r\n\r\n" + CHUNKED,
    "a coding in quotes": b'Transfer-Encoding: "chunked"\r\n\r\n' + CHUNKED,
    "a coding behind a vertical tab": b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKED,
    "a coding behind a NUL": b"Transfer-Encoding: \0chunked\r\n\r\n" + CHUNKED,
    "a space before the colon": b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED,
    "a tab before the colon": b"Content-Length\t: %d\r\n\r\n" % len(GOOD) + GOOD,
    "a folded coding": b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKED,
    "a folded length": b"Content-Length: 1\r\n 0\r\n\r\n" + GOOD,
    "a coding behind a bare carriage return": b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
}


@pytest.mark.parametrize("name", FRAMINGS)
def test_a_body_of_doubtful_length_is_refused(live: Live, audit: Audit, name: str) -> None:
    """400 and a closed connection: nothing is stored, and what another server took for the next request is not one here."""
    hidden = uuid.uuid4().hex
    seen = abuse(live, HEAD + FRAMINGS[name] + b"GET /media/%s HTTP/1.1\r\nHost: x\r\n\r\n" % hidden.encode())
    assert len(seen.statuses) == 1
    assert 400 <= seen.statuses[0] < 500
    assert not audit.new_keys()
    assert hidden not in live.service.log_file.read_text(encoding="utf-8")


@pytest.mark.not_on("werkzeug", reason="it closes each connection after its answer")
def test_an_honest_body_is_followed_by_the_next_request(live: Live) -> None:
    """What the tests above would see if something got through: both requests are answered."""
    following = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for framing in (b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD, b"Transfer-Encoding: Chunked\r\n\r\n" + CHUNKED):
        assert abuse(live, HEAD + framing + following).statuses == [201, 200]


@pytest.mark.not_on("werkzeug", reason="it closes each connection after its answer")
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_requests_that_come_in_one_piece_are_all_answered(live: Live, framing: str) -> None:
    """What was read together with the body before it waits for nobody: the client need not say more, nor close."""
    first = b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD if framing == "length" else b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED
    requests_ = HEAD + first + b"GET /media/limits HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    host, _, port = live.url.removeprefix("http://").partition(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=2) as sock:
        sock.sendall(requests_)
        with contextlib.suppress(TimeoutError):
            while not answer.endswith(b"ok\n") and (piece := sock.recv(65_536)):
                answer += piece
    assert Seen(answer, 0).statuses == [201, 200, 200]


CHUNKS = {
    "a negative size": b"-1\r\nx\r\n0\r\n\r\n",
    "no hexadecimal": b"zz\r\nx\r\n0\r\n\r\n",
    "a size with 0x": b"0x5\r\nabcde\r\n0\r\n\r\n",
    "a size with an underscore": b"1_0\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n",
    "a size with a plus": b"+5\r\nabcde\r\n0\r\n\r\n",
    "a size with a space": b" 5\r\nabcde\r\n0\r\n\r\n",
    "an empty size": b"\r\nabcde\r\n0\r\n\r\n",
    "a NUL in the size": b"5\0\r\nabcde\r\n0\r\n\r\n",
    "a size of 64 bits and more": b"fffffffffffffffff\r\nabcde\r\n0\r\n\r\n",
    "a size of 100 KB": b"0" * 100_000 + b"5\r\nabcde\r\n0\r\n\r\n",
    "a size without an end": b"5" * 30_000_000,
    "line feeds alone": b"5\nabcde\n0\n\n",
    "a chunk longer than its size": b"3\r\nabcdef\r\n0\r\n\r\n",
    "a chunk shorter than its size": b"9\r\nabc\r\n0\r\n\r\n",
    "an extension without an end": b"5;" + b"x" * 30_000_000,
    "a trailer without a colon": b"0\r\nbad trailer\r\n\r\n",
    "trailers without an end": b"0\r\n" + b"A: b\r\n" * 5_000_000,
    "one byte a chunk": b"".join(b"1\r\n%c\r\n" % byte for byte in part(b'name="f"', b"x" * 50_000)) + b"0\r\n\r\n",
    "cut": b"5\r\nab",
    "only the end": b"0\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", CHUNKS)
@pytest.mark.parametrize("user", ["alice", pytest.param("nobody", marks=pytest.mark.not_on("waitress", reason="it reads the body first"))])
def test_bad_chunks_are_refused(live: Live, audit: Audit, name: str, user: str) -> None:
    """400, or 401 and the rest is thrown away, at the latest when the client has no more to say; nothing is stored."""
    head = HEAD.replace(b"alice", user.encode())
    seen = abuse(live, head + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS[name])
    assert set(seen.statuses) <= {400 if user == "alice" else 401}
    assert len(seen.statuses) <= 1
    assert not audit.new_keys()


# --- request lines and headers ---

LENGTH = b"Content-Length: %d\r\n" % len(GOOD)
REQUESTS = {
    "a cookie of 64 KiB": HEAD.replace(b"alice", b"alice; x=" + b"y" * 65_536) + LENGTH + b"\r\n" + GOOD,
    "a NUL in the cookie": HEAD.replace(b"alice", b"alice\0") + LENGTH + b"\r\n" + GOOD,
    "a line feed in the cookie": HEAD.replace(b"alice", b"alice\nX: y") + LENGTH + b"\r\n" + GOOD,
    "a carriage return in the cookie": HEAD.replace(b"alice", b"alice\rX: y") + LENGTH + b"\r\n" + GOOD,
    "a folded cookie": HEAD.replace(b"alice", b"alice;\r\n x=y") + LENGTH + b"\r\n" + GOOD,
    "a header of 64 KiB": HEAD + LENGTH + b"X: " + b"y" * 65_536 + b"\r\n\r\n" + GOOD,
    "500 headers": HEAD + LENGTH + b"".join(b"X-%d: y\r\n" % number for number in range(500)) + b"\r\n" + GOOD,
    "headers of 3 MB": HEAD + LENGTH + b"X: y\r\n" * 500_000 + b"\r\n" + GOOD,
    "a header without an end": HEAD + b"X: " + b"y" * 3_000_000,
    "a header without a colon": HEAD + LENGTH + b"nonsense\r\n\r\n" + GOOD,
    "a header without a name": HEAD + LENGTH + b": y\r\n\r\n" + GOOD,
    "a NUL in a header's name": HEAD + LENGTH + b"X\0: y\r\n\r\n" + GOOD,
    "a request line of 100 KB": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method of 10 KB": b"G" * 10_000 + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method of odd letters": b"GE\xffT / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "another version": b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,
    "NULs": b"\0" * 100_000,
    "line ends": b"\r\n" * 100_000,
    "a proxy's request": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "a PROXY line": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a prefix that the caller chose": b"GET /x/healthz HTTP/1.1\r\nHost: x\r\nSCRIPT_NAME: /x\r\n\r\n",
    "a NUL in the target": b"GET /media/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "odd bytes in the target": b"GET /media/\xff\xfe\x80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a target of dots": b"GET " + b"/.." * 1000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "broken escapes in the target": b"GET /media/%zz%f HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_that_no_client_sends(live: Live, audit: Audit, name: str) -> None:
    """A 4xx, or at the least a closed connection; nothing is stored."""
    seen = abuse(live, REQUESTS[name])
    assert all(400 <= status < 500 for status in seen.statuses), seen.answer[:300]
    assert not audit.new_keys()


TOLERATED = {
    "an unusual host": b"GET /healthz HTTP/1.1\r\nHost: a b\x80'\"<>\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: evil.example\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "a whole URL": b"GET http://evil.example/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "a cookie beyond ASCII": HEAD.replace(b"alice", b"alice\xff\xfe") + LENGTH + b"\r\n" + GOOD,
    "a cookie of quotes": HEAD.replace(b"alice", b'"a\\"; session=alice') + LENGTH + b"\r\n" + GOOD,
    "a body with GET": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + LENGTH + b"\r\n" + GOOD,
    "an impossible expectation": HEAD + LENGTH + b"Expect: the-spanish-inquisition\r\n\r\n" + GOOD,
    "an upgrade": b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "an unusual content type": HEAD.replace(b"boundary=B", b"boundary=\"B\"; charset='x; boundary*=utf-8''B") + LENGTH + b"\r\n" + GOOD,
    "a scheme from outside": HEAD + LENGTH + b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: on\r\n\r\n" + GOOD,
    "a path from outside": HEAD + LENGTH + b"Script-Name: /x\r\nSCRIPT_NAME: /x\r\n\r\n" + GOOD,
    "a method from outside": HEAD + LENGTH + b"X-HTTP-Method-Override: DELETE\r\n\r\n" + GOOD,
}


@pytest.mark.parametrize("name", TOLERATED)
def test_requests_that_are_only_odd(live: Live, name: str) -> None:
    """They may work or be refused, but there is no defect, and none leads to another host."""
    seen = abuse(live, TOLERATED[name])
    assert seen.statuses
    assert b"evil.example" not in seen.answer


# --- the parts of a multipart body ---

parser_alone = pytest.mark.on_one_server("the parser is the same behind every server")


def upload(live: Live, body: bytes) -> Seen:
    """One upload of these bytes."""
    return abuse(live, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


FILE = part(b'name="file"; filename="a.png"', make.png())
BODIES = {
    "10,000 parts": part(b'name="f"', b"x") * 10_000 + FILE + END,
    "10,000 empty parts": b"--B\r\n\r\n\r\n" * 10_000 + END,
    "900 file parts": FILE * 900 + END,
    "900 file parts of other names": part(b'name="other"; filename="a.png"', make.png()) * 900 + END,
    "part headers of 600 KB": part(b'name="file"; filename="a.png"', make.png(), b"X: " + b"y" * 600_000 + b"\r\n") + END,
    "a name of 600 KB": part(b'name="file"; filename="' + b"n" * 600_000 + b'"', make.png()) + END,
    "20,000 part headers": part(b'name="file"; filename="a.png"', make.png(), b"X: y\r\n" * 20_000) + END,
    "20,000 dispositions": part(b'name="file"; filename="a.png"', make.png(), b"Content-Disposition: form-data\r\n" * 20_000) + END,
    "20,000 parameters": part(b'name="file"' + b'; filename="a.png"' * 20_000, make.png()) + END,
    "a parameter of semicolons": part(b'name="file"; filename="a.png"' + b";" * 60_000, make.png()) + END,
    "a parameter of backslashes": part(b'name="file"; filename="' + b'\\"' * 30_000, make.png()) + END,
    "a text field of 2 MB": part(b'name="f"', b"x" * 2_000_000) + FILE + END,
    "a text field of 2 MB behind the file": FILE + part(b'name="f"', b"x" * 2_000_000) + END,
    "9 MB in front of the first boundary": b"\r\n" * 4_500_000 + FILE + END,
    "9 MB behind the last": FILE + END + b"\r\n" * 4_500_000,
    "9 MB of nothing that it should be": b"x" * 9_000_000,
    "9 MB of the boundary": part(b'name="file"; filename="a.png"', make.png(after=b"\r\n--B\r" * 1_280_000)) + END,
}


@parser_alone
@pytest.mark.parametrize("name", BODIES)
def test_multipart_bodies_that_only_cost(live: Live, audit: Audit, name: str) -> None:
    """400, as soon as it is too much; nothing is stored."""
    assert upload(live, BODIES[name]).statuses == [400]
    assert not audit.new_keys()


FILLERS = {
    "no line break": b"x",
    "carriage returns": b"\r",
    "line ends": b"\r\n",
    "hyphens": b"-",
    "the beginning of a boundary": b"\r\n--",
    "most of a boundary": b"\r\n--A",
    "boundaries of others": b"\r\n--C\r\n",
}


@parser_alone
@pytest.mark.parametrize("name", FILLERS)
def test_files_that_look_like_boundaries(live: Live, audit: Audit, name: str) -> None:
    """9 MB that give the parser the most to do are an upload as any other."""
    filler = FILLERS[name]
    content = make.png(after=filler * (9_000_000 // len(filler)) + b"x")
    body = part(b'name="file"; filename="a.png"', content) + END
    assert upload(live, body).statuses == [201]
    (key,) = audit.new_keys()
    assert live.stored(key).content == content


@parser_alone
def test_a_body_whose_boundary_is_made_of_hyphens(live: Live, audit: Audit) -> None:
    """The longest boundary, of the character that it is led in by, in a file of nothing else."""
    boundary = b"-" * 69 + b"x"
    content = make.png(after=b"\r\n" + b"-" * 9_000_000)
    head = HEAD.replace(b"boundary=B", b"boundary=" + boundary)
    body = (part(b'name="file"; filename="a.png"', content) + END).replace(b"--B", b"--" + boundary)
    seen = abuse(live, head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert seen.statuses == [201]
    assert len(audit.new_keys()) == 1


NAMES = {
    "a NUL": b'filename="NAME\0.png"',
    "a line end": b'filename="NAME\r\nX-Evil: y.png"',
    "an escaped line end": b'filename="NAME%0d%0aX-Evil: y.png"',
    "a line feed": b'filename="NAME\n.png"',
    "a carriage return": b'filename="NAME\r.png"',
    "ESC": b'filename="NAME\x1b[31m.png"',
    "right to left": 'filename="NAME\u202egnp.exe"'.encode(),
    "100 KB": b'filename="' + b"NAME" * 25_000 + b'"',
    "60 KB": b'filename="' + b"NAME" * 15_000 + b'"',
    "a path": b'filename="../../../etc/NAME.png"',
    "a Windows path": b'filename="C:\\\\NAME\\\\x.png"',
    "latin-1": b'filename="NAME\xe4\xf6\xfc.png"',
    "UTF-8": 'filename="NAME\u00e4\u4e16\u754c\U0001f600.png"'.encode(),
    "half of UTF-8": b'filename="NAME\xf0\x9f"',
    "filename*": b"filename*=utf-8''NAME%e2%82%ac.png",
    "filename* beside filename": b"filename=\"NAME.png\"; filename*=utf-8''NAME%0d%0a.html",
    "filename* of an unknown charset": b"filename*=evil''NAME%ff.png",
    "filename* in pieces": b'filename*0="NAME"; filename*1=".png"; filename="a.png"',
    "no quotes": b"filename=NAME",
    "one quote": b'filename="NAME',
    "empty": b'filename=""',
    "two": b'filename="NAME.png"; filename="NAME.html"',
    "HTML": b'filename="<script>NAME</script>.png"',
    "a format": b'filename="%s%n{0.__class__}NAME.png"',
}


@parser_alone
@pytest.mark.parametrize("name", NAMES)
def test_file_names_leave_no_trace(live: Live, audit: Audit, name: str) -> None:
    """201 or 400; what the name was is neither in the key nor in the answer, the log or what the store says of the object."""
    canary = f"canary-{uuid.uuid4().hex[:12]}".encode()
    disposition = NAMES[name] if len(NAMES[name]) > 50_000 else NAMES[name].replace(b"NAME", canary)
    seen = upload(live, part(b'name="file"; ' + disposition, make.png()) + END)
    assert seen.statuses in ([201], [400])
    text = seen.answer + live.service.log_file.read_bytes()
    for key in audit.new_keys():
        stored = live.stored(key)
        assert stored.content == make.png()
        assert stored.headers["Content-Type"] == "image/png"
        text += key.encode() + repr(dict(stored.headers)).encode()
    assert canary not in text
    assert b"X-Evil" not in text
    assert b"NAMENAME" not in text


@parser_alone
@pytest.mark.parametrize(
    "names", [b'name="file\0"', b'name="FILE"', b'name="fi\r\nle"', b"name*=utf-8''file", b'name=""', b"", b'name="../file"']
)
def test_field_names_that_are_not_file(live: Live, audit: Audit, names: bytes) -> None:
    """The field is called `file` and nothing like it."""
    assert upload(live, part(names + b'; filename="a.png"', make.png()) + END).statuses == [400]
    assert not audit.new_keys()


def spools(live: Live) -> list[str]:
    """The temporary files, deleted ones too, that a worker has open now."""
    found = []
    for worker in workers(live):
        for link in Path(f"/proc/{worker.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed in between
                found.append(str(link.readlink()))
    return [path for path in found if path.startswith(str(live.spool_folder)) and "wgunicorn" not in path]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are looked up in /proc")
@pytest.mark.not_on("waitress", reason="it keeps the whole body, on disk, before the application sees the request")
def test_strangers_fill_neither_memory_nor_disk(live: Live, audit: Audit) -> None:
    """A hundred bodies of 10 MB without a session that the backend knows: all are 401, and none of it is kept anywhere."""
    body = part(b'name="file"; filename="a.png"', make.png(after=bytes(10_000_000))) + END
    request = HEAD.replace(b"alice", b"mallory") + b"Content-Length: %d\r\n\r\n" % len(body) + body
    over = threading.Event()
    seen: list[str] = []

    def look() -> None:
        while not over.wait(0.005):
            seen.extend(spools(live))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            statuses = [answer.statuses for answer in pool.map(lambda _: say(live, request), range(100))]
        during_strangers = list(seen)
        assert abuse(live, request.replace(b"mallory", b"alice", 1)).statuses == [201]
    finally:
        over.set()
        watcher.join()
    assert statuses == [[401]] * 100
    assert not during_strangers
    assert seen, "an upload's own temporary file would have been seen"


def test_many_bad_requests_on_one_connection(live: Live) -> None:
    """A thousand refusals, pipelined: each is answered or the connection is closed, and the service goes on."""
    request = b"GET /media/nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    host, _, port = live.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(request * 1000)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := sock.recv(65_536):
            answer += piece
        assert set(ANSWER.findall(answer)) <= {b"404"}
    servers.wait_for(lambda: servers.answers(f"{live.url}/healthz"), 2)
