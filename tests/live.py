"""What the end-to-end tests talk to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

import servers

STORES = ["seaweedfs", "minio", "moto"]


def on_every_server(*stores: str) -> pytest.MarkDecorator:
    """The mark of a module whose tests run with our own server before these stores, and with Windows' servers before the first of them.

    So that, of what Windows runs, the system alone is left untested.
    """
    others = [server for server in servers.WINDOWS_SERVERS if server != servers.OWN_SERVER]
    pairs = [(store, servers.OWN_SERVER) for store in stores] + [(stores[0], server) for server in others]
    return pytest.mark.parametrize(("store", "server"), pairs, indirect=True, scope="session")


@dataclass
class Live:
    """A running service and what is around it."""

    store: servers.RunningStore
    backend: servers.ChatBackend
    service: servers.RunningService
    spool_folder: Path

    @property
    def url(self) -> str:
        return self.service.url

    def upload(self, content: bytes, cookie: str | None = "session=alice", **more: Any) -> requests.Response:
        """One upload, as a chat backend would send it on."""
        headers = {"Cookie": cookie} if cookie is not None else {}
        name, kind = more.pop("name", "holiday.bin"), more.pop("kind", "application/octet-stream")
        path, more_headers = more.pop("path", "/media/upload"), more.pop("headers", {})
        files = {more.pop("field", "file"): (name, content, kind)}
        return requests.post(f"{self.url}{path}", files=files, headers={**headers, **more_headers}, timeout=60, **more)

    def post(self, body: Any, boundary: str = "B", cookie: str | None = "session=alice", **headers: str) -> requests.Response:
        """One upload with the body written out; a generator is sent in chunks, one for each piece."""
        given = {"Content-Type": f"multipart/form-data; boundary={boundary}"} | ({"Cookie": cookie} if cookie is not None else {})
        return requests.post(f"{self.url}/media/upload", data=body, headers=given | headers, timeout=60)

    def stored(self, key: str) -> requests.Response:
        """The object as anyone gets it from the store."""
        return requests.get(f"{self.store.endpoint}/{servers.BUCKET}/{key}", timeout=10)


@dataclass
class Audit:
    """What the bucket held when the test began."""

    live: Live
    before: set[str]

    def new_keys(self) -> set[str]:
        return self.live.store.object_keys() - self.before


@dataclass
class Site:
    """The stand-in backend's page, and the service behind it."""

    page_url: str
    public_url: str
