"""A client that is refused early sees why, while it is still sending 30 MB: every time, with every kind of client."""

import contextlib
import http.client
import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import servers
from live import Live
from pictures import make

# A refusal never gets as far as a store.
pytestmark = [pytest.mark.parametrize("store", ["seaweedfs"], indirect=True, scope="session"), pytest.mark.long]

DECLARED = ["413 declared", "401", "403", "415"]
each_kind = pytest.mark.parametrize("kind", [*DECLARED, "413 chunked"])

MIB = 1_048_576
TIMES = 50
TIMES_IN_A_BROWSER = 10
HEADERS = {"Content-Type": "multipart/form-data; boundary=B"}
PART = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@pytest.fixture(scope="session")
def roomy(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service that takes 40 MB, so that 30 MB of declared length are not what is refused."""
    with servers.running_service(live.service.elsewhere | {"MAX_UPLOAD_MB": "40"}, tmp_path_factory.mktemp("roomy")) as service:
        yield service.url


@pytest.fixture(scope="session")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that hold whole multipart bodies of 30 MB: a picture, and what is none."""
    folder = tmp_path_factory.mktemp("bodies")
    contents = {"picture": make.png(after=bytes(30 * MIB)), "text": b"Dear diary, the sea was warm.\n" * MIB}
    for name, content in contents.items():
        (folder / name).write_bytes(PART + content + b"\r\n--B--\r\n")
    return {name: folder / name for name in contents}


class Case:
    """What is sent where, and the code that has to arrive."""

    def __init__(self, kind: str, live: Live, roomy: str, bodies: dict[str, Path]) -> None:
        self.chunked = kind == "413 chunked"
        self.url = f"{live.url if kind.startswith('413') else roomy}/media/upload"
        self.file = bodies["text" if kind == "415" else "picture"]
        self.headers = HEADERS | {"Cookie": "session=mallory" if kind == "401" else "session=alice"}
        if kind == "403":
            self.headers |= {"Origin": "https://evil.example"}
        self.status = int(kind[:3])
        self.code = {413: "file_too_large", 401: "unauthenticated", 403: "origin_not_allowed", 415: "unsupported_type"}[self.status]

    @property
    def body(self) -> Any:
        content = self.file.read_bytes()
        return iter([content[start : start + MIB] for start in range(0, len(content), MIB)]) if self.chunked else content


@pytest.fixture
def case(kind: str, live: Live, roomy: str, bodies: dict[str, Path]) -> Case:
    return Case(kind, live, roomy, bodies)


def all_arrive(case: Case, send: Callable[[], tuple[int, str]], times: int = TIMES) -> None:
    """Whatever an attempt ends with is counted; only the refusal may be."""
    seen = Counter(_outcome(send) for _ in range(times))
    assert seen == {(case.status, case.code): times}


def _outcome(send: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    try:
        return send()
    except Exception as exc:  # the client's own error is what must not happen
        return (0, repr(exc))


@each_kind
@pytest.mark.parametrize("expect", [True, False], ids=["with Expect", "without Expect"])
def test_curl_sees_it(case: Case, expect: bool) -> None:
    """With `Expect: 100-continue`, as curl sends it by itself, and without."""
    command = ["curl", "-sS", "-X", "POST", "--data-binary", f"@{case.file}", "-w", "\n%{http_code}"]
    headers = case.headers | ({"Transfer-Encoding": "chunked"} if case.chunked else {})
    command += [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    command += ["-H", "Expect: 100-continue" if expect else "Expect:", case.url]

    def send() -> tuple[int, str]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        document, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(document)["code"]

    all_arrive(case, send)


@each_kind
def test_a_client_that_has_to_send_everything_sees_it(case: Case) -> None:
    """http.client, as a stand-in for clients, proxies and systems that forget the answer once they cannot send: nothing stops them."""
    host, _, port = case.url.removeprefix("http://").partition("/")[0].partition(":")

    def send() -> tuple[int, str]:
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=30)) as connection:
            connection.request("POST", "/media/upload", body=case.body, headers=case.headers, encode_chunked=case.chunked)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())["code"]

    all_arrive(case, send)


@each_kind
def test_requests_sees_it(case: Case) -> None:
    """requests reads nothing before it has sent all; each time on a new connection."""

    def send() -> tuple[int, str]:
        answer = requests.post(case.url, data=case.body, headers=case.headers, timeout=30)
        return answer.status_code, answer.json()["code"]

    all_arrive(case, send)


@each_kind
def test_a_connection_that_is_kept_sees_it(case: Case) -> None:
    """A client that goes on with the same connection: the next request is neither lost nor taken for the rest of the body."""
    with requests.Session() as session:
        session.trust_env = False

        def send() -> tuple[int, str]:
            answer = session.post(case.url, data=case.body, headers=case.headers, timeout=30)
            began = time.perf_counter()
            assert session.get(case.url.replace("/upload", "/limits"), timeout=30).status_code == 200
            assert time.perf_counter() - began < 2
            return answer.status_code, answer.json()["code"]

        all_arrive(case, send, TIMES // 5)


@each_kind
def test_httpx_sees_it(case: Case) -> None:
    """httpx gives up sending when the connection breaks, and then looks for an answer."""
    httpx = pytest.importorskip("httpx", reason="httpx is not here: pip install httpx")
    with httpx.Client(timeout=30, trust_env=False) as client:

        def send() -> tuple[int, str]:
            answer = client.post(case.url, content=case.body, headers=case.headers)
            return answer.status_code, answer.json()["code"]

        all_arrive(case, send)


NODE = """
const [url, file, headers, chunked, times] = JSON.parse(process.argv[1]);
const body = require('fs').readFileSync(file);
const pieces = async function* () { for (let at = 0; at < body.length; at += 1048576) yield body.subarray(at, at + 1048576); };
const send = async () => {
  try {
    const answer = await fetch(url, {method: 'POST', headers, duplex: 'half', body: chunked ? pieces() : body});
    return [answer.status, (await answer.json()).code];
  } catch (error) { return [0, String(error.cause ?? error)]; }
};
(async () => {
  const seen = [];
  for (let number = 0; number < times; number++) seen.push(await send());
  console.log(JSON.stringify(seen));
})();
"""


@each_kind
def test_nodes_fetch_sees_it(case: Case) -> None:
    """`fetch` of Node, which backends in JavaScript forward with."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not here")
    given = json.dumps([case.url, str(case.file), case.headers, case.chunked, TIMES])
    done = subprocess.run([node, "-e", NODE, given], capture_output=True, text=True, timeout=100, check=True)
    assert Counter(map(tuple, json.loads(done.stdout))) == {(case.status, case.code): TIMES}


IN_A_PAGE = """
async ([url, text, times, xhr]) => {
  const start = new Uint8Array([0x89, 0x50, 0x4e, 0x47, 0xd, 0xa, 0x1a, 0xa]);
  const content = text ? 'Dear diary, the sea was warm. '.repeat(1048576) : new Uint8Array(30 * 1048576);
  const form = new FormData();
  form.append('file', new Blob(text ? [content] : [start, content]), 'a.png');
  const byFetch = async () => {
    const answer = await fetch(url, {method: 'POST', body: form, credentials: 'include'});
    return [answer.status, (await answer.json()).code];
  };
  const byXhr = () => new Promise((done, fail) => {
    const request = new XMLHttpRequest();
    request.open('POST', url);
    request.withCredentials = true;
    request.onload = () => done([request.status, JSON.parse(request.response).code]);
    request.onerror = () => fail(new Error('the request failed'));
    request.send(form);
  });
  const seen = [];
  for (let number = 0; number < times; number++)
    seen.push(await (xhr ? byXhr() : byFetch()).catch((error) => [0, String(error)]));
  return seen;
}
"""


@pytest.mark.parametrize("kind", DECLARED)  # a browser sends no chunks over HTTP/1.1
@pytest.mark.parametrize("way", ["fetch", "XHR"])
def test_a_browser_sees_it(case: Case, kind: str, way: str, browser: Any) -> None:
    """A page of the service's own origin; for 403 a page of another, whose script may see nothing but whose browser does."""
    origin = case.url.removesuffix("/media/upload")
    context = browser.new_context()
    context.add_cookies([{"name": "session", "value": case.headers["Cookie"].partition("=")[2], "domain": "127.0.0.1", "path": "/"}])
    page = context.new_page()
    page.goto(f"{origin.replace('127.0.0.1', 'localhost') if kind == '403' else origin}/healthz")
    statuses: list[int] = []  # without the 404 that every page gets for its icon
    network = context.new_cdp_session(page)
    network.on(
        "Network.responseReceivedExtraInfo", lambda event: statuses.append(event["statusCode"]) if event["statusCode"] != 404 else None
    )
    network.send("Network.enable")
    seen = page.evaluate(IN_A_PAGE, [case.url, kind == "415", TIMES_IN_A_BROWSER, way == "XHR"])
    context.close()
    assert statuses == [case.status] * TIMES_IN_A_BROWSER, seen
    if kind != "403":
        assert Counter(map(tuple, seen)) == {(case.status, case.code): TIMES_IN_A_BROWSER}
