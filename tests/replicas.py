"""Two replicas of the service, which share a store and a Redis, behind nginx as deploy/ sets it up."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nginx
import servers
import tls


class Replica:
    """One of the services: it can be killed, ended and started again, on the same port."""

    def __init__(self, environ: dict[str, str], folder: Path) -> None:
        self._environ = environ | {"PORT": str(servers.free_port()), "WORKERS": "1"}
        self._folder = folder
        self._lives = 0
        self._stack = contextlib.ExitStack()
        self.address = f"127.0.0.1:{self._environ['PORT']}"
        self.start()

    def start(self) -> None:
        self._lives += 1
        self.service = self._stack.enter_context(servers.running_service(self._environ, self._folder / str(self._lives)))

    def kill(self) -> None:
        """SIGKILL to all of its processes at once, as when its machine is gone."""
        os.killpg(self.service.pid, signal.SIGKILL)

    def end(self) -> None:
        """SIGTERM; returns when it has ended."""
        self.service.piece.stop()

    def close(self) -> None:
        self._stack.close()


@dataclass
class Site:
    """Where clients go, and what is behind it."""

    url: str
    certificate: Path
    replicas: list[Replica]


def upstream(replicas: list[Replica]) -> str:
    """deploy/nginx-upstream.conf with these in place of its addresses."""
    text = nginx.shipped("nginx-upstream.conf")
    documented = re.findall(r"server ([\d.]+:\d+)", text)
    for old, replica in zip(documented, replicas, strict=True):
        text = text.replace(old, replica.address)
    return text


@contextlib.contextmanager
def running_replicas(environ: dict[str, str], folder: Path) -> Iterator[Site]:
    """Two replicas with these settings, and nginx in front of them."""
    certificate = tls.self_signed(folder)
    (folder / "nginx").mkdir()
    with contextlib.ExitStack() as stack:
        replicas = []
        for name in ("first", "second"):
            replicas.append(Replica(environ, folder / name))
            stack.callback(replicas[-1].close)
        one = nginx.media_site(replicas[0].address, certificate, folder / "nginx")
        site = re.sub(r"upstream media_storage \{.*?\n\}\n", lambda _: upstream(replicas), one, count=1, flags=re.DOTALL)
        assert "least_conn" in site
        proxy = stack.enter_context(nginx.running(site, folder / "nginx"))
        yield Site(proxy.url, certificate, replicas)
