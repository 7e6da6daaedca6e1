"""The commands as an operator runs them, against real stores."""

import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import servers
from media_storage.dev.pieces import Piece, PieceDied
from pictures import make


@pytest.fixture(scope="module", params=["seaweedfs", "minio"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.RunningStore]:
    with servers.running_store(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def environ(store: servers.RunningStore, backend: servers.ChatBackend) -> dict[str, str]:
    """A configuration of `serve` with a port of its own and a bucket that other tests do not use."""
    port = str(servers.free_port())
    return {
        **store.environ,
        "HOST": "127.0.0.1",
        "PORT": port,
        "METRICS_PORT": str(servers.free_port()),
        "PUBLIC_BASE_URL": f"http://127.0.0.1:{port}",
        "BACKEND_VERIFY_URL": backend.url,
        "MINIO_BUCKET": f"bucket-{port}",
        "WORKERS": "1",
        "STORE_TIMEOUT_SECONDS": "3",
    }


def doctor(environ: dict[str, str], folder: Path) -> tuple[int, dict[str, str], str]:
    """Exit status, the verdict on each thing, and all that was printed."""
    done = servers.media_storage("doctor", environ=environ, folder=folder)
    verdicts = {line[8:21].strip(): line[:8].strip() for line in done.stdout.splitlines() if line.startswith(("ok  ", "FAILED  "))}
    return done.returncode, verdicts, done.stdout


def test_init_bucket_may_be_repeated(environ: dict[str, str], tmp_path: Path) -> None:
    """The first run creates the bucket and its policy, the second finds it."""
    first = servers.media_storage("init-bucket", environ=environ, folder=tmp_path)
    second = servers.media_storage("init-bucket", environ=environ, folder=tmp_path)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "created" in first.stdout
    assert "is there" in second.stdout


def test_init_bucket_says_why_it_could_not(environ: dict[str, str], tmp_path: Path) -> None:
    """A wrong secret or a store that is not there: status 1, a sentence, no stack."""
    for wrong in ({"MINIO_SECRET_KEY": "something-else"}, {"MINIO_ENDPOINT": f"http://127.0.0.1:{servers.free_port()}"}):
        done = servers.media_storage("init-bucket", environ=environ | wrong, folder=tmp_path)
        assert done.returncode == 1
        assert "could not be prepared" in done.stderr
        assert "Traceback" not in done.stderr


def test_doctor_finds_nothing_wrong_where_nothing_is(environ: dict[str, str], store: servers.RunningStore, tmp_path: Path) -> None:
    """With everything running: all ok, status 0, and the round trip leaves no object."""
    servers.media_storage("init-bucket", environ=environ, folder=tmp_path)
    with servers.running_service(environ, tmp_path):
        status, verdicts, text = doctor(environ, tmp_path)
    assert status == 0, text
    assert set(verdicts.values()) == {"ok"}
    assert set(verdicts) == {"backend", "store", "put", "public read", "delete", "listing", "writing", "public URL", "scheme"}
    assert not store.object_keys(environ["MINIO_BUCKET"])


def test_doctor_names_a_missing_bucket(environ: dict[str, str], tmp_path: Path) -> None:
    """And the command that makes it; the service that does not run is named too."""
    status, verdicts, text = doctor(environ, tmp_path)
    assert status == 1
    assert verdicts["store"] == "ok"
    assert verdicts["bucket"] == verdicts["public URL"] == "FAILED"
    assert "media-storage init-bucket" in text


def test_doctor_names_what_does_not_answer(environ: dict[str, str], tmp_path: Path) -> None:
    """A backend and a store that are not there, a wrong secret, and http beside https."""
    closed = f"http://127.0.0.1:{servers.free_port()}"
    _, verdicts, _ = doctor(environ | {"BACKEND_VERIFY_URL": closed, "MINIO_ENDPOINT": closed}, tmp_path)
    assert verdicts["backend"] == verdicts["store"] == "FAILED"
    _, verdicts, text = doctor(environ | {"MINIO_SECRET_KEY": "wrong-canary-secret"}, tmp_path)
    assert verdicts["store"] == "FAILED"
    assert "wrong-canary-secret" not in text
    _, verdicts, _ = doctor(environ | {"PUBLIC_BASE_URL": environ["PUBLIC_BASE_URL"].replace("http:", "https:")}, tmp_path)
    assert verdicts["scheme"] == "FAILED"


def policy(bucket: str, *actions: str) -> str:
    """A bucket policy that lets anyone do `actions`, on the bucket and everything in it."""
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statements = [
        {"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": [action], "Resource": [resources[action != "s3:ListBucket"]]}
        for action in actions
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


@pytest.mark.parametrize(
    ("actions", "wrong"),
    [
        (("s3:GetObject", "s3:ListBucket"), {"listing"}),
        (("s3:GetObject", "s3:PutObject"), {"writing"}),
        (("s3:ListBucket",), {"listing", "public read"}),
    ],
    ids=["the download preset", "public", "not readable"],
)
def test_doctor_audits_the_policy_in_force(
    environ: dict[str, str], store: servers.RunningStore, tmp_path: Path, actions: tuple[str, ...], wrong: set[str]
) -> None:
    """A bucket made by hand that is listable, writable or unreadable by anyone is named, and left as it was."""
    if store.kind == "seaweedfs":
        wrong = wrong - {"writing"}  # whatever the policy says, SeaweedFS lets nobody write without credentials
    bucket = environ["MINIO_BUCKET"]
    store.client.make_bucket(bucket)
    store.client.set_bucket_policy(bucket, policy(bucket, *actions))
    status, verdicts, text = doctor(environ, tmp_path)
    assert status == 1
    assert {what for what, verdict in verdicts.items() if verdict == "FAILED"} == wrong | {"public URL"}, text
    assert not store.object_keys(bucket)


def test_serve_warns_of_a_listable_bucket_and_works(environ: dict[str, str], store: servers.RunningStore, tmp_path: Path) -> None:
    """A bucket made by hand with the usual preset is used, with a warning at start."""
    bucket = environ["MINIO_BUCKET"]
    store.client.make_bucket(bucket)
    store.client.set_bucket_policy(bucket, policy(bucket, "s3:GetObject", "s3:ListBucket"))
    with servers.running_service(environ, tmp_path) as service:
        servers.wait_for(lambda: any("anyone can list the bucket" in line["message"] for line in service.log_lines()), 10)
        assert _upload(service).status_code == 201


def _upload(service: servers.RunningService) -> requests.Response:
    return requests.post(f"{service.url}/media/upload", files={"file": ("a", make.png())}, headers={"Cookie": "session=alice"}, timeout=30)


def test_serve_starts_while_everything_is_down_and_recovers(environ: dict[str, str], backend: servers.ChatBackend, tmp_path: Path) -> None:
    """Outages are 503 with a code, ready says what fails, redirects go on; when the pieces come up, uploads work by themselves."""
    store_port, backend_port = servers.free_port(), servers.free_port()
    down = {
        "MINIO_ENDPOINT": f"http://127.0.0.1:{store_port}",
        "BACKEND_VERIFY_URL": f"http://127.0.0.1:{backend_port}/auth/me",
    }
    with servers.running_service(environ | down, tmp_path) as service:
        assert requests.get(f"{service.url}/healthz", timeout=5).status_code == 200
        ready = requests.get(f"{service.url}/readyz", timeout=10)
        assert (ready.status_code, set(ready.json().values())) == (503, {"failed"})
        answer = _upload(service)
        assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (503, "backend_unavailable", "5")

        with forward(backend_port, backend.url):
            began = time.monotonic()
            answer = _upload(service)
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
            assert time.monotonic() - began < 3
            taken_back = f"{service.url}/media/uploads/7/6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f.png"
            answer = requests.delete(taken_back, headers={"Cookie": "session=alice"}, timeout=10)
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
            servers.media_storage("init-bucket", environ=environ, folder=tmp_path)
            with forward(store_port, environ["MINIO_ENDPOINT"]):
                assert _upload(service).status_code == 201
                time.sleep(2)  # what /readyz said is kept for two seconds
                assert requests.get(f"{service.url}/readyz", timeout=10).status_code == 200


def forward(port: int, url: str) -> "servers.Pipe":
    """Makes what is at `url` answer on `port` as well, while the context lasts."""
    host, _, target = url.removeprefix("http://").partition("/")[0].partition(":")
    return servers.Pipe(port, (host, int(target)))


def test_wrong_settings_stop_serve_with_the_whole_list(tmp_path: Path) -> None:
    """Every problem at once, one line each, status 2, and no secret among them."""
    environ = {"PORT": "eighty", "MINIO_SECRET_KEY": "canary", "ALLOWED_ORIGINS": "*", "LOG_FORMAT": "xml"}
    done = servers.media_storage("serve", environ=environ, folder=tmp_path)
    assert done.returncode == 2
    for name in ("PORT", "PUBLIC_BASE_URL", "MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "ALLOWED_ORIGINS", "LOG_FORMAT"):
        assert f"- {name}: " in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_serve_reads_the_dotenv_file_of_its_folder(environ: dict[str, str], tmp_path: Path) -> None:
    """`.env` in the working directory configures it; the real environment wins."""
    names = {name: value for name, value in environ.items() if name.startswith(("MINIO_", "BACKEND_"))}
    (tmp_path / ".env").write_text("MAX_UPLOAD_MB=3\nLOG_LEVEL=debug\n" + "".join(f"{name}={value}\n" for name, value in names.items()))
    own = {name: value for name, value in environ.items() if name not in names} | {"LOG_LEVEL": "warning"}
    with servers.running_service(own, tmp_path) as service:
        assert requests.get(f"{service.url}/media/limits", timeout=5).json()["maxBytes"] == 3 * 1_048_576
        assert not [line for line in service.log_lines() if line["level"] in ("debug", "info")]


def test_serve_on_a_taken_port_says_so(environ: dict[str, str], tmp_path: Path) -> None:
    """It ends with a message instead of waiting for ever."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int(environ["PORT"])))
        taken.listen()
        done = servers.media_storage("serve", environ=environ, folder=tmp_path)
    assert done.returncode != 0
    assert "already in use" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn, and with it a graceful SIGTERM, is for Unix")
def test_sigterm_ends_serve_cleanly(environ: dict[str, str], tmp_path: Path) -> None:
    """The upload in flight gets its answer, the process exits 0, and the port is free."""
    servers.media_storage("init-bucket", environ=environ, folder=tmp_path)
    body = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + make.png() + b"\r\n--B--\r\n"
    head = (
        b"POST /media/upload HTTP/1.1\r\nHost: x\r\nCookie: session=alice\r\n"
        b"Content-Type: multipart/form-data; boundary=B\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    with servers.running_service(environ, tmp_path) as service:
        with socket.create_connection(("127.0.0.1", int(environ["PORT"])), timeout=10) as sock:
            sock.sendall(head + body[:50])
            time.sleep(0.5)
            service.piece.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            sock.sendall(body[50:])
            assert sock.recv(65_536).startswith(b"HTTP/1.1 201 ")
        with pytest.raises(PieceDied, match="status 0"):
            service.piece.wait_until(lambda: False, 10)


def test_help_names_every_command(tmp_path: Path) -> None:
    """`--help` lists them, and `--version` says which version it is."""
    text = servers.media_storage("--help", environ={}, folder=tmp_path).stdout
    assert all(command in text for command in ("dev", "serve", "doctor", "init-bucket"))
    assert "media-storage, version " in servers.media_storage("--version", environ={}, folder=tmp_path).stdout


def test_a_piece_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    """What `dev` says when something that it started dies."""
    piece = Piece("the thing", [sys.executable, "-c", "print('last words'); raise SystemExit(3)"], {}, tmp_path / "log")
    with pytest.raises(PieceDied, match=r"(?s)the thing ended with status 3.*last words"):
        piece.wait_until(lambda: False, 10)
    piece.stop()
