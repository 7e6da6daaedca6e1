"""nginx in three parts: the chat backend that costs nothing, a proxy that only checks the session, a redirect that does nothing else."""

import os
from pathlib import Path

from benchmarks import programs
from benchmarks.processes import Command

_CONFIGURATION = """\
{user}
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
worker_processes {workers};
events {{ worker_connections 4096; }}
http {{
  access_log off;
  default_type application/json;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {upstreams}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    {locations}
  }}
}}
"""

# The user of every session is 7; /hook is where tusd asks whether an upload may begin.
_BACKEND = """\
location = /auth/me { return 200 '{"id": 7}'; }
location = /hook { return 200 '{}'; }
"""

_PROXY_UPSTREAMS = "upstream store {{ server {store}; keepalive 64; }} upstream backend {{ server {backend}; keepalive 64; }}"
_PROXY = """\
location = /ready {{ return 200; }}
client_max_body_size 11m;
location / {{
  auth_request /session;
  proxy_request_buffering off;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host {store};
  proxy_pass http://store;
}}
location = /session {{
  internal;
  proxy_pass_request_body off;
  proxy_set_header Content-Length "";
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_pass http://backend/auth/me;
}}
"""


def backend(folder: Path, port: int) -> Command:
    """The chat backend: every session is valid."""
    return _command(folder, port, 1, "", _BACKEND)


def proxy(folder: Path, port: int, store: str, backend: str, workers: int) -> Command:
    """`auth_request` and `proxy_pass` to the store; both as host:port."""
    upstreams = _PROXY_UPSTREAMS.format(store=store, backend=backend)
    return _command(folder, port, workers, upstreams, _PROXY.format(store=store))


def redirect(folder: Path, port: int, base: str, workers: int) -> Command:
    """`return 302` to the same path below `base`."""
    return _command(folder, port, workers, "", f"location / {{ return 302 {base}$uri; }}")


def _command(folder: Path, port: int, workers: int, upstreams: str, locations: str) -> Command:
    own = folder / f"nginx-{port}"
    own.mkdir(exist_ok=True)
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers, as nobody, could not enter this user's folders
    text = _CONFIGURATION.format(user=user, folder=own, workers=workers, port=port, upstreams=upstreams, locations=locations)
    file = own / "nginx.conf"
    file.write_text(text, encoding="utf-8")
    return Command([programs.nginx(), "-e", "stderr", "-p", str(own), "-c", str(file)])
