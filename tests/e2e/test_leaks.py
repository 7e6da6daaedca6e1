"""Canaries in the cookie, the secrets and the file name, followed through every refusal: no log, output or answer repeats one."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

import servers
from media_storage import errors
from pictures import make

COOKIE = "cookie-canary-7b1f"
SECRET = "secret-canary-9d40"
REDIS = "redis-canary-51aa"
BACKEND = "backend-canary-e2c8"  # in what the chat backend says beside the user's id
NAME = "name-canary-03ef"
FORGED = '\r\n{"level": "error", "message": "forged-canary"}\r\n\x1b[31m'
CANARIES = [COOKIE, SECRET, REDIS, BACKEND, NAME, "forged-canary", "\x1b["]
# What only a stack, a page of the server's own, or a careless message would show. The JSON log may hold stacks; answers may not.
INSIDE = ["Traceback", 'File "', "media_storage/", "127.0.0.1:", "site-packages", "werkzeug", "<html", "<!doctype", "python"]


class Talkative(servers.Answering):
    """A chat backend that answers `status` and `body`, with secrets of its own all over."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = COOKIE in self.headers.get("Cookie", "")
                body = backend.body if known else b'{"detail": "who? %s"}' % BACKEND.encode()
                self.send_response(backend.status if known else 401, f"{BACKEND}")
                self.send_header("Set-Cookie", f"session={BACKEND}")
                self.send_header("X-Powered-By", BACKEND)
                self.send_header("Location", f"http://127.0.0.1:9/{BACKEND}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.knows_everyone()
        self.listen(Handler)

    def knows_everyone(self) -> None:
        self.status, self.body = 200, json.dumps({"id": 7, "token": BACKEND}).encode()


def part(content: bytes, name: bytes = b'name="file"', filename: str | None = f"{NAME}{FORGED}.png") -> bytes:
    disposition = name + (b'; filename="%s"' % filename.encode() if filename is not None else b"")
    return b"--B\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + content + b"\r\n"


CLEAN = f"{NAME}\x1b[31m.png"  # a name with a line end breaks its header; this one arrives whole
END = b"--B--\r\n"


@dataclass
class Watched:
    """The service, and every answer that it gave."""

    service: servers.RunningService
    backend: Talkative
    store: servers.RunningStore
    answers: list[requests.Response] = field(default_factory=list)
    raw_answers: list[bytes] = field(default_factory=list)

    def ask(self, method: str, path: str, *, cookie: str | None = f"session={COOKIE}", headers: Any = None, data: Any = None) -> str:
        """One request; the code of its refusal, or nothing."""
        given = {"Cookie": cookie} if cookie else {}
        url = f"{self.service.url}{path}"
        answer = requests.request(method, url, headers={**given, **(headers or {})}, data=data, timeout=30, allow_redirects=False)
        self.answers.append(answer)
        return str(answer.json().get("code", "")) if "json" in answer.headers.get("Content-Type", "") else ""

    def upload(self, body: bytes, **headers: str) -> str:
        cookie = headers.pop("cookie", f"session={COOKIE}")
        return self.ask(
            "POST", "/media/upload", cookie=cookie, headers={"Content-Type": "multipart/form-data; boundary=B"} | headers, data=body
        )

    def picture(self, content: bytes = make.png(), filename: str = CLEAN) -> str:
        return self.upload(part(content, filename=filename) + END)

    def raw(self, request: bytes) -> None:
        """Bytes that no client library would send."""
        host, _, port = self.service.url.removeprefix("http://").partition(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as sock,
            contextlib.suppress(OSError),
        ):  # being cut off is an answer too
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := sock.recv(65_536):
                answer += piece
            self.raw_answers.append(answer)


@pytest.fixture(scope="module", params=["json", "console"])
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The service in front of a store, with each log format and everything logged that can be."""
    folder = tmp_path_factory.mktemp(f"watched-{request.param}")
    backend = Talkative()
    with servers.running_store("moto", folder / "store") as store:
        environ = {
            **store.environ,
            "MINIO_SECRET_KEY": SECRET,
            "BACKEND_VERIFY_URL": backend.url,
            "BACKEND_TIMEOUT_SECONDS": "1",
            "STORE_TIMEOUT_SECONDS": "2",
            "UPLOAD_TIMEOUT_SECONDS": "1",
            "MAX_UPLOAD_MB": "1",
            "MAX_CONCURRENT_UPLOADS": "1",
            "UPLOADS_PER_MINUTE": "1000",
            "RATE_LIMIT_STORAGE_URI": f"redis://:{REDIS}@127.0.0.1:{servers.free_port()}/0",
            "WORKERS": "1",
            "LOG_FORMAT": request.param,
            "LOG_LEVEL": "debug",
        }
        assert servers.media_storage("init-bucket", environ=environ, folder=folder).returncode == 0
        with servers.running_service(environ, folder) as service:
            yield Watched(service, backend, store)
    backend.close()


HEAD = f"POST /media/upload HTTP/1.1\r\nHost: x\r\nCookie: session={COOKIE}\r\nContent-Type: multipart/form-data; boundary=B\r\n".encode()
# What cannot be parsed, in as many ways as the server has of saying so.
MALFORMED = {
    "a cookie without a colon": f"GET / HTTP/1.1\r\nHost: x\r\nCookie session={COOKIE}\r\n\r\n",
    "a NUL in the cookie": f"GET / HTTP/1.1\r\nHost: x\r\nCookie: session={COOKIE}\0\r\n\r\n",
    "a cookie for a header's name": f"GET / HTTP/1.1\r\nHost: x\r\nCookie session={COOKIE}: x\r\n\r\n",
    "a folded cookie": f"GET / HTTP/1.1\r\nHost: x\r\nCookie: session=x;\r\n session={COOKIE}\r\n\r\n",
    "a cookie on a line of its own": f"GET / HTTP/1.1\r\nHost: x\r\nCookie: a=b\nsession={COOKIE}\r\n\r\n",
    "a request line of a cookie": f"session={COOKIE}\r\n\r\n",
    "a cookie for a method": f"{COOKIE} / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a cookie for a version": f"GET / {COOKIE}\r\nHost: x\r\n\r\n",
    "a cookie for a coding": f"POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {COOKIE}\r\n\r\n",
    "a cookie for a length": f"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {COOKIE}\r\n\r\n",
    "too many headers": f"GET / HTTP/1.1\r\nHost: x\r\nCookie: session={COOKIE}\r\n" + "X: y\r\n" * 200 + "\r\n",
    "too long a cookie": f"GET / HTTP/1.1\r\nHost: x\r\nCookie: session={COOKIE}{'x' * 70_000}\r\n\r\n",
    "ESC for a method": f"\x1b[31m{COOKIE} / HTTP/1.1\r\nHost: x\r\n\r\n",
}


def every_refusal(watched: Watched) -> set[str]:
    """Provokes every code that a request can, and some answers that are none; the codes that were seen."""
    upload, ask, backend = watched.upload, watched.ask, watched.backend
    bomb = make.png()[:16] + b"\xff\xff" + make.png()[18:]
    seen = {
        watched.picture(),
        upload(b"", **{"Content-Type": f"image/{NAME}"}),
        upload(part(make.png())),
        upload(b"hello"),
        upload(END),
        upload(part(make.png(), b'name="other"', CLEAN) + END),
        upload(part(make.png(), filename=CLEAN) * 2 + END),
        upload(part(b"", filename=CLEAN) + END),
        watched.picture(f"<script>{NAME}</script>".encode()),
        watched.picture(make.png()[:20]),
        watched.picture(bomb),
        watched.picture(make.png(60_000, 1)[:16] + (100_000).to_bytes(4) * 2 + make.png()[24:]),
        watched.picture(_with_dimensions(100_000, 100_000)),
        upload(bytes(2 * 1_048_576)),
        upload(b"", cookie=""),
        upload(b"", cookie=f"other={BACKEND}"),
        upload(b"", Origin=f"https://{NAME}.example"),
        ask("GET", f"/nothing?{COOKIE}"),
        ask("GET", f"/media/uploads/7/x.png?{COOKIE}"),
        ask("GET", "/media/%0d%0aforged%1b[31m"),
        ask("PUT", "/upload"),
        ask("DELETE", f"/media/uploads/8/6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f.png?{COOKIE}"),
        ask("GET", "/readyz"),
        ask("GET", "/media/uploads/7/6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f.png", headers={"X-Request-ID": "x" * 129}),
        ask("OPTIONS", "/upload", headers={"Access-Control-Request-Method": "POST", "Origin": f"https://{NAME}.example"}),
    }
    for status, body in ((302, b""), (404, b""), (200, BACKEND.encode()), (200, json.dumps({"id": f"../{BACKEND}"}).encode()), (503, b"")):
        backend.status, backend.body = status, body
        seen.add(watched.picture())
    backend.knows_everyone()
    return seen


def _with_dimensions(width: int, height: int) -> bytes:
    """A PNG that announces these, with a sound checksum."""
    return make.PNG_SIGNATURE + make.ihdr(width, height) + make.idat() + make.IEND


def slow_and_many(watched: Watched) -> set[str]:
    """A body that comes too slowly, and one upload more than may be under way."""
    host, _, port = watched.service.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(HEAD + b"Content-Length: 1000\r\n\r\n" + part(b"", filename=CLEAN)[:60])
        time.sleep(0.3)
        seen = {watched.picture()}
        answer = b""
        while not answer.endswith(b"}\n") and (piece := sock.recv(65_536)):
            answer += piece
        watched.raw_answers.append(answer)
    return seen | {str(json.loads(answer.partition(b"\r\n\r\n")[2])["code"])}


def check_answers(watched: Watched) -> None:
    """No canary, nothing of the inside, in any answer or its headers; what the application refused is a problem document."""
    for answer in watched.answers:
        text = "".join(f"{name}: {value}\n" for name, value in answer.headers.items()) + answer.text
        for canary in CANARIES:
            assert canary not in text, text
        for inside in INSIDE:
            assert inside.lower() not in text.replace(watched.service.url, "").replace(watched.store.endpoint, "").lower(), text
        if answer.status_code >= 400 and not answer.url.endswith("/readyz"):
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert {"type", "title", "status", "detail", "code", "requestId"} <= set(answer.json())
    for raw in watched.raw_answers:
        for canary in CANARIES:
            assert canary.encode() not in raw, raw


def check_log(watched: Watched, before: int) -> None:
    """No canary in the service's log behind its first `before` characters, and every line of it is one of ours."""
    text = watched.service.log_file.read_text(encoding="utf-8")[before:]
    for canary in CANARIES:
        assert canary not in text, [line for line in text.splitlines() if canary in line]
    assert "Traceback" not in text
    if watched.service.environ["LOG_FORMAT"] == "json":
        reasons = {json.loads(line).get("reason", "") for line in text.splitlines()} - {""}
        assert len(reasons) > 5
        assert not [reason for reason in reasons if any(reason in answer.text.replace("\\'", "'") for answer in watched.answers)]
        assert all(set(json.loads(line)) >= {"time", "level", "logger", "message"} for line in text.splitlines())
    else:
        assert all(re.match(r"\d\d:\d\d:\d\d (debug|info|warning|error) ", line) for line in text.splitlines())
    assert text.isascii() or watched.service.environ["LOG_FORMAT"] == "console"


@pytest.mark.parametrize("name", MALFORMED)
def test_what_cannot_be_parsed_is_not_repeated(watched: Watched, name: str) -> None:
    """The HTTP server's own refusals: neither their page nor their log line quotes the request."""
    before = len(watched.service.log_file.read_text(encoding="utf-8"))
    watched.raw(MALFORMED[name].encode("latin-1"))
    answer = watched.raw_answers[-1]
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer), answer
    written = watched.service.log_file.read_text(encoding="utf-8")[before:]
    for canary in CANARIES:
        assert canary.encode() not in answer
        assert canary not in written


def test_a_crash_in_the_middle_of_an_upload_prints_nothing_of_it(watched: Watched, tmp_path: Path) -> None:
    """A worker that is killed is replaced, with a line that names no request."""
    service = watched.service
    host, _, port = service.url.removeprefix("http://").partition(":")
    before = len(service.log_file.read_text(encoding="utf-8"))
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + part(make.png(), filename=CLEAN))
        time.sleep(0.3)
        for child in psutil.Process(service.pid).children():
            child.kill()
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""
    servers.wait_for(lambda: servers.answers(f"{service.url}/healthz"), 10)
    written = service.log_file.read_text(encoding="utf-8")[before:]
    assert "SIGKILL" in written
    assert not [canary for canary in CANARIES if canary in written]


def test_no_refusal_tells_a_secret(watched: Watched) -> None:
    """Through every refusal that a request or an outage can bring about: the answers, their headers, and the log at its most talkative.

    The last test of the service: afterwards its store and its backend are gone.
    """
    before = len(watched.service.log_file.read_text(encoding="utf-8"))
    seen = every_refusal(watched) | slow_and_many(watched)
    watched.store.piece.stop()
    seen.add(watched.picture())
    watched.ask("DELETE", "/media/uploads/7/6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f.png")
    time.sleep(2.1)  # what /readyz said is kept for two seconds
    watched.ask("GET", "/readyz")
    watched.backend.close()
    seen.add(watched.picture())

    every = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Refusal)}
    # What no request can bring about here: a defect, a full minute (test_ratelimit.py), the end of the process, two Cookie headers.
    assert seen - {""} == every - {"internal_error", "rate_limited", "shutting_down", "bad_request"}
    check_answers(watched)
    check_log(watched, before)


# --- what it says of itself, and leaves ---


def test_answers_name_no_version(tmp_path: Path) -> None:
    """Neither of the server nor of anything in it: what an attacker would look up."""
    environ = {"MINIO_ENDPOINT": "http://127.0.0.1:1", "MINIO_ACCESS_KEY": "x", "MINIO_SECRET_KEY": SECRET, "WORKERS": "1"}
    with servers.running_service(environ, tmp_path) as service:
        for path in (
            "/healthz",
            "/readyz",
            "/media/limits",
            "/nothing",
            "/media/upload",
            "/console",
            "/?__debugger__=yes&cmd=resource&f=style.css",
        ):
            answer = requests.get(f"{service.url}{path}", timeout=10)
            assert not re.search(r"\d", answer.headers.get("Server", "")), answer.headers
            assert not {"X-Powered-By", "Via", "Set-Cookie"} & set(answer.headers)
            assert not re.search(r"(?i)werkzeug|flask|gunicorn|python|debugger", answer.text)


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn is for Unix")
def test_serve_writes_nothing_but_temporary_files(tmp_path: Path) -> None:
    """No control socket, no pid file, no cache: a container may have a read-only root and no home."""
    home, spool, work = (tmp_path / name for name in ("home", "spool", "work"))
    for folder in (home, spool, work):
        folder.mkdir()
    environ = {"MINIO_ENDPOINT": "http://127.0.0.1:1", "MINIO_ACCESS_KEY": "x", "MINIO_SECRET_KEY": SECRET, "WORKERS": "1"}
    own = {"HOME": str(home), "TMPDIR": str(spool), "XDG_RUNTIME_DIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    with servers.running_service(environ | own, work) as service:
        requests.post(f"{service.url}/media/upload", files={"file": ("a", make.png())}, headers={"Cookie": "session=alice"}, timeout=10)
        processes = [psutil.Process(service.pid), *psutil.Process(service.pid).children()]
        listening = [found for process in processes for found in process.net_connections("unix") if found.laddr]
        assert not listening
        assert not [*home.rglob("*")]
        assert [path.name for path in work.iterdir()] == ["service.log"]
        assert not [path for path in spool.iterdir() if not path.name.startswith("wgunicorn")]


# --- what the commands print ---


def test_doctor_prints_no_secret(tmp_path: Path) -> None:
    """Not when all is well, nor when nothing answers, the secret is wrong, or the backend says odd things."""
    backend = Talkative()
    with servers.running_store("moto", tmp_path / "store") as store:
        good = {**store.environ, "MINIO_SECRET_KEY": SECRET, "BACKEND_VERIFY_URL": backend.url, "PUBLIC_BASE_URL": "http://127.0.0.1:1"}
        good |= {"RATE_LIMIT_STORAGE_URI": f"redis://:{REDIS}@127.0.0.1:1/0", "LOG_LEVEL": "debug"}
        closed = {"MINIO_ENDPOINT": "http://127.0.0.1:1", "BACKEND_VERIFY_URL": "http://127.0.0.1:1/auth/me"}
        printed = []
        for environ in (good, good | closed, good | {"MINIO_BUCKET": "not-there"}):
            for command in ("doctor", "init-bucket", "doctor"):
                done = servers.media_storage(command, environ=environ, folder=tmp_path)
                assert "Traceback" not in done.stderr, done.stderr
                printed.append(done.stdout + done.stderr)
    backend.close()
    assert any("All is well" in text or "to mend" in text for text in printed)
    assert not [canary for canary in CANARIES if any(canary in text for text in printed)]


@pytest.mark.parametrize("command", ["serve", "dev", "doctor", "init-bucket"])
def test_wrong_settings_print_no_secret(command: str, tmp_path: Path) -> None:
    """The list of what is wrong names settings, not their values, where these may be secrets."""
    environ = {
        "MINIO_ENDPOINT": f"http://user:{SECRET}@127.0.0.1:9000",
        "MINIO_SECRET_KEY": SECRET,
        "BACKEND_VERIFY_URL": f"http://user:{SECRET}@127.0.0.1/auth/me",
        "PUBLIC_BASE_URL": f"http://user:{SECRET}@127.0.0.1/",
        "RATE_LIMIT_STORAGE_URI": f"http://:{REDIS}@127.0.0.1",
        "PORT": SECRET,
    }
    done = servers.media_storage(command, environ=environ, folder=tmp_path)
    assert done.returncode == 2
    assert not [canary for canary in CANARIES if canary in done.stdout + done.stderr]


@pytest.mark.xdist_group("dev")
def test_dev_prints_no_secret(tmp_path: Path) -> None:
    """What a developer's terminal shows, and may paste into an issue, of uploads that work and that do not."""
    backend = Talkative()
    port = str(servers.free_port())
    with servers.running_store("moto", tmp_path / "store") as store:
        environ = {
            **os.environ,
            **store.environ,
            "MINIO_SECRET_KEY": SECRET,
            "BACKEND_VERIFY_URL": backend.url,
            "PORT": port,
            "METRICS_PORT": "0",
        }
        environ |= {"LOG_FORMAT": "console", "LOG_LEVEL": "debug", "HOST": "127.0.0.1"}
        log = tmp_path / "dev.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", "media_storage", "dev"], env=environ, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            servers.wait_for(lambda: process.poll() is not None or servers.answers(f"http://127.0.0.1:{port}/healthz"))
            whole = servers.RunningService(f"http://127.0.0.1:{port}", process.pid, log, store.piece, {})
            watched = Watched(whole, backend, store)
            assert watched.picture() == ""
            every_refusal(watched)
            store.piece.stop()
            assert watched.picture() == "store_unavailable"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
    backend.close()
    text = log.read_text(encoding="utf-8")
    assert "201 POST /media/upload" in text
    assert not [canary for canary in CANARIES if canary in text], text
    check_answers(watched)
