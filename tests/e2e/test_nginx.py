"""The service behind the real nginx, as deploy/nginx.conf sets it up."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests

import nginx
import servers
import tls
from live import Live
from pictures import make
from rawclient import PART, UUID, Answer, body_of, head_for, picture, read_answer

if sys.platform != "linux":
    pytest.skip("listens on 127.0.0.2 and looks at processes, as Linux lets it", allow_module_level=True)

# What is behind the service makes no difference here.
pytestmark = pytest.mark.parametrize("store", ["seaweedfs"], indirect=True, scope="session")

MIB = 1_048_576
UPLOAD_SECONDS = 6  # that a body may take
KEY = f"uploads/7/{UUID}.jpg"
HEADERS = {"Content-Type": "multipart/form-data; boundary=B", "Cookie": "session=alice"}


@dataclass
class Site:
    """The service, and nginx in front of it."""

    live: Live  # its url is nginx's
    direct_url: str
    proxy: nginx.Nginx
    certificate: Path
    folder: Path

    @property
    def url(self) -> str:
        return self.proxy.url

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.certificate)
        sock = socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), timeout=60)
        return context.wrap_socket(sock, server_hostname="127.0.0.1")

    def ask(self, raw: bytes) -> Answer | None:
        """The answer to these bytes, on a connection of their own."""
        with self.connect() as sock:
            sock.sendall(raw)
            return read_answer(sock)

    def upload(self, content: bytes, **more: Any) -> requests.Response:
        return self.live.upload(content, verify=str(self.certificate), **more)

    def get(self, path: str, **more: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", verify=str(self.certificate), allow_redirects=False, timeout=30, **more)

    def post(self, body: Any) -> requests.Response:
        """One upload with the body written out; a generator is sent in chunks."""
        return requests.post(f"{self.url}/media/upload", data=body, headers=HEADERS, verify=str(self.certificate), timeout=60)

    def curl(self, *arguments: str, file: Path = Path(os.devnull)) -> tuple[int, dict[str, Any]]:
        """Status and document that curl sees; `file` is its standard input."""
        command = ["curl", "-sS", "--cacert", str(self.certificate), "-w", "\n%{http_code}", *arguments]
        with file.open("rb") as source:
            done = subprocess.run(command, stdin=source, capture_output=True, text=True, timeout=60, check=True)
        document, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(document)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tls.self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def service(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.RunningService]:
    """A service of this module's own."""
    own = {"UPLOAD_TIMEOUT_SECONDS": str(UPLOAD_SECONDS), "PUBLIC_BASE_URL": "https://127.0.0.1"}
    with servers.running_service(live.service.elsewhere | own, tmp_path_factory.mktemp("behind-nginx")) as running:
        yield running


@pytest.fixture(scope="module")
def site(live: Live, service: servers.RunningService, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("nginx")
    text = nginx.media_site(service.url.removeprefix("http://"), certificate, folder)
    with nginx.running(text, folder) as proxy:
        yield Site(replace(live, service=replace(service, url=proxy.url)), service.url, proxy, certificate, folder)


def test_upload_read_and_delete(site: Site) -> None:
    """The contract's answers, with all their headers, over TLS."""
    content = picture(300_000)
    made = site.upload(content)
    assert made.status_code == 201, made.text
    key = made.json()["key"]
    assert made.headers["Location"] == made.json()["url"] == f"https://127.0.0.1/media/{key}"
    assert made.headers["Cache-Control"] == "no-store"
    assert site.live.stored(key).content == content

    for method in ("GET", "HEAD"):
        read = requests.request(method, f"{site.url}/media/{key}?a=b", verify=str(site.certificate), allow_redirects=False, timeout=30)
        assert (read.status_code, read.headers["Location"]) == (302, f"{site.live.store.endpoint}/{servers.BUCKET}/{key}")
        assert read.headers["Cache-Control"] == "public, max-age=86400"
        assert read.headers["Access-Control-Allow-Origin"] == "*"
        assert read.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert read.headers["X-Content-Type-Options"] == "nosniff"
    gone = requests.delete(f"{site.url}/media/{key}", verify=str(site.certificate), headers={"Cookie": "session=alice"}, timeout=30)
    assert gone.status_code == 204
    assert key not in site.live.store.object_keys()


def test_the_older_path_limits_health_and_plain_http(site: Site) -> None:
    """`/upload` works too, `/media/limits` and `/healthz` answer, and plain http is sent to https with its path."""
    assert site.upload(make.png(), path="/upload").status_code == 201
    assert site.get("/media/limits").json()["maxBytes"] == 10 * MIB
    assert site.get("/healthz").text == "ok\n"
    plain = requests.get(f"{site.proxy.plain_url}/media/{KEY}?a=b", headers={"Host": "evil.example"}, allow_redirects=False, timeout=30)
    assert (plain.status_code, plain.headers["Location"]) == (308, f"https://127.0.0.1/media/{KEY}?a=b")


def test_http2_and_its_divided_cookies(site: Site, tmp_path: Path) -> None:
    """Browsers may send each cookie on its own over HTTP/2: nginx joins them as the protocol says, and the session is seen."""
    (tmp_path / "a.png").write_bytes(make.png())
    form = ["--http2", "-F", f"file=@{tmp_path / 'a.png'}", f"{site.url}/media/upload"]
    assert site.curl("-H", "Cookie: theme=dark", "-H", "Cookie: session=alice", *form)[0] == 201


def test_two_cookie_headers_are_still_refused(site: Site) -> None:
    """Over HTTP/1.1 nginx passes both on as they are, and the service refuses to guess."""
    body = body_of(make.png())
    answer = site.ask(head_for(len(body), more="Cookie: session=bob\r\n") + body)
    assert answer is not None
    assert (answer.status, answer.code) == (400, "bad_request")


@pytest.mark.parametrize("size", [100, 100_000, 10 * MIB])
def test_chunked_bodies(site: Site, size: int) -> None:
    """Stored as sent, up to exactly the limit."""
    body = body_of(picture(size))
    answer = site.post(iter([body[start : start + 70_000] for start in range(0, len(body), 70_000)]))
    assert answer.status_code == 201, answer.text
    assert site.live.stored(answer.json()["key"]).content == picture(size)


def test_a_body_is_passed_on_as_it_arrives(site: Site) -> None:
    """What is no picture is refused after its first bytes, with most of the body not sent and never to come."""
    with site.connect() as sock:
        began = time.monotonic()
        sock.sendall(head_for(5 * MIB) + PART + b"no picture " * 1000)
        answer = read_answer(sock)
        assert answer is not None
        assert (answer.status, answer.code) == (415, "unsupported_type")
        assert time.monotonic() - began < UPLOAD_SECONDS - 1


def test_a_slow_body_gets_the_services_408(site: Site) -> None:
    """nginx is the more patient of the two."""
    with site.connect() as sock:
        sock.sendall(head_for(5 * MIB) + PART + picture(1000))
        answer = read_answer(sock)
    assert answer is not None
    assert (answer.status, answer.code) == (408, "upload_timeout")


TIMES = 10


@pytest.mark.parametrize("megabytes", [11, 30])
@pytest.mark.parametrize("framing", ["declared", "chunked"])
@pytest.mark.parametrize("client", ["curl", "curl with HTTP/2", "http.client"])
def test_too_large_is_said_by_the_service(site: Site, tmp_path: Path, client: str, framing: str, megabytes: int) -> None:
    """Its own document reaches a client that is still sending, every time. (HTTP/2 has no chunks, only bodies without a length.)"""
    file = tmp_path / "body"
    file.write_bytes(body_of(picture(megabytes * MIB)))

    def send() -> tuple[int, dict[str, Any]]:
        if client == "http.client":
            return by_http_client(site, file, framing == "chunked")
        version = "--http2" if client.endswith("2") else "--http1.1"
        headers = [word for name, value in (*HEADERS.items(), ("Expect", "")) for word in ("-H", f"{name}: {value}".strip())]
        body = ["-T", "-"] if framing == "chunked" else ["--data-binary", f"@{file}"]
        return site.curl(version, *headers, "-X", "POST", *body, f"{site.url}/media/upload", file=file)

    for _ in range(TIMES):
        status, document = send()
        assert (status, document["code"], document["maxBytes"]) == (413, "file_too_large", 10 * MIB)


def by_http_client(site: Site, file: Path, chunked: bool) -> tuple[int, dict[str, Any]]:
    """A client that sends everything before it reads anything."""
    content = file.read_bytes()
    body: Any = iter([content[start : start + MIB] for start in range(0, len(content), MIB)]) if chunked else content
    context = ssl.create_default_context(cafile=site.certificate)
    host, _, port = site.url.removeprefix("https://").partition(":")
    with contextlib.closing(http.client.HTTPSConnection(host, int(port), context=context, timeout=30)) as connection:
        connection.request("POST", "/media/upload", body=body, headers=HEADERS, encode_chunked=chunked)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


OUTSIDE = ["/", "/readyz", "/openapi.json", "/metrics", "/healthz/", "/media", "/upload/", "/index.html"]
TRICKS = f"""
    //media/upload /media//evil.example/a //evil.example/media/x /media/%2e%2e/readyz /media/../readyz /media/..%2freadyz
    /media/%2e%2e%2freadyz /readyz;/../media/x /readyz/../media/x /media/x/../../readyz /%2e/readyz /./readyz http://x/readyz
    /media/{KEY}%3Fa /media//{KEY} /media/{KEY}/ /media/uploads/%37/{UUID}.jpg /media/uploads/8/../7/{UUID}.jpg
""".split()


@pytest.mark.parametrize("path", [*OUTSIDE, *TRICKS])
def test_no_path_leads_around(site: Site, path: str) -> None:
    """Neither to what is for the inside, nor to a redirect that another spelling of a key would get."""
    answer = site.ask(f"GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode())
    assert answer is not None
    assert answer.status == 404
    assert b"backend" not in answer.body
    assert "evil.example" not in str(answer.headers)


def test_both_logs_know_a_request_by_one_id(site: Site) -> None:
    """The caller's, or one of nginx's where there is none or none that the service takes; with the client's real address in nginx's."""
    given = "from-the-client-1"
    for offered in (given, None, "two words", "x" * 129):
        lie = {"X-Forwarded-For": "203.0.113.9"}
        answer = site.get(f"/media/{KEY}", headers=lie | ({"X-Request-ID": offered} if offered else {}))
        identity = answer.headers["X-Request-ID"]
        assert (identity == offered) == (offered == given)
        servers.wait_for(lambda identity=identity: identity in site.proxy.access_log.read_text(), 10)
        (line,) = [line for line in site.proxy.access_log.read_text().splitlines() if line.endswith(f" {identity}")]
        assert re.match(r"127\.0\.0\.1 \[", line)
        assert f'"GET /media/{KEY} HTTP/1.1" 302 ' in line
        assert [entry for entry in site.live.service.log_lines() if entry.get("id") == identity]
    assert "203.0.113.9" not in site.proxy.access_log.read_text() + site.live.service.log_file.read_text()


def test_connections_are_kept_and_no_upload_is_sent_twice(site: Site, certificate: Path, tmp_path: Path) -> None:
    """Calls share a connection to the service; when it breaks under an upload, nobody knows what became of it: the client is told."""
    with nginx.Upstream() as upstream:
        text = nginx.media_site(upstream.address, certificate, tmp_path, second=upstream.address)
        with nginx.running(text, tmp_path) as proxy:
            own = replace(site, proxy=proxy)
            assert [own.get("/healthz").status_code for _ in range(6)] == [200] * 6
            assert upstream.connections <= 2
            answer = own.ask(head_for(len(body := body_of(make.png()))) + body)
    assert answer is not None
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "shutting_down", "2")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.document["requestId"] == answer.headers["X-Request-ID"]
    assert len([line for line in upstream.requests if line.startswith(b"POST")]) == 1


def test_of_two_servers_one_may_be_away(site: Site, certificate: Path, tmp_path: Path) -> None:
    """Uploads go to the one that is there, none of them twice and none of them lost."""
    address = site.direct_url.removeprefix("http://")
    text = nginx.media_site(f"127.0.0.1:{servers.free_port()}", certificate, tmp_path, second=address)
    before = site.live.store.object_keys()
    with nginx.running(text, tmp_path) as proxy:
        own = replace(site, proxy=proxy)
        made = {own.post(body_of(make.png())).json()["key"] for _ in range(8)}
    assert len(made) == 8
    assert site.live.store.object_keys() - before == made


def test_a_restart_behind_nginx(site: Site, certificate: Path, tmp_path: Path) -> None:
    """The upload in flight gets its 201, who comes meanwhile a refusal that says when to try again, and afterwards all is as before."""
    environ = site.live.service.elsewhere | {"PORT": str(servers.free_port()), "UPLOAD_TIMEOUT_SECONDS": "60"}
    body = body_of(picture(200_000))
    before = site.live.store.object_keys()
    with nginx.running(nginx.media_site(f"127.0.0.1:{environ['PORT']}", certificate, tmp_path), tmp_path) as proxy:
        own = replace(site, proxy=proxy)
        with servers.running_service(environ, tmp_path / "first") as service, own.connect() as sock, ThreadPoolExecutor() as pool:
            sock.sendall(head_for(len(body)) + body[:1000])
            time.sleep(0.5)
            service.piece.send_signal(signal.SIGTERM)
            servers.wait_for(lambda: own.get("/healthz").status_code == 503, 15)
            refused = list(pool.map(lambda _: own.post(body), range(5)))
            sock.sendall(body[1000:])
            finished = read_answer(sock)
        assert finished is not None
        assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {(503, "shutting_down")}
        with servers.running_service(environ, tmp_path / "second"):
            again = own.post(body)
        assert again.status_code == 201
    assert site.live.store.object_keys() - before == {finished.key, again.json()["key"]}
