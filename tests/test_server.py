"""The servers of Windows, which run everywhere: Werkzeug's for `dev`, waitress for `serve`.

That they keep the HTTP contract is shown in e2e/test_contract.py and e2e/test_http_abuse.py; here is what they do otherwise.
"""

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import servers
from media_storage import head, server, settings
from media_storage.dev.pieces import Piece
from pictures import make
from rawclient import UUID, body_of, connect, head_for, read_answer

waitress = pytest.mark.skipif(not servers.HAS_WAITRESS, reason=servers.NO_WAITRESS)
ways = pytest.mark.parametrize("way", ["serve_threaded", pytest.param("serve_on_waitress", marks=waitress)])
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals end a process at once there")


@pytest.fixture
def environ() -> Iterator[dict[str, str]]:
    """Settings with a chat backend, and a store that is not there."""
    backend = servers.ChatBackend()
    yield {
        "PUBLIC_BASE_URL": "https://media.example",
        "BACKEND_VERIFY_URL": backend.url,
        "MINIO_ENDPOINT": f"http://127.0.0.1:{servers.free_port()}",
        "MINIO_ACCESS_KEY": "access",
        "MINIO_SECRET_KEY": "secret",
        "UPLOAD_TIMEOUT_SECONDS": "1",
    }
    backend.close()


@pytest.fixture(params=servers.WINDOWS_SERVERS)
def service(request: pytest.FixtureRequest, environ: dict[str, str], tmp_path: Path) -> Iterator[servers.RunningService]:
    with servers.running_service(environ, tmp_path, request.param) as running:
        yield running


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_it_ends_in_order(service: servers.RunningService, number: int) -> None:
    """Status 0 and no stack, at once, also while somebody is sending a body."""
    with connect(service.url) as sock:
        sock.sendall(head_for(1_000_000) + body_of(make.png())[:100])
        service.piece.send_signal(number)
        assert service.piece.status(5) == 0
    assert "Traceback" not in service.log_file.read_text(encoding="utf-8")


@ways
def test_ctrl_c_while_it_starts(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], way: str) -> None:
    """There is nothing to end yet, and no stack either."""
    monkeypatch.setattr(server, "interrupt_on_signals", lambda: None)
    monkeypatch.setattr(server, "create_app", _interrupted)
    try:
        getattr(server, way)(settings.load(environ | {"METRICS_PORT": "0"}))
    except KeyboardInterrupt:  # which would end the tests
        pytest.fail("it was not caught")


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_metrics_are_served_beside_it(service: servers.RunningService) -> None:
    """By the one process that there is, and not on its public port."""
    for _ in range(3):
        assert requests.get(f"{service.url}/media/uploads/7/{UUID}.jpg", allow_redirects=False, timeout=10).status_code == 302
    assert requests.post(f"{service.url}/media/upload", data=b"x", timeout=10).status_code == 415
    found = service.metrics()
    assert found["media_storage_redirects_total"] == 3
    assert found['media_storage_uploads_total{outcome="not_multipart",status="415"}'] == 1
    assert found["media_storage_uploads_in_flight_limit"] == 500
    assert requests.get(f"{service.url}/metrics", timeout=10).status_code == 404


def test_a_head_has_its_limit(service: servers.RunningService) -> None:
    """431 to one of more than 64 KiB, however its lines are cut; none of it is taken for a body."""
    for count, size in ((90, 1000), (1, 70_000)):
        with connect(service.url, 5) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + (b"X: " + b"y" * size + b"\r\n") * count + b"\r\n")
            answer = read_answer(sock)
        assert answer is not None
        assert answer.status == 431


def test_a_head_that_is_cut_off_is_no_request(service: servers.RunningService) -> None:
    """The client has gone, or lost a part of it: nothing is done."""
    with connect(service.url, 5) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: y\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_a_continue_is_sent_once(service: servers.RunningService) -> None:
    """A client that waits for it before it sends its body gets it, and after the body its answer."""
    body = body_of(make.png())
    with connect(service.url, 5) as sock:
        sock.sendall(head_for(len(body), more="Expect: 100-continue\r\n"))
        assert sock.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        answer = sock.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"100 Continue" not in answer


@pytest.mark.parametrize("length", [1_000_000, None], ids=["length", "chunked"])
def test_a_body_that_does_not_come_is_refused(environ: dict[str, str], tmp_path: Path, length: int | None) -> None:
    """Werkzeug's server: 408 when UPLOAD_TIMEOUT_SECONDS are over, however the body is framed."""
    with servers.running_service(environ, tmp_path, "werkzeug") as service, connect(service.url) as sock:
        start = body_of(make.png())[:-20]
        sock.sendall(head_for(length) + (start if length else b"%x\r\n%s\r\n5\r\n" % (len(start), start)))
        answer = read_answer(sock)
    assert answer is not None
    assert (answer.status, answer.code) == (408, "upload_timeout")


@contextlib.contextmanager
def impatient(environ: dict[str, str], folder: Path, module: str, way: str, constants: str) -> Iterator[str]:
    """The URL of a service whose limits on time are a second."""
    code = f"from media_storage import cli, server, {module} as m; {constants} = 1; server.serve = server.{way}; cli.main(['serve'])"
    port = str(servers.free_port())
    whole = {**environ, "HOST": "127.0.0.1", "PORT": port, "METRICS_PORT": "0", "UPLOAD_TIMEOUT_SECONDS": "600"}
    piece = Piece("the service", [sys.executable, "-c", code], whole, folder / "log", cwd=folder)
    try:
        piece.wait_until(lambda: servers.answers(f"http://127.0.0.1:{port}/healthz"), 30)
        yield f"http://127.0.0.1:{port}"
    finally:
        piece.stop()
    assert "Traceback" not in (folder / "log").read_text(encoding="utf-8")


def test_a_refused_client_that_falls_silent_is_cut(environ: dict[str, str], tmp_path: Path) -> None:
    """Werkzeug's server: what is left of the body is waited for, but not as long as for a body that is wanted."""
    with impatient(environ, tmp_path, "server_werkzeug", "serve_threaded", "m.DISCARD_SECONDS") as url, connect(url, 10) as sock:
        sock.sendall(head_for(1_000_000, cookie="") + b"x" * 100_000)
        answer = read_answer(sock)
        assert answer is not None
        assert answer.status == 401
        assert sock.recv(1) == b""


@waitress
def test_a_client_that_falls_silent_is_cut(environ: dict[str, str], tmp_path: Path) -> None:
    """waitress: the connection ends in the middle of a body."""
    constants = "m.SILENT_SECONDS = m.LOOK_SECONDS"
    with impatient(environ, tmp_path, "server_waitress", "serve_on_waitress", constants) as url, connect(url, 10) as sock:
        sock.sendall(head_for(1_000_000) + b"x" * 1000)
        assert sock.recv(1) == b""


@ways
def test_a_taken_port_is_named(environ: dict[str, str], tmp_path: Path, way: str) -> None:
    """Status 2 and a sentence."""
    code = f"from media_storage import cli, server; server.serve = server.{way}; cli.main(['serve'])"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        whole = {**servers.bare_environ(), **environ, "HOST": "127.0.0.1", "PORT": port, "METRICS_PORT": "0"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=whole, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert f"Cannot listen on 127.0.0.1, port {port}" in done.stderr
    assert "Traceback" not in done.stderr


START = b"POST /media/upload HTTP/1.1\r\nHost: x\r\n"
SOUND = {
    "no body": b"",
    "a length": b"Content-Length: 10\r\n",
    "chunks": b"transfer-encoding:Chunked\r\n",
    "odd values": b'X-Odd: \t\xff:;,"\\\r\nX-Empty:\r\n',
    "100 headers": b"X: y\r\n" * 99,
}
DOUBTFUL = {
    "both lengths": b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n",
    "the same length twice": b"Content-Length: 10\r\n" * 2,
    "a length with a sign": b"Content-Length: +10\r\n",
    "no length": b"Content-Length:\r\n",
    "19 digits": b"Content-Length: " + b"1" * 19 + b"\r\n",
    "another coding": b"Transfer-Encoding: gzip, chunked\r\n",
    "a folded line": b"X: y\r\n z\r\n",
    "a line feed alone": b"X: y\nContent-Length: 10\r\n",
    "a carriage return": b"X: y\rz\r\n",
    "a NUL": b"X: y\0z\r\n",
    "no colon": b"nonsense\r\n",
    "a space before the colon": b"Content-Length : 10\r\n",
    "101 headers": b"X: y\r\n" * 100,
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_head(name: str) -> None:
    """What clients send."""
    head.check(START + SOUND[name] + b"\r\n")


@pytest.mark.parametrize("name", DOUBTFUL)
def test_a_doubtful_head(name: str) -> None:
    """What one server reads so and another otherwise."""
    with pytest.raises(ValueError, match=r"a malformed|more than one length|an unknown length"):
        head.check(START + DOUBTFUL[name] + b"\r\n")


@pytest.mark.parametrize("line", [b"GET /\r\n", b"GET / HTTP/2.0\r\n", b"GET  / HTTP/1.1\r\n", b"GET / HTTP/1.1 \r\n", b"\r\n", b""])
def test_a_doubtful_request_line(line: bytes) -> None:
    """Three words, and HTTP/1.0 or HTTP/1.1."""
    with pytest.raises(ValueError, match="a malformed"):
        head.check(line + b"Host: x\r\n\r\n")


def test_several_cookie_headers_can_be_told_from_one() -> None:
    """A comma may be in a cookie; a line feed cannot."""
    assert head.joined_cookies(START + b"\r\n") == ""
    assert head.joined_cookies(START + b"Cookie: a=1, b=2\r\n\r\n") == "a=1, b=2"
    assert head.joined_cookies(START + b"Cookie: a=1\r\nX: y\r\ncookie:\tb=\xff \r\n\r\n") == "a=1\nb=\xff"
