"""Who is measured: this service, its peers and the limits. One function for each says how it is started."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import nginx, programs
from benchmarks.load import Request
from benchmarks.payload import COOKIE, Picture
from benchmarks.processes import Command, free_port
from benchmarks.stores import ACCESS_KEY, BUCKET, SECRET_KEY, Site

PROCESSES = 2  # worker processes of everyone who has any
FLASK_THREADS = 8
OURS, EXPRESS, DIRECT = "media-storage", "Express + multer-s3", "direct presigned PUT"
READ_PATH = "/media/uploads/7/6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f.png"

Upload = Callable[[Site, Picture, int], Request]


@dataclass(frozen=True)
class System:
    """One way to take uploads, or to redirect readers. Without `command` requests go to the store itself.

    `lacks` says why it cannot run here. `upload` makes the request for a picture and a number of connections. `ready` is a path that is
    answered as soon as the system works.
    """

    name: str
    lacks: Callable[[], str | None]
    command: Callable[[Site, int], Command] | None
    upload: Upload | None
    redirects: bool = False
    takes_forms: bool = False
    ready: str = READ_PATH


def read_request() -> Request:
    """A reader's request for a picture."""
    return Request("GET", READ_PATH, 302, threads=2)


def form_request(_site: Site, picture: Picture, _connections: int) -> Request:
    """A browser's form with the picture in the field `file`."""
    return Request("POST", "/media/upload", 201, {"Cookie": COOKIE, "Content-Type": picture.form_type}, picture.form)


def presigned_request(site: Site, picture: Picture, connections: int) -> Request:
    """A PUT of the bare file to presigned URLs; the cookie is for the proxy."""
    headers = {"Cookie": COOKIE, "Content-Type": "image/png"}
    return Request("PUT", "/", 200, headers, picture.file, site.presigned(picture, connections), threads=connections)


def tus_request(_site: Site, picture: Picture, _connections: int) -> Request:
    """A tus upload that is created and sent in one request (the extension creation-with-upload)."""
    headers = {
        "Cookie": COOKIE,
        "Tus-Resumable": "1.0.0",
        "Upload-Length": str(picture.size),
        "Upload-Metadata": "filename aG9saWRheS5wbmc=,filetype aW1hZ2UvcG5n",
        "Content-Type": "application/offset+octet-stream",
    }
    return Request("POST", "/files/", 201, headers, picture.file)


def media_storage(site: Site, port: int) -> Command:
    """This service as ``media-storage serve`` runs it."""
    environ = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "PUBLIC_BASE_URL": f"http://127.0.0.1:{port}",
        "BACKEND_VERIFY_URL": f"http://{site.backend}/auth/me",
        "MINIO_ENDPOINT": site.endpoint,
        "MINIO_ACCESS_KEY": ACCESS_KEY,
        "MINIO_SECRET_KEY": SECRET_KEY,
        "MINIO_BUCKET": BUCKET,
        "WORKERS": str(PROCESSES),
        "METRICS_PORT": str(free_port()),
        "PYTHONPATH": str(programs.ROOT),
    }
    return Command([sys.executable, "-m", "media_storage", "serve"], environ)


def express(site: Site, port: int) -> Command:
    """Express in a cluster."""
    environ = {"NODE_ENV": "production", "NODE_PATH": str(programs.express_folder() / "node_modules")}
    return Command(["node", str(programs.EXPRESS / "server.js")], {**environ, **_peer_environ(site, port)})


def naive_flask(site: Site, port: int) -> Command:
    """Flask on gunicorn's threads."""
    workers = ["--workers", str(PROCESSES), "--worker-class", "gthread", "--threads", str(FLASK_THREADS)]
    argv = [programs.peers_python(), "-m", "gunicorn", *workers, "--bind", f"127.0.0.1:{port}", "naive_flask:app"]
    return Command(argv, _peer_environ(site, port))


def fastapi(site: Site, port: int) -> Command:
    """FastAPI on uvicorn."""
    options = ["--workers", str(PROCESSES), "--no-access-log", "--log-level", "warning", "--host", "127.0.0.1", "--port", str(port)]
    return Command([programs.peers_python(), "-m", "uvicorn", *options, "fastapi_app:app"], _peer_environ(site, port))


def tusd(site: Site, port: int) -> Command:
    """tusd with its S3 store; a hook asks for the session before an upload begins."""
    hook = ["-hooks-http", f"http://{site.backend}/hook", "-hooks-enabled-events", "pre-create", "-hooks-http-forward-headers", "Cookie"]
    store = ["-s3-bucket", BUCKET, "-s3-endpoint", site.endpoint, "-s3-object-prefix", "uploads/7/"]
    options = ["-host", "127.0.0.1", "-port", str(port), "-max-size", str(10 * 1_048_576), "-verbose=false"]
    argv = [str(programs.tusd_folder() / "tusd"), *options, *store, *hook]
    return Command(argv, {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1"})


def nginx_proxy(site: Site, port: int) -> Command:
    """nginx between the client and the store."""
    return nginx.proxy(site.folder, port, site.store, site.backend, PROCESSES)


def nginx_redirect(site: Site, port: int) -> Command:
    """nginx that only redirects."""
    return nginx.redirect(site.folder, port, f"{site.endpoint}/{BUCKET}", PROCESSES)


def _peer_environ(site: Site, port: int) -> dict[str, str]:
    return {
        "PORT": str(port),
        "BACKEND": f"http://{site.backend}/auth/me",
        "ENDPOINT": site.endpoint,
        "BUCKET": BUCKET,
        "S3_ACCESS_KEY": ACCESS_KEY,
        "S3_SECRET_KEY": SECRET_KEY,
        "PYTHONPATH": str(Path(programs.PEERS)),
    }


def _nothing() -> str | None:
    return None


ALL = (
    System(OURS, _nothing, media_storage, form_request, redirects=True, takes_forms=True),
    System(EXPRESS, programs.lacks_express, express, form_request, redirects=True, takes_forms=True),
    System("naive Flask", programs.lacks_python_peers, naive_flask, form_request, redirects=True, takes_forms=True),
    System("FastAPI + aioboto3", programs.lacks_python_peers, fastapi, form_request, redirects=True, takes_forms=True),
    System("tusd", programs.lacks_tusd, tusd, tus_request, ready="/metrics"),
    System("nginx + presigned PUT", programs.lacks_nginx, nginx_proxy, presigned_request, ready="/ready"),
    System(DIRECT, _nothing, None, presigned_request),
    System("nginx return 302", programs.lacks_nginx, nginx_redirect, None, redirects=True),
)
