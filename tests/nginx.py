"""The real nginx with the sites of deploy/, their names and ports changed, and nothing else."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

import servers
from deployed import DEPLOY
from media_storage.dev.pieces import Piece

_AROUND = """\
{user}
daemon off;
pid {folder}/nginx.pid;
worker_processes 1;
worker_rlimit_nofile 4096;
events {{ worker_connections 1024; }}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {site}
}}
"""


@dataclass
class Nginx:
    """A running nginx: where it answers, and what it logs."""

    url: str
    plain_url: str
    access_log: Path


def program() -> str:
    """nginx's path; the test is skipped where it is not installed."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("nginx is not here: on Debian `apt-get install nginx-light`")
    return found


def shipped(name: str, **names: str) -> str:
    """A file of deploy/ with the names that its head tells operators to replace replaced."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    for old, new in names.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def on_loopback(text: str, port: int, plain_port: int) -> str:
    """The same site on other ports, of loopback alone."""
    for number, own in (("443", port), ("80", plain_port)):
        text = re.sub(rf"listen {number}\b", f"listen 127.0.0.1:{own}", text)
        text = re.sub(rf"listen \[::\]:{number}\b", f"listen 127.0.0.2:{own}", text)
    return text


def write(site: str, folder: Path) -> list[str]:
    """The command that runs nginx with this site, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers, as nobody, could not enter this user's folders
    file = folder / "nginx.conf"
    file.write_text(_AROUND.format(user=user, folder=folder, site=site), encoding="utf-8")
    return [program(), "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(file)]


def verdict(site: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What `nginx -t` says of a site."""
    return subprocess.run([*write(site, folder), "-t"], capture_output=True, text=True, timeout=30, check=False)


@contextlib.contextmanager
def running(site: str, folder: Path) -> Iterator[Nginx]:
    """nginx with a site whose standard ports are replaced by free ones."""
    port, plain_port = servers.free_port(), servers.free_port()
    piece = Piece("nginx", write(on_loopback(site, port, plain_port), folder), {}, folder / "nginx.log")
    try:
        piece.wait_until(lambda: servers.embedded.is_taken(port), servers.START_SECONDS)
        yield Nginx(f"https://127.0.0.1:{port}", f"http://127.0.0.1:{plain_port}", folder / "access.log")
    finally:
        piece.stop()


def media_site(upstream: str, certificate: Path, folder: Path, second: str = "") -> str:
    """deploy/nginx.conf before the service at `upstream` (host:port), and with the suggested second one if it is given."""
    names = {
        "media.example.com": "127.0.0.1",
        "/etc/ssl/media-storage.crt": str(certificate),
        "/etc/ssl/media-storage.key": str(certificate),
        "127.0.0.1:9101": upstream,
        "/var/log/nginx/media-storage.log": str(folder / "access.log"),
    }
    if second:
        names["# server 127.0.0.1:9111;"] = f"server {second};"
    return shipped("nginx.conf", **names)


def store_site(upstream: str, certificate: Path) -> str:
    """deploy/nginx-store.conf before the store at `upstream`."""
    names = {
        "img.example.com": "127.0.0.1",
        "/etc/ssl/img.crt": str(certificate),
        "/etc/ssl/img.key": str(certificate),
        "127.0.0.1:9000": upstream,
    }
    return shipped("nginx-store.conf", **names)


class Upstream:
    """Something in place of the service: counts connections, and gives each request to a function that answers or hangs up."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            while data := sock.recv(65_536):
                line = data.partition(b"\r\n")[0]
                self.requests.append(line)
                if line.startswith(b"POST"):
                    time.sleep(0.2)  # the whole request is there
                    return
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
