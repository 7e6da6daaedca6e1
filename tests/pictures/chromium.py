"""Asks headless Chromium what it draws of each of many files, in one page, from a web server of our own on the loopback."""

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
DECODE_PIXELS = 20_000_000  # beyond it the judge looks at the size only: the rest would take gigabytes

# The size of an <img>, whether all of it decodes, and whether it leaves a trace on a canvas. The <img> is not put into the page:
# painting what has arrived so far would leave pixels of pictures that Chromium gives up once it has all of them.
SCRIPT = """
async ([first, last, decodePixels]) => {
  const canvas = new OffscreenCanvas(64, 64);
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const judge = async (number) => {
    const picture = new Image();
    const loaded = new Promise((done) => { picture.onload = () => done(true); picture.onerror = () => done(false); });
    picture.src = `/${number}`;
    const answer = {loaded: await loaded, width: picture.naturalWidth, height: picture.naturalHeight, whole: null, painted: null};
    if (answer.loaded && answer.width * answer.height <= decodePixels) {
      const blob = await (await fetch(`/${number}`)).blob();
      answer.whole = await createImageBitmap(blob).then((bitmap) => (bitmap.close(), true), () => false);
      await picture.decode().catch(() => {});
      context.clearRect(0, 0, 64, 64);
      context.drawImage(picture, 0, 0, 64, 64);
      answer.painted = context.getImageData(0, 0, 64, 64).data.some((value) => value > 0);
    }
    picture.src = '';
    return answer;
  };
  const numbers = Array.from({length: last - first}, (_, index) => first + index);
  const answers = [];
  while (numbers.length) answers.push(...await Promise.all(numbers.splice(0, 16).map(judge)));
  return answers;
}
"""


@dataclass(frozen=True)
class Verdict:
    """What Chromium does with one file: the size it lays it out with, whether all of it decodes, whether any pixel appears.

    ``whole`` and ``painted`` are None where the picture is too large to ask.
    """

    loaded: bool
    width: int
    height: int
    whole: bool | None
    painted: bool | None

    @property
    def draws(self) -> bool:
        """Something is there to see, or (a picture may be wholly transparent) nothing is wrong with it."""
        return self.loaded and self.width > 0 and (self.whole is not False or self.painted is True)


def executable() -> str | None:
    """Return the system's Chromium (or what CHROMIUM names), if there is one."""
    return next(filter(None, map(shutil.which, [os.environ.get("CHROMIUM") or "chromium", "chromium-browser", "google-chrome"])), None)


def verdicts(files: Sequence[tuple[Path | bytes, str]], batch: int = 200) -> tuple[str, list[Verdict]]:
    """Return the browser's version, and its verdict on each file, given as content and the content type it is served with."""
    with _served(files) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=FLAGS)
        answers = []
        for first in range(0, len(files), batch):
            page = browser.new_page()
            page.goto(f"{url}/page")
            last = min(first + batch, len(files))
            answers += [Verdict(**answer) for answer in page.evaluate(SCRIPT, [first, last, DECODE_PIXELS])]
            page.close()
        version = browser.version
        browser.close()
    return version, answers


@contextlib.contextmanager
def _served(files: Sequence[tuple[Path | bytes, str]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            if name.isdigit():
                content, content_type = files[int(name)]
            else:
                content, content_type = b"<!doctype html><title>judge</title>", "text/html"
            body = content if isinstance(content, bytes) else content.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # the browser hung up: it had seen enough

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
