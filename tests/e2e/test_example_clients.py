"""The examples of clients, curl and a browser, as they stand in examples/: in front of the stand-in, the service and a store."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live import Site
from pictures import make

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MIB = 1_048_576
WAYS = pytest.mark.parametrize("way", ["fetch", "XHR"])


def test_curl(site: Site, tmp_path: Path) -> None:
    """Each step says what it should: the same bytes come back, the refusal is a 415 with its document, the end is a 204."""
    if not shutil.which("sh") or not shutil.which("curl"):
        pytest.skip("sh or curl is not here")
    picture = tmp_path / "holiday day.jpg"
    picture.write_bytes(make.jpeg(64, 48))
    command = ["sh", str(EXAMPLES / "curl.sh"), str(picture), site.page_url.rstrip("/")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    upload, read, refusal, end = re.split(r"^== .*\n", done.stdout, flags=re.MULTILINE)[1:]
    answer = json.loads(upload)
    assert (answer["contentType"], answer["size"]) == ("image/jpeg", picture.stat().st_size)
    assert read == f"the same picture from {answer['url']}\n"
    document, _, kind = refusal.rstrip("\n").rpartition("\n")
    assert (json.loads(document)["code"], kind) == ("unsupported_type", "415 application/problem+json")
    assert end == "204\n"


@pytest.fixture
def page(browser: Any, site: Site) -> Iterator[Any]:
    """The backend's own page, where alice is signed in, with upload.js beside the scripts that its content policy allows."""
    context = browser.new_context(base_url=site.page_url, bypass_csp=True)
    context.set_default_timeout(15_000)
    assert context.request.post("/auth/sign-in", data={"name": "alice", "password": "picture"}).ok
    tab = context.new_page()
    tab.route("**/upload.js", lambda route: route.fulfill(path=EXAMPLES / "browser" / "upload.js", content_type="text/javascript"))
    tab.goto("/")
    tab.evaluate("async () => { window.example = await import('/upload.js'); }")
    yield tab
    context.close()


UPLOAD = """
async ([start, size, xhr, options]) => {
  const file = new File([new Uint8Array(start), new Uint8Array(size - start.length)], 'a.png', {type: 'image/gif'});
  const shares = [];
  if (xhr) options.onProgress = (share) => shares.push(share);
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  try { return {answer: await example.upload(file, options), shares, seconds: seconds()}; }
  catch (error) {
    const {name, message, status, code, requestId} = error;
    return {name, message, status, code, requestId, refused: error instanceof example.UploadRefused, shares, seconds: seconds()};
  }
}
"""


def upload(page: Any, way: str, content: bytes = make.png(31, 17), size: int = 0, **options: Any) -> dict[str, Any]:
    """What a script of the page sees of an upload of `content`, filled up to `size` bytes."""
    seen: dict[str, Any] = page.evaluate(UPLOAD, [list(content), max(size, len(content)), way == "XHR", options])
    return seen


def answer_first(page: Any, *answers: dict[str, Any]) -> list[str]:
    """Lets the first uploads be answered so, and the later ones by the service; returns a list that grows with each."""
    left, sent = list(answers), []

    def handle(route: Any) -> None:
        sent.append(route.request.method)
        if left:
            route.fulfill(**left.pop(0))
        else:
            route.continue_()

    page.route("**/media/upload", handle)
    return sent


def problem(status: int, code: str, retry_after: str) -> dict[str, Any]:
    document = {"status": status, "code": code, "detail": "Wait a moment.", "requestId": "r-1"}
    return {
        "status": status,
        "body": json.dumps(document),
        "headers": {"Content-Type": "application/problem+json", "Retry-After": retry_after},
    }


@WAYS
def test_an_upload_can_be_shown(page: Any, way: str) -> None:
    """The answer has the URL, which an `<img>` draws."""
    seen = upload(page, way)
    assert (seen["answer"]["width"], seen["answer"]["height"]) == (31, 17), seen
    draw = "async (url) => { const i = new Image(); i.src = url; await i.decode(); return [i.naturalWidth, i.naturalHeight]; }"
    assert page.evaluate(draw, seen["answer"]["url"]) == [31, 17]


def test_progress_grows_until_all_is_sent(page: Any) -> None:
    """Several times for a large picture, never backwards, and 1 at the end."""
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 8 * MIB}
    network.send("Network.emulateNetworkConditions", slow)
    shares = upload(page, "XHR", size=4 * MIB)["shares"]
    assert len(shares) > 1
    assert shares == sorted(shares)
    assert (shares[0] > 0, shares[-1]) == (True, 1)


@WAYS
def test_what_is_too_large_is_not_sent(page: Any, way: str) -> None:
    """One byte more than the service's limit; exactly the limit goes through."""
    sent = answer_first(page)
    seen = upload(page, way, size=10 * MIB + 1)
    assert (seen["refused"], seen["status"], seen["code"]) == (True, 413, "file_too_large")
    assert seen["message"] == "This file is too large: at most 10 MB can be shared."
    assert not sent
    assert upload(page, way, size=10 * MIB)["answer"]["size"] == 10 * MIB


@WAYS
def test_a_refusal_is_told_in_the_services_words(page: Any, way: str) -> None:
    """`detail` becomes the message; the code and the request's id come with it. It is not tried again."""
    sent = answer_first(page)
    seen = upload(page, way, b"Dear diary, the sea was warm. " * 20)
    assert (seen["refused"], seen["status"], seen["code"]) == (True, 415, "unsupported_type")
    assert "JPEG, PNG and WebP" in seen["message"]
    assert seen["requestId"]
    assert len(sent) == 1


@WAYS
def test_who_is_not_signed_in_learns_it(page: Any, way: str) -> None:
    """A 401 is said once, and not tried again."""
    page.context.clear_cookies()
    seen = upload(page, way)
    assert (seen["refused"], seen["status"], seen["code"]) == (True, 401, "unauthenticated")


@WAYS
@pytest.mark.parametrize("status", [429, 503])
def test_it_waits_as_long_as_it_is_told(page: Any, way: str, status: int) -> None:
    """Retry-After's seconds, then once more; the second answer is the service's 201."""
    sent = answer_first(page, problem(status, "overloaded", "1"))
    seen = upload(page, way)
    assert seen["answer"]["contentType"] == "image/png"
    assert 1 <= seen["seconds"] < 5  # what it waits without being told
    assert len(sent) == 2


@WAYS
def test_it_gives_up_in_the_end(page: Any, way: str) -> None:
    """After as many attempts as asked for, with the last answer's words."""
    sent = answer_first(page, *[problem(503, "store_unavailable", "1")] * 3)
    seen = upload(page, way, attempts=2)
    assert (seen["refused"], seen["status"], seen["code"], seen["message"]) == (True, 503, "store_unavailable", "Wait a moment.")
    assert seen["requestId"] == "r-1"
    assert len(sent) == 2


@WAYS
def test_an_answer_that_is_no_problem_document(page: Any, way: str) -> None:
    """A proxy's page is no JSON: the status is said."""
    answer_first(page, {"status": 413, "body": "<h1>Too large</h1>", "content_type": "text/html"})
    seen = upload(page, way)
    assert (seen["refused"], seen["status"], seen["code"]) == (True, 413, "unknown")
    assert seen["message"] == "The upload failed with status 413."


@WAYS
def test_no_answer_in_time(page: Any, way: str) -> None:
    """TimeoutError, as fetch calls it."""
    page.route("**/media/upload", lambda _: None)
    seen = upload(page, way, timeout=300)
    assert (seen["name"], seen["refused"]) == ("TimeoutError", False)


@WAYS
def test_no_connection(page: Any, way: str) -> None:
    """TypeError, as fetch calls it."""
    page.route("**/media/upload", lambda route: route.abort())
    seen = upload(page, way)
    assert (seen["name"], seen["refused"]) == ("TypeError", False)
