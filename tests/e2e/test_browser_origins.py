"""What web pages can do to a signed-in user, in headless Chromium: pages of allowed origins, of others, and of none."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

import servers
from live import Audit, Live
from pictures import make

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not here: it has no wheel for this platform")

from pictures import chromium  # noqa: E402 - it imports Playwright

pytestmark = pytest.mark.parametrize("store", ["seaweedfs"], indirect=True, scope="session")

# Names that only this browser knows. A cookie of chat.example is of the same site as media.chat.example, but evil.example is another.
RULES = "MAP chat.example 127.0.0.1, MAP *.chat.example 127.0.0.1, MAP evil.example 127.0.0.1"


class Pages(ThreadingHTTPServer):
    """Serves `pages[path]`, or an empty page, to every host name that leads here."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        pages = self.pages

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = f"<!doctype html><meta charset=utf-8><title>a page</title>{pages.get(self.path, '')}".encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


@dataclass
class Web:
    """The service under a name of its own, and a server of pages under several."""

    live: Live
    pages: Pages

    @property
    def media(self) -> str:
        return f"http://media.chat.example:{self.live.url.rpartition(':')[2]}"

    def origin(self, name: str) -> str:
        """Of the pages: `chat` may upload; `other port` has the same host as the service, `evil` is another site."""
        host = {"chat": "chat.example", "other port": "media.chat.example", "evil": "evil.example"}[name]
        return f"http://{host}:{self.pages.server_port}"


@pytest.fixture(scope="module")
def web(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    pages = Pages()
    port = str(servers.free_port())
    environ = live.service.environ | {
        "PORT": port,
        "PUBLIC_BASE_URL": f"http://media.chat.example:{port}",
        "ALLOWED_ORIGINS": f"http://chat.example:{pages.server_port}",
        "WORKERS": "1",
    }
    with servers.running_service(environ, tmp_path_factory.mktemp("web")) as service:
        yield Web(Live(live.store, live.backend, service, live.spool_folder), pages)
    pages.shutdown()
    pages.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if chromium.executable() is None:
        pytest.skip("Chromium is not here: none of chromium, chromium-browser and google-chrome is on the PATH")
    with api.sync_playwright() as playwright:
        flags = [*chromium.FLAGS, f"--host-resolver-rules={RULES}"]
        running = playwright.chromium.launch(executable_path=chromium.executable(), args=flags)
        yield running
        running.close()


@dataclass
class Tab:
    """A page of the browser in which alice is signed in, and what the network saw of the service."""

    page: Any
    web: Web
    sent: dict[str, dict[str, str]]
    statuses: list[int]

    def open(self, name: str, content: str = "") -> None:
        self.web.pages.pages["/x"] = content
        self.page.goto(f"{self.web.origin(name)}/x")

    def upload(self, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """What a script of the page sees of its own upload."""
        seen: dict[str, Any] = self.page.evaluate(UPLOAD, [f"{self.web.media}/media/upload", list(make.png()), headers or {}])
        return seen

    def delete(self, url: str) -> dict[str, Any]:
        seen: dict[str, Any] = self.page.evaluate(DELETE, url)
        return seen


@pytest.fixture
def tab(browser: Any, web: Web) -> Iterator[Tab]:
    context = browser.new_context()
    context.set_default_timeout(15_000)
    context.add_cookies([{"name": "session", "value": "alice", "domain": "media.chat.example", "path": "/", "sameSite": "Lax"}])
    page = context.new_page()
    found = Tab(page, web, {}, [])
    network = context.new_cdp_session(page)
    network.on("Network.requestWillBeSentExtraInfo", lambda event: found.sent.update({event["requestId"]: event["headers"]}))
    network.on("Network.responseReceivedExtraInfo", lambda event: found.statuses.append(event["statusCode"]))
    network.send("Network.enable")
    yield found
    context.close()


@pytest.fixture
def calls(web: Web) -> Callable[[], list[str]]:
    """What the service was asked since the test began, as its log tells it."""
    start = len(web.live.service.log_lines())

    def since() -> list[str]:
        lines = web.live.service.log_lines()[start:]
        return [line["message"] for line in lines if line["logger"] == "media_storage.request"]

    return since


UPLOAD = """
async ([url, bytes, headers]) => {
  const form = new FormData();
  form.append('file', new Blob([new Uint8Array(bytes)]), 'a.png');
  try {
    const answer = await fetch(url, {method: 'POST', body: form, headers, credentials: 'include'});
    const seen = Object.fromEntries(['Location', 'X-Request-ID', 'Content-Type'].map((name) => [name, answer.headers.get(name)]));
    return {status: answer.status, body: await answer.json(), headers: seen};
  } catch (error) { return {status: 0, error: String(error)}; }
}
"""
DELETE = """
async (url) => {
  try { return {status: (await fetch(url, {method: 'DELETE', credentials: 'include'})).status}; }
  catch (error) { return {status: 0, error: String(error)}; }
}
"""
FORM = """
<form method=post enctype=multipart/form-data action="%s" target=answer><input type=file name=file></form><iframe name=answer></iframe>
<script>
  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(%s)], 'a.png', {type: 'image/png'}));
  document.querySelector('input').files = files.files;
  document.querySelector('form').%s;
</script>
"""


def test_a_page_of_an_allowed_origin_uploads_and_takes_back(web: Web, tab: Tab, audit: Audit, calls: Callable[[], list[str]]) -> None:
    """With the cookie, after preflights where the browser wants them; the script reads the answer and the headers that it needs."""
    tab.open("chat")
    seen = tab.upload()
    assert seen["status"] == 201, seen
    assert seen["headers"]["Location"] == seen["body"]["url"]
    assert seen["headers"]["X-Request-ID"]
    assert calls() == ["201 POST /media/upload"]  # a form needs no preflight: that is why there must be the rule
    seen = tab.upload({"X-Request-ID": "from-a-page"})
    assert (seen["status"], seen["headers"]["X-Request-ID"]) == (201, "from-a-page")
    assert calls()[1:] == ["204 OPTIONS /media/upload", "201 POST /media/upload"]
    assert len(audit.new_keys()) == 2
    assert tab.delete(seen["body"]["url"])["status"] == 204
    assert [call.split()[:2] for call in calls()[3:]] == [["204", "OPTIONS"], ["204", "DELETE"]]
    assert len(audit.new_keys()) == 1


def test_a_page_of_an_allowed_origin_reads_why_it_was_refused(tab: Tab) -> None:
    """A refusal carries the CORS headers too, so that the page can say what to do."""
    tab.open("chat")
    tab.page.context.clear_cookies()
    seen = tab.upload()
    assert (seen["status"], seen["body"]["code"]) == (401, "unauthenticated")
    assert seen["headers"]["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["other port", "evil"])
def test_a_script_of_another_origin_uploads_nothing(tab: Tab, audit: Audit, calls: Callable[[], list[str]], name: str) -> None:
    """403 before the session is looked at, and the script reads nothing; on another port of the same host the cookie did come along."""
    tab.open(name)
    seen = tab.upload()
    assert seen == {"status": 0, "error": "TypeError: Failed to fetch"}
    assert tab.statuses[-1] == 403
    assert calls() == ["403 POST /media/upload"]
    (headers,) = [headers for headers in tab.sent.values() if headers.get("Origin") == tab.web.origin(name)]
    assert ("session=alice" in headers.get("Cookie", "")) == (name == "other port")
    assert not audit.new_keys()


@pytest.mark.parametrize("submit", ["submit()", "requestSubmit()"])
@pytest.mark.parametrize("name", ["other port", "evil"])
def test_another_sites_form_uploads_nothing(tab: Tab, audit: Audit, calls: Callable[[], list[str]], name: str, submit: str) -> None:
    """The form that needs no script at the reader's side and no preflight: 403, into whatever frame it goes."""
    tab.open(name, FORM % (f"{tab.web.media}/media/upload", list(make.png()), submit))
    servers.wait_for(lambda: bool(calls()), 10)
    assert calls() == ["403 POST /media/upload"]
    assert not audit.new_keys()


def test_the_allowed_pages_form_uploads(tab: Tab, audit: Audit, calls: Callable[[], list[str]]) -> None:
    """The same form of an allowed origin works, so the tests above prove something."""
    tab.open("chat", FORM % (f"{tab.web.media}/media/upload", list(make.png()), "submit()"))
    servers.wait_for(lambda: bool(calls()), 10)
    assert calls() == ["201 POST /media/upload"]
    assert len(audit.new_keys()) == 1


@pytest.mark.parametrize("name", ["chat", "evil"])
@pytest.mark.parametrize("by", ["form", "fetch"])
def test_a_page_without_an_origin_uploads_nothing(tab: Tab, audit: Audit, calls: Callable[[], list[str]], name: str, by: str) -> None:
    """A sandboxed frame says `Origin: null`, wherever it stands, and `null` is nobody."""
    url = f"{tab.web.media}/media/upload"
    script = f"<script>({UPLOAD})({json.dumps([url, list(make.png()), {}])})</script>"
    inner = FORM % (url, list(make.png()), "submit()") if by == "form" else script
    tab.web.pages.pages["/inner"] = inner
    tab.open(name, '<iframe sandbox="allow-scripts allow-forms" src="/inner"></iframe>')
    servers.wait_for(lambda: bool(calls()), 10)
    assert calls() == ["403 POST /media/upload"]
    assert not audit.new_keys()


@pytest.mark.parametrize("name", ["other port", "evil"])
def test_a_script_of_another_origin_deletes_nothing(web: Web, tab: Tab, calls: Callable[[], list[str]], name: str) -> None:
    """The preflight is refused, so the DELETE is not even sent; the picture is there."""
    key = web.live.upload(make.png()).json()["key"]
    asked = len(calls())
    tab.open(name)
    assert tab.delete(f"{web.media}/media/{key}")["status"] == 0
    assert calls()[asked:] == [f"403 OPTIONS /media/{key}"]
    assert web.live.stored(key).status_code == 200


def test_anyones_page_may_show_and_read_a_picture(web: Web, tab: Tab) -> None:
    """Pictures are public: an `<img>` draws them in any page, and any script may ask where one is, without the user's cookie."""
    url = web.live.upload(make.png(31, 17)).json()["url"]
    tab.open("evil", f'<img src="{url}">')
    assert tab.page.evaluate(
        "async () => { const i = document.images[0]; await i.decode(); return [i.naturalWidth, i.naturalHeight]; }"
    ) == [31, 17]
    answer = requests.get(
        url.replace("media.chat.example", "127.0.0.1"), headers={"Origin": "http://evil.example"}, allow_redirects=False, timeout=5
    )
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_picture_that_is_also_a_page_stays_a_picture(web: Web, tab: Tab) -> None:
    """Opened by its own address, a PNG with HTML and a script in and behind it is a picture: nothing of it runs."""
    page = b"<!doctype html><title>a page</title><script>document.title = 'it ran'; top.itRan = true;</script>"
    comment = make.chunk(b"tEXt", b"Comment\0" + page)
    answer = web.live.upload(make.png(31, 17, before=comment, after=page), name="a.html", kind="text/html")
    assert answer.json()["contentType"] == "image/png"
    tab.page.goto(answer.json()["url"])
    assert tab.page.url.startswith(web.live.store.endpoint)
    assert tab.page.evaluate("[document.contentType, window.itRan]") == ["image/png", None]


def show(tab: Tab, url: str) -> None:
    """Shows the picture in a new document of the same browser, and waits until it is drawn."""
    tab.open("chat", f'<p>{len(url)}<img src="{url}">')
    tab.page.evaluate("document.images[0].decode()")


def test_a_picture_that_is_shown_again_asks_nobody(web: Web, tab: Tab, calls: Callable[[], list[str]]) -> None:
    """The redirect is remembered: a second `<img>`, in this document, another, or another tab, makes no request to the service."""
    url = web.live.upload(make.png()).json()["url"]
    path = url.removeprefix(web.media)
    show(tab, url)
    assert calls()[1:] == [f"302 GET {path}"]
    tab.page.evaluate("(url) => { const i = new Image(); i.src = url; document.body.append(i); return i.decode(); }", url)
    show(tab, url)
    other = Tab(tab.page.context.new_page(), web, {}, [])
    show(other, url)
    assert calls()[1:] == [f"302 GET {path}"]


def test_without_a_cache_time_every_page_asks(web: Web, tab: Tab, tmp_path: Path) -> None:
    """With REDIRECT_MAX_AGE_SECONDS=0 the same pages ask each time: it is the header that saves the requests."""
    port = str(servers.free_port())
    environ = web.live.service.environ | {
        "PORT": port,
        "PUBLIC_BASE_URL": f"http://media.chat.example:{port}",
        "REDIRECT_MAX_AGE_SECONDS": "0",
    }
    with servers.running_service(environ, tmp_path) as service:
        url = web.live.upload(make.png()).json()["url"].replace(web.media, environ["PUBLIC_BASE_URL"])
        for _ in range(3):
            show(tab, url)
        asked = [line for line in service.log_lines() if line["message"].startswith("302 ")]
    assert len(asked) == 3
