"""What operators see: request ids, log lines that nobody can forge, phases, and readiness."""

import contextlib
import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from media_storage import ops, settings
from media_storage.auth import Backend
from media_storage.errors import BackendUnavailable
from media_storage.ops import Readiness, Trace
from media_storage.storage import Store

log = logging.getLogger("media_storage.test")


# --- request ids ---


@pytest.mark.parametrize(
    "offered", ["a", "request-1", "0190b0b4-7d2c-7c33-b1f1-f0d7a5e3a111", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "x" * 128]
)
def test_a_callers_id_is_kept(offered: str) -> None:
    """1 to 128 visible ASCII characters are the request's id as they are."""
    assert ops.request_id(offered) == offered


@pytest.mark.parametrize(
    "offered",
    [
        None,
        "",
        " ",
        "a b",
        " a",
        "a ",
        "a\n",
        "a\r\nX: y",
        "a\tb",
        "a\0",
        "\x1b[31m",
        "\x7f",
        "\x80",
        "é",
        "\u2028",
        "٣",
        "x" * 129,
        "x" * 100_000,
    ],
    ids=lambda offered: ascii(offered)[:20],
)
def test_any_other_id_is_replaced(offered: str | None) -> None:
    """Anything else is replaced by a fresh id that would itself be kept."""
    fresh = ops.request_id(offered)
    assert fresh != offered
    assert re.fullmatch(r"[\x21-\x7e]{1,128}", fresh)
    assert fresh != ops.request_id(offered)


# --- phases ---


def test_phases_are_timed() -> None:
    """Each phase has its milliseconds, in order, and not those of another one."""
    trace = Trace("request-1")
    with trace.phase("receive"):
        time.sleep(0.05)
    with trace.phase("store"):
        pass
    assert list(trace.phases) == ["receive", "store"]
    assert 50 <= trace.phases["receive"] < 1000
    assert 0 <= trace.phases["store"] < 50


def test_a_phase_that_fails_is_timed() -> None:
    """What a request died of is in its line too, and the error goes its way."""
    trace = Trace("request-1")
    with pytest.raises(KeyError), trace.phase("backend"):
        raise KeyError
    assert "backend" in trace.phases


# --- log lines ---


@pytest.fixture
def stderr() -> Iterator[io.StringIO]:
    """What a test's log is written to; logging is afterwards as it was before."""
    root = logging.getLogger()
    quiet = [logging.getLogger(name) for name in ("urllib3", "python_multipart")]
    handlers, raises, levels = root.handlers, logging.raiseExceptions, [logger.level for logger in (root, *quiet)]
    root.handlers = []  # pytest's own would be closed
    yield io.StringIO()
    root.handlers, logging.raiseExceptions = handlers, raises
    for logger, level in zip((root, *quiet), levels, strict=True):
        logger.setLevel(level)


def configure(stderr: io.StringIO, form: Any, level: str = "info") -> None:
    """Sets logging up as a process does whose standard error this is."""
    with contextlib.redirect_stderr(stderr):
        ops.configure_logging(form, level)


# Everything that ends a line somewhere or that a terminal obeys.
HOSTILE = "a\r\n\n\r\x0b\x0c\x1b[2J\x1b]0;x\x07\x00\x08\x7f\x1c\x1d\x1e\x85\x9b31m\u2028\u2029\u202e\ufeff\ud800z"
FORGED = '\n00:00:00 info    201 POST /media/upload id=forged outcome=created\n{"message": "forged", "outcome": "created"}\n'


def entries(stderr: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.getvalue().splitlines()]


def hostile_request() -> None:
    trace = Trace(HOSTILE, user=FORGED, reason=HOSTILE + FORGED)
    trace.log("GET" + HOSTILE, f"/{HOSTILE}{FORGED}", 404, FORGED)


def assert_plain(text: str) -> None:
    """Nothing in `text` but line feeds and what is printed; splitlines() knows Unicode's other line ends."""
    assert not [character for character in text if character != "\n" and not character.isprintable()]
    assert text.splitlines() == text.removesuffix("\n").split("\n")


def test_a_request_is_one_json_line(stderr: io.StringIO) -> None:
    """The contract's facts of a request stand in one JSON object on one line."""
    configure(stderr, "json")
    trace = Trace("request-1", user="7", size=48_213)
    with trace.phase("receive"):
        pass
    trace.log("POST", "/media/upload", 201, "created")
    (entry,) = entries(stderr)
    assert stderr.getvalue().endswith("}\n")
    assert (entry["id"], entry["user"], entry["outcome"], entry["bytes"]) == ("request-1", "7", "created", 48_213)
    assert (entry["level"], entry["message"]) == ("info", "201 POST /media/upload")
    assert entry["ms"] >= entry["phases"]["receive"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])


def test_a_request_is_one_console_line(stderr: io.StringIO) -> None:
    """The same facts stand on one line for people."""
    configure(stderr, "console")
    trace = Trace("request-1", user="7", size=48_213)
    with trace.phase("receive"):
        pass
    trace.log("POST", "/media/upload", 201, "created")
    (line,) = stderr.getvalue().splitlines()
    for fact in ("201 POST /media/upload", "id=request-1", "user=7", "outcome=created", "bytes=48213", " ms=", "receive="):
        assert fact in line


def test_what_is_not_known_is_not_there(stderr: io.StringIO) -> None:
    """A request without user, body and phases has no empty words for them."""
    configure(stderr, "json")
    Trace("request-1").log("GET", "/healthz", 200, "ok")
    (entry,) = entries(stderr)
    assert not entry.keys() & {"user", "bytes", "reason", "phases"}


@pytest.mark.parametrize(
    ("status", "level"), [(201, "info"), (302, "info"), (404, "info"), (500, "error"), (502, "warning"), (503, "warning")]
)
def test_levels(stderr: io.StringIO, status: int, level: str) -> None:
    """A defect is an error and an outage a warning, so that LOG_LEVEL can tell them from traffic."""
    configure(stderr, "json")
    Trace("request-1").log("GET", "/", status, "x")
    assert entries(stderr)[0]["level"] == level


def test_json_lines_cannot_be_forged(stderr: io.StringIO) -> None:
    """Whatever a caller sends stays inside one line of ASCII, and reads back as it was sent."""
    configure(stderr, "json")
    hostile_request()
    (entry,) = entries(stderr)
    assert_plain(stderr.getvalue())
    assert stderr.getvalue().isascii()
    assert (entry["id"], entry["user"], entry["outcome"]) == (HOSTILE, FORGED, FORGED)


def test_console_lines_cannot_be_forged(stderr: io.StringIO) -> None:
    """Whatever a caller sends stays inside one line, and no terminal obeys it."""
    configure(stderr, "console")
    hostile_request()
    assert_plain(stderr.getvalue())
    assert len(stderr.getvalue().splitlines()) == 1


def a_defect() -> None:
    """Logs an exception whose text a caller chose, as int() and many others repeat it."""
    try:
        raise ValueError(HOSTILE + FORGED)
    except ValueError:
        log.exception("a defect")


def test_json_stacks_cannot_be_forged(stderr: io.StringIO) -> None:
    """A stack is a part of its entry's one line."""
    configure(stderr, "json")
    a_defect()
    (entry,) = entries(stderr)
    assert_plain(stderr.getvalue())
    assert entry["message"] == "a defect"
    assert entry["exception"].startswith("Traceback")
    assert "in a_defect" in entry["exception"]


def test_console_stacks_cannot_be_forged(stderr: io.StringIO) -> None:
    """A stack has lines of its own; none of them can pass for an entry, and no terminal obeys them."""
    configure(stderr, "console")
    a_defect()
    text = stderr.getvalue()
    assert "in a_defect" in text
    assert_plain(text)
    assert not re.search(r"^(00:00:00|\{)", text, re.MULTILINE)


def test_any_log_call_can_be_written(stderr: io.StringIO) -> None:
    """Other packages' entries take the same way, with arguments and objects of any kind."""
    for form in ("json", "console"):
        configure(stderr, form)
        logging.getLogger("other").warning("%s and %r", HOSTILE, b"\n", extra={"fields": {"path": Path("/x"), "number": 1e400}})
    assert_plain(stderr.getvalue())
    assert len(stderr.getvalue().splitlines()) == 2


def test_the_form_without_a_terminal(stderr: io.StringIO) -> None:
    """Where standard error is no terminal, programs read the log."""
    configure(stderr, None)
    log.info("hello")
    assert entries(stderr)[0]["message"] == "hello"


def test_the_form_on_a_terminal(stderr: io.StringIO) -> None:
    """Where it is one, people do."""
    stderr.isatty = lambda: True  # type: ignore[method-assign]  # a StringIO that says so
    configure(stderr, None)
    log.info("hello")
    assert not stderr.getvalue().startswith("{")
    assert "hello" in stderr.getvalue()


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level(stderr: io.StringIO, level: str, count: int) -> None:
    """LOG_LEVEL says from where on entries are written."""
    configure(stderr, "json", level)
    for write in (log.debug, log.info, log.warning, log.error):
        write("x")
    assert len(entries(stderr)) == count


class _Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, *_args: object) -> int:
        raise OSError(28, "No space left on device")


class _Gone(io.StringIO):
    """A pipe whose reader is gone; it notices only when it is flushed."""

    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("kind", [_Full, _Gone])
def test_a_log_that_cannot_be_written(stderr: io.StringIO, kind: Callable[[], io.StringIO], form: Any) -> None:
    """A full disk or a broken pipe behind the log never becomes an exception in a request."""
    configure(kind(), form)
    hostile_request()
    a_defect()


def test_a_log_call_that_is_wrong(stderr: io.StringIO) -> None:
    """A defect in a log call is not a defect of the request, and leaves no lines that are not entries."""
    configure(stderr, "json")
    with contextlib.redirect_stderr(stderr):
        log.info("%d", "not a number")
    assert "Traceback" not in stderr.getvalue()


# --- readiness ---


class Peer(ThreadingHTTPServer):
    """Gives every GET one answer, and counts them."""

    daemon_threads = True

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.body, self.count = status, body, 0
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Peer

    def do_GET(self) -> None:
        self.server.count += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def peer(status: int, body: bytes = b"") -> Iterator[Peer]:
    with Peer(status, body) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """A URL whose port refuses every connection."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # and never listens
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


def s3_error(code: str) -> bytes:
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>x</Message></Error>'.encode()


def readiness(backend_url: str, store_url: str) -> Readiness:
    environ = {
        "PUBLIC_BASE_URL": "http://media.example",
        "MINIO_ENDPOINT": store_url,
        "MINIO_ACCESS_KEY": "access",
        "MINIO_SECRET_KEY": "canary-secret",
    }
    found = settings.load(environ, dotenv=Path("no such file"))
    return Readiness(Backend(backend_url, "id", 3), Store(found))


GOOD_STORE = 404, s3_error("NoSuchKey")


@pytest.mark.parametrize("backend", [200, 401, 403])
@pytest.mark.parametrize("store", [GOOD_STORE, (403, s3_error("AccessDenied"))], ids=["no such key", "may not list"])
def test_ready(backend: int, store: tuple[int, bytes]) -> None:
    """All is well when the backend answers a call without a cookie, and the store and its bucket answer."""
    with peer(backend) as chat, peer(*store) as objects:
        assert readiness(chat.url, objects.url).check() == {"backend": "ok", "store": "ok", "bucket": "ok"}


@pytest.mark.parametrize("status", [204, 302, 404, 429, 500, 503])
def test_a_backend_that_does_not_work(status: int) -> None:
    """Any other answer of the backend is named as its failure, and not as the store's."""
    with peer(status) as chat, peer(*GOOD_STORE) as objects:
        assert readiness(chat.url, objects.url).check() == {"backend": "failed", "store": "ok", "bucket": "ok"}


def test_a_missing_bucket() -> None:
    """A store that works without the bucket is told from one that does not work."""
    with peer(401) as chat, peer(404, s3_error("NoSuchBucket")) as objects:
        assert readiness(chat.url, objects.url).check() == {"backend": "ok", "store": "ok", "bucket": "failed"}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, s3_error("SignatureDoesNotMatch")),
        (403, s3_error("InvalidAccessKeyId")),
        (503, s3_error("SlowDown")),
        (500, b""),
        (200, b"<html>hello"),
        (404, b"not found"),
        (302, b""),
    ],
)
def test_a_store_that_does_not_work(status: int, body: bytes) -> None:
    """Wrong credentials, an outage and another server on its port are the store's failure; the bucket is then not there either."""
    with peer(401) as chat, peer(status, body) as objects:
        assert readiness(chat.url, objects.url).check() == {"backend": "ok", "store": "failed", "bucket": "failed"}


def test_nobody_there(caplog: pytest.LogCaptureFixture) -> None:
    """Both may fail at once; the reasons go to the log, without credentials."""
    with nobody() as chat, nobody() as objects:
        assert readiness(chat, objects).check() == {"backend": "failed", "store": "failed", "bucket": "failed"}
    assert "backend" in caplog.text
    assert "store" in caplog.text
    assert "canary" not in caplog.text


def test_answers_are_good_for_two_seconds() -> None:
    """However often it is called, also by many at once, everyone behind it is asked once in two seconds."""
    with peer(401) as chat, peer(*GOOD_STORE) as objects:
        ready = readiness(chat.url, objects.url)
        callers = [threading.Thread(target=ready.check) for _ in range(20)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert (chat.count, objects.count) == (1, 1)
        chat.status = 500
        time.sleep(1)
        assert ready.check()["backend"] == "ok"
        time.sleep(1.2)
        assert ready.check()["backend"] == "failed"
        assert (chat.count, objects.count) == (2, 2)


def test_failures_are_logged_with_their_reason(caplog: pytest.LogCaptureFixture) -> None:
    """The log says what the backend answered, which the caller is not told."""
    with peer(500) as chat, peer(404, s3_error("NoSuchBucket")) as objects:
        readiness(chat.url, objects.url).check()
    assert "500" in caplog.text
    assert "NoSuchBucket" in caplog.text


def test_an_outage_is_short(caplog: pytest.LogCaptureFixture) -> None:
    """A backend and a store that accept and then say nothing hold the answer for 2 s each at most."""
    with socket.create_server(("127.0.0.1", 0)) as chat, socket.create_server(("127.0.0.1", 0)) as objects:
        urls = [f"http://127.0.0.1:{sock.getsockname()[1]}" for sock in (chat, objects)]
        began = time.monotonic()
        assert readiness(*urls).check() == {"backend": "failed", "store": "failed", "bucket": "failed"}
        assert time.monotonic() - began < 5.5
    assert BackendUnavailable.code not in caplog.text
