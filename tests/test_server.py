"""The servers of Windows, which run everywhere: Werkzeug's for `dev`, waitress for `serve`."""

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import servers
from media_storage import server
from pictures import make

COMMANDS = {
    "werkzeug": "server.serve_threaded",
    "waitress": "server.serve_on_waitress",
}


@pytest.fixture
def metrics_port() -> int:
    return servers.free_port()


@pytest.fixture(params=COMMANDS)
def url(request: pytest.FixtureRequest, metrics_port: int, tmp_path: Path) -> Iterator[str]:
    """A service on that server, with a chat backend and no store."""
    if request.param == "waitress" and not importlib.util.find_spec("waitress"):
        pytest.skip("waitress is not here: conda-forge's records lack it, pip has it")
    backend = servers.ChatBackend()
    port = servers.free_port()
    environ = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "METRICS_PORT": str(metrics_port),
        "PUBLIC_BASE_URL": "https://media.example",
        "BACKEND_VERIFY_URL": backend.url,
        "MINIO_ENDPOINT": f"http://127.0.0.1:{servers.free_port()}",
        "MINIO_ACCESS_KEY": "access",
        "MINIO_SECRET_KEY": "secret",
    }
    code = f"import os; from media_storage import server, settings; {COMMANDS[request.param]}(settings.load(os.environ))"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environ)
    address = f"http://127.0.0.1:{port}"
    try:
        servers.wait_for(lambda: servers.answers(f"{address}/healthz"))
        yield address
    finally:
        process.terminate()
        process.wait(10)
        backend.close()


def test_an_upload_gets_as_far_as_the_store(url: str) -> None:
    """Session, body in one piece and in chunks, and proof work as on gunicorn: only the store, which is not there, refuses."""
    boundary = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    body = boundary + make.png() + b"\r\n--B--\r\n"
    headers = {"Cookie": "session=alice", "Content-Type": "multipart/form-data; boundary=B"}
    for data in (body, iter([body[:50], body[50:]])):
        answer = requests.post(f"{url}/media/upload", data=data, headers=headers, timeout=10)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    answer = requests.post(f"{url}/media/upload", data=body[:-20], headers=headers, timeout=10)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_multipart")


def test_keys_are_as_strict(url: str) -> None:
    """Encoded and doubled slashes lead nowhere on this server, too."""
    key = "uploads/7/6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f.jpg"
    for path, status in (
        (f"/media/{key}", 302),
        (f"/media/{key.replace('/', '%2F')}", 404),
        (f"//media/{key}", 404),
        (f"/media//{key}", 404),
    ):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode())
            assert sock.recv(65_536).startswith(f"HTTP/1.1 {status} ".encode()), path


def test_a_refusal_reaches_a_client_that_sends_on(url: str) -> None:
    """The whole body is sent before the answer is read."""
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    answer = requests.post(f"{url}/media/upload", data=b"x" * 5_000_000, headers=headers, timeout=10)
    assert answer.json()["code"] == "unauthenticated"


def test_several_cookie_headers_are_told_from_one(url: str) -> None:
    """Werkzeug's server is taught to; waitress cannot be, which its module says."""
    body = b"--B--\r\n"
    request = (
        b"POST /media/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: multipart/form-data; boundary=B\r\n"
        b"Cookie: session=alice\r\nCookie: session=bob\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=10) as sock:
        sock.sendall(request)
        time.sleep(0.3)
        answer = sock.recv(65_536)
    assert b" 400 " in answer.splitlines()[0] or b" 401 " in answer.splitlines()[0]
    if b"Werkzeug" in answer:
        assert b'"code":"bad_request"' in answer


def test_metrics_are_served_beside_it(url: str, metrics_port: int) -> None:
    """By the one process that there is, and not on its public port."""
    for _ in range(3):
        key = "uploads/7/6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f.jpg"
        assert requests.get(f"{url}/media/{key}", allow_redirects=False, timeout=10).status_code == 302
    assert requests.post(f"{url}/media/upload", data=b"x", timeout=10).status_code == 415
    scrape = requests.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10).text
    assert "media_storage_redirects_total 3.0\n" in scrape
    assert 'media_storage_uploads_total{outcome="not_multipart",status="415"} 1.0\n' in scrape
    assert "media_storage_uploads_in_flight_limit 500.0\n" in scrape
    assert requests.get(f"{url}/metrics", timeout=10).status_code == 404


def test_without_waitress_windows_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear error, not an import error."""
    monkeypatch.setitem(sys.modules, "waitress", None)
    with pytest.raises(server.ServerMissing, match="pip install waitress"):
        server.serve_on_waitress(None)  # type: ignore[arg-type]  # it gets no further
