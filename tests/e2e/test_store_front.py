"""The store behind the real nginx, as deploy/nginx-store.conf and docs/operating.md set it up, and what readers see there."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

import nginx
import servers
import tls
from deployed import ROOT
from live import Live
from pictures import make
from rawclient import picture

if sys.platform != "linux":
    pytest.skip("listens on 127.0.0.2, as Linux lets it", allow_module_level=True)

pytestmark = pytest.mark.parametrize("store", ["seaweedfs", "minio"], indirect=True, scope="session")


@dataclass
class Front:
    """nginx before the store, and a picture in it."""

    url: str
    certificate: Path
    live: Live
    key: str

    def ask(self, path: str, method: str = "GET", **more: dict[str, str]) -> requests.Response:
        return requests.request(method, f"{self.url}{path}", verify=str(self.certificate), allow_redirects=False, timeout=30, **more)


CONTENT = picture(5000)


@pytest.fixture
def front(live: Live, tmp_path: Path) -> Iterator[Front]:
    certificate = tls.self_signed(tmp_path)
    key = live.upload(CONTENT).json()["key"]
    with nginx.running(nginx.store_site(live.store.endpoint.removeprefix("http://"), certificate), tmp_path) as running:
        yield Front(running.url, certificate, live, key)


def test_it_gives_out_pictures_as_the_store_does(front: Front) -> None:
    """Content, type and caching are the store's; parts and unchanged copies too."""
    path = f"/{servers.BUCKET}/{front.key}"
    whole = front.ask(path)
    assert (whole.status_code, whole.content, whole.headers["Content-Type"]) == (200, CONTENT, "image/png")
    assert whole.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    assert whole.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    part = front.ask(path, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, CONTENT[10:20])
    assert front.ask(path, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    head = front.ask(path, "HEAD")
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(CONTENT)), b"")


def test_nobody_chooses_another_content_type(front: Front) -> None:
    """The stores do as a query says; behind this, it does not reach them."""
    path = f"/{servers.BUCKET}/{front.key}?response-content-type=text/html"
    assert requests.get(f"{front.live.store.endpoint}{path}", timeout=30).headers["Content-Type"].startswith("text/html")
    assert front.ask(path).headers["Content-Type"] == "image/png"


def test_it_gives_out_nothing_else(front: Front) -> None:
    """No listing, no bucket, no other path, and nothing can be changed."""
    bucket = f"/{servers.BUCKET}"
    paths = ["/", bucket, f"{bucket}/", f"{bucket}?list-type=2", f"{bucket}/uploads/", f"{bucket}/{front.key}/", f"/{front.key}"]
    paths += [
        f"//{servers.BUCKET}/{front.key}",
        f"{bucket}/{front.key.replace('.png', '.svg')}",
        "/minio/health/live",
        "/other/uploads/7/x.png",
    ]
    assert {path: front.ask(path).status_code for path in paths} == dict.fromkeys(paths, 404)
    for method in ("PUT", "POST", "DELETE", "OPTIONS"):
        assert front.ask(f"{bucket}/{front.key}", method).status_code == 403
    assert front.live.stored(front.key).content == CONTENT


def test_what_is_seen_of_a_deleted_picture(front: Front) -> None:
    """The link goes on redirecting; what it leads to is the store's 404, as docs/operating.md says."""
    link = f"{front.live.url}/media/{front.key}"
    assert requests.delete(link, headers={"Cookie": "session=alice"}, timeout=30).status_code == 204
    assert requests.get(link, allow_redirects=False, timeout=30).status_code == 302
    seen = front.ask(f"/{servers.BUCKET}/{front.key}")
    assert seen.status_code == 404
    assert make.png()[:8] not in seen.content


def test_a_cdn_that_knows_no_bucket(front: Front, tmp_path: Path) -> None:
    """The documented location takes the bucket out of the path, for an origin whose root it is."""
    (snippet,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "operating.md").read_text(), re.DOTALL)
    store = f"{front.live.store.endpoint}/{servers.BUCKET}/"
    root = f"server {{ listen 443 ssl; ssl_certificate {front.certificate}; ssl_certificate_key {front.certificate}; "
    with nginx.running(f"{root} location / {{ proxy_pass {store}; }} }}", tmp_path / "origin") as origin:
        assert front.ask("").status_code == 404
        assert _get(origin.url, f"/{front.key}", front).content == CONTENT
        changed = snippet.replace("https://pictures.example.net", origin.url)
        assert changed != snippet
        with nginx.running(f"{root} {changed} }}", tmp_path / "cdn") as cdn:
            seen = _get(cdn.url, f"/{servers.BUCKET}/{front.key}", front)
            assert (seen.status_code, seen.content, seen.headers["Content-Type"]) == (200, CONTENT, "image/png")


def _get(url: str, path: str, front: Front) -> requests.Response:
    return requests.get(f"{url}{path}", verify=str(front.certificate), timeout=30)
