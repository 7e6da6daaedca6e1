"""The stand-in backend's page in headless Chromium, with the real service and a real store behind it."""

import base64
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from live import Site

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not here: it has no wheel for this platform")


expect = api.expect
TEXT = {"name": "holiday.jpg", "mimeType": "image/jpeg", "buffer": b"Dear diary, the sea was warm. " * 20}


def picture(name: str = "beach.jpg", width: int = 640, height: int = 400, kind: str = "JPEG") -> dict[str, Any]:
    """A file for a file chooser."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(file, kind)
    return {"name": name, "mimeType": f"image/{kind.lower()}", "buffer": file.getvalue()}


@pytest.fixture
def page(browser: Any, site: Site) -> Iterator[Any]:
    """The page, freshly opened; a script error or a breach of its own content policy fails the test."""
    context = browser.new_context(viewport={"width": 1000, "height": 800}, locale="en-GB", base_url=site.page_url)
    context.set_default_timeout(15_000)
    tab = context.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda line: errors.append(line.text) if "Content Security Policy" in line.text else None)
    tab.on("filechooser", lambda _: None)  # from now on, so that no first Enter opens the system's own dialogue
    tab.goto("/")
    yield tab
    context.close()
    assert not errors


@pytest.fixture
def alice(page: Any) -> Any:
    """The page with alice signed in."""
    sign_in(page, "alice")
    return page


def sign_in(page: Any, name: str, password: str = "picture") -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def choose(page: Any, *files: dict[str, Any]) -> Any:
    """Chooses files; the newest card, which is the first file's."""
    page.get_by_label("Choose pictures").set_input_files(list(files))
    return page.get_by_role("listitem").first


def hand_over(page: Any, event: str, *files: dict[str, Any]) -> None:
    """Drops or pastes files, as an event that carries a DataTransfer."""
    given = [{**file, "buffer": base64.b64encode(file["buffer"]).decode()} for file in files]
    page.get_by_label("Choose pictures").evaluate(
        """(target, [event, files]) => {
          const data = new DataTransfer();
          for (const {name, mimeType, buffer} of files) {
            data.items.add(new File([Uint8Array.from(atob(buffer), (letter) => letter.charCodeAt(0))], name, {type: mimeType}));
          }
          const init = {bubbles: true, cancelable: true};
          if (event === "paste") target.dispatchEvent(new ClipboardEvent(event, {...init, clipboardData: data}));
          else for (const type of ["dragenter", "dragover", event])
            target.dispatchEvent(new DragEvent(type, {...init, dataTransfer: data}));
        }""",
        [event, given],
    )


def drawn(card: Any) -> tuple[str, int, int]:
    """Where the card's picture came from, and its size once it is drawn. Fails unless it is drawn."""
    expect(card).to_have_attribute("data-state", "done")
    source, width, height = card.get_by_role("img").evaluate(
        "async (image) => { await image.decode(); return [image.currentSrc, image.naturalWidth, image.naturalHeight]; }"
    )
    return source, width, height


def link(card: Any) -> str:
    return str(card.get_by_label("Link to the picture").input_value())


def test_sign_in(page: Any) -> None:
    """A wrong password is said in words and the form stays; the right one opens the upload, and signing out closes it."""
    page.get_by_label("Name").fill("alice")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("That name and password do not match. Check both and try again.")
    expect(page.get_by_label("Password")).to_be_focused()
    expect(page.get_by_label("Choose pictures")).to_be_hidden()
    sign_in(page, "alice")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#person")).to_contain_text("alice")
    page.reload()
    expect(page.locator("#person")).to_contain_text("alice")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Name")).to_be_focused()
    page.reload()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_demo_accounts_are_one_click_away(page: Any) -> None:
    """The page shows who can sign in, and fills the form for them."""
    page.get_by_role("button", name="Fill in as bob").click()
    page.keyboard.press("Enter")
    expect(page.locator("#person")).to_contain_text("bob")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_chosen_picture_is_shown_from_the_store(alice: Any, site: Site, kind: str) -> None:
    """The card's picture is the public link's, which the service redirects to the store, with the dimensions that it has."""
    file = picture(f"beach.{kind.lower()}", 640, 400, kind)
    with alice.expect_response(lambda answer: "/media/uploads/" in answer.url and answer.status == 302) as redirect:
        card = choose(alice, file)
        source, width, height = drawn(card)
    assert source == link(card)
    assert source.startswith(f"{site.public_url}/media/uploads/1/")
    assert (width, height) == (640, 400)
    assert not redirect.value.headers["location"].startswith(site.public_url)
    assert alice.request.get(source).body() == file["buffer"]
    expect(card).to_contain_text("640 \u00d7 400 pixels")
    expect(card).to_contain_text("WebP" if kind == "WEBP" else kind)
    expect(alice.get_by_role("status")).to_have_text(f"{file['name']} is shared. Its link is ready to copy.")


def test_dropped_pictures_go_one_after_the_other(alice: Any) -> None:
    """Several files dropped at once become one card each, in their order, and never two uploads at a time."""
    open_now, most = 0, 0

    def count(change: int) -> Any:
        def handler(event: Any) -> None:
            nonlocal open_now, most
            if event.url.endswith("/media/upload"):
                open_now += change
                most = max(most, open_now)

        return handler

    alice.on("request", count(1))
    alice.on("response", count(-1))
    hand_over(alice, "drop", *(picture(f"{number}.png", 100 + number, 50, "PNG") for number in range(3)))
    cards = alice.get_by_role("listitem")
    expect(cards).to_have_count(3)
    assert [drawn(cards.nth(number))[1:] for number in range(3)] == [(100, 50), (101, 50), (102, 50)]
    expect(cards.nth(2)).to_contain_text("2.png")
    expect(alice.locator("body")).not_to_have_class("dragging")
    assert most == 1


def test_a_pasted_picture(alice: Any) -> None:
    """A picture from the clipboard is sent; text in it is answered in words."""
    hand_over(alice, "paste", picture("image.png", 320, 200, "PNG"))
    card = alice.get_by_role("listitem").first
    assert drawn(card)[1:] == (320, 200)
    expect(card.get_by_role("heading")).to_have_text("Pasted picture")
    hand_over(alice, "paste")
    expect(alice.get_by_role("status")).to_have_text("There is no picture in the clipboard.")


def test_nothing_is_sent_while_signed_out(page: Any) -> None:
    """Dropping on the signed-out page asks for the sign-in, and the browser does not open the file instead."""
    expect(page.get_by_label("Name")).to_be_visible()
    hand_over(page, "drop", picture())
    expect(page.get_by_role("alert")).to_have_text("Sign in first, then drop the picture again.")
    expect(page.get_by_role("listitem")).to_have_count(0)


def test_a_file_that_is_no_picture_is_refused_in_plain_words(alice: Any) -> None:
    """A text named .jpg: the service looks inside, and the page says what it found, what is possible, and the request's id."""
    with alice.expect_response("**/media/upload") as response:
        card = choose(alice, TEXT)
    expect(card.locator(".message")).to_have_text("Inside, this file is plain text. Only JPEG, PNG or WebP pictures can be shared.")
    expect(card).to_contain_text(f"Reference {response.value.json()['requestId']}")
    expect(card.get_by_role("button", name="Retry")).to_be_hidden()
    card.get_by_role("button", name="Dismiss").click()
    expect(alice.get_by_role("listitem")).to_have_count(0)


def test_what_cannot_pass_the_limits_is_not_sent(alice: Any) -> None:
    """One byte more than the limit, no byte at all, and a type that is none of the three are refused before they cost an upload."""
    sent = []
    alice.on("request", lambda request: sent.append(request.url) if request.url.endswith("/media/upload") else None)
    expect(alice.get_by_text("JPEG, PNG or WebP, up to 10 MB each.")).to_be_visible()
    files = [
        {"name": "large.png", "mimeType": "image/png", "buffer": bytes(10 * 1024 * 1024 + 1)},
        {"name": "empty.png", "mimeType": "image/png", "buffer": b""},
        {"name": "dance.gif", "mimeType": "image/gif", "buffer": b"GIF89a"},
    ]
    choose(alice, *files)
    cards = alice.get_by_role("listitem")
    expect(cards.nth(0)).to_contain_text("too large: the limit is 10 MB")
    expect(cards.nth(1)).to_contain_text("This file is empty")
    expect(cards.nth(2)).to_contain_text("Inside, this file is a GIF")
    assert not sent


# What a person reads for each code, and whether trying again is offered.
REFUSALS = {
    "unauthenticated": (401, "no longer signed in", True),
    "file_too_large": (413, "too large: the limit is 3 MB", False),
    "empty_file": (400, "empty", False),
    "unsupported_type": (415, "Inside, this file is a PDF", False),
    "invalid_image": (422, "damaged", False),
    "too_many_pixels": (422, "the limit is 12 million", False),
    "origin_not_allowed": (403, "address", False),
    "not_owner": (403, "Only the person who shared", False),
    "rate_limited": (429, "many pictures in a short time. Try again in 7 seconds.", True),
    "upload_timeout": (408, "too slowly", True),
    "backend_invalid": (502, "who you are", True),
    "backend_unavailable": (503, "cannot check who you are right now", True),
    "store_unavailable": (503, "does not answer right now", True),
    "storage_unavailable": (503, "not running", True),
    "overloaded": (503, "Very many", True),
    "internal_error": (500, "the sentence of the service", True),
    "bad_multipart": (400, "the sentence of the service", False),
}


def test_each_refusal_has_words(alice: Any) -> None:
    """Each code is put in words for the person at the page, with the wait and a Retry where they help."""
    for code, (status, words, again) in REFUSALS.items():
        problem = {"status": status, "code": code, "detail": "the sentence of the service", "requestId": f"id-of-{code}"}
        problem |= {"maxBytes": 3 << 20, "maxPixels": 12_000_000, "detected": "application/pdf", "allowed": ["image/jpeg"]}
        headers = {"Content-Type": "application/problem+json"} | ({"Retry-After": "7"} if "7 seconds" in words else {})
        alice.route("**/media/upload", answer_with(status, headers, json.dumps(problem)))
        card = choose(alice, picture())
        expect(card).to_contain_text(f"Reference id-of-{code}")
        expect(card.locator(".message")).to_contain_text(words)
        expect(card.get_by_role("button", name="Retry")).to_be_visible(visible=again)
        if code == "unauthenticated":
            sign_in(alice, "alice")


def answer_with(status: int, headers: dict[str, str], body: str) -> Any:
    return lambda route: route.fulfill(status=status, headers=headers, body=body)


def test_take_it_back(alice: Any) -> None:
    """The picture is gone from the store, the card says so, and what can no longer be undone."""
    card = choose(alice, picture("secret.png", 90, 60, "PNG"))
    source = drawn(card)[0]
    card.get_by_role("button", name="Take it back").click()
    expect(card).to_have_attribute("data-state", "gone")
    expect(card).to_contain_text("Taken back")
    expect(card).to_contain_text("People who saw it, and caches on the way to them, may still have a copy.")
    expect(card.get_by_role("img")).to_have_count(0)
    assert alice.request.get(source).status in {403, 404}


def test_only_the_owner_takes_back(alice: Any) -> None:
    """When somebody else has signed in since, the service refuses and the page says why."""
    card = choose(alice, picture())
    source = drawn(card)[0]
    alice.context.clear_cookies()
    alice.request.post("/auth/sign-in", data={"name": "bob", "password": "picture"})
    card.get_by_role("button", name="Take it back").click()
    expect(card).to_contain_text("Only the person who shared this picture can take it back.")
    expect(card.get_by_label("Link to the picture")).to_be_visible()
    assert alice.request.get(source).ok


def test_copy_link(alice: Any, site: Site) -> None:
    """The button puts the link into the clipboard and says so."""
    alice.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.page_url.rstrip("/"))
    card = choose(alice, picture())
    drawn(card)
    card.get_by_role("button", name="Copy link").click()
    expect(card.get_by_role("button", name="Copied")).to_be_visible()
    assert alice.evaluate("() => navigator.clipboard.readText()") == link(card)


@pytest.mark.parametrize("works", [True, False])
def test_copy_link_without_a_clipboard(alice: Any, works: bool) -> None:
    """On plain-http hosts browsers offer no clipboard: the older way is tried, else the link stands selected for Ctrl+C."""
    card = choose(alice, picture())
    drawn(card)
    alice.evaluate(
        """(works) => {
          Object.defineProperty(navigator, "clipboard", {value: undefined});
          document.execCommand = (command) => works && command === "copy";
        }""",
        works,
    )
    card.locator("[data-part=copy]").click()
    if works:
        expect(card.get_by_role("button", name="Copied")).to_be_visible()
    else:
        expect(card).to_contain_text("Copy it with Ctrl+C")
    assert alice.evaluate("() => getSelection().toString()") == link(card)


def test_progress(alice: Any) -> None:
    """On a slow line the bar moves between nothing and all, and an upload can be cancelled."""
    network = alice.context.new_cdp_session(alice)
    network.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 400_000}
    network.send("Network.emulateNetworkConditions", slow)
    file = picture("slow.jpg")
    card = choose(alice, {**file, "buffer": file["buffer"] + bytes(1_600_000)})
    bar = card.get_by_role("progressbar", name="Sending slow.jpg")
    expect(bar).to_have_attribute("value", re.compile(r"^[1-9]\d(\.\d+)?$"))
    expect(card).to_contain_text(re.compile(r"[1-9]\d %"))
    card.get_by_role("button", name="Cancel").click()
    expect(alice.get_by_role("listitem")).to_have_count(0)
    expect(alice.get_by_role("status")).to_have_text("slow.jpg was not sent.")


def test_with_the_keyboard_alone(page: Any) -> None:
    """From the first Tab to the picture taken back, without a mouse; where the focus is can be seen."""
    expect(page.get_by_label("Name")).to_be_visible()
    press = page.keyboard.press
    press("Tab")
    page.keyboard.type("alice")
    press("Tab")
    page.keyboard.type("picture")
    press("Enter")
    expect(page.get_by_label("Choose pictures")).to_be_focused()
    assert page.locator("#drop").evaluate("(zone) => getComputedStyle(zone).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        press("Enter")
    chooser.value.set_files(picture())
    card = page.get_by_role("listitem").first
    drawn(card)
    for name in ("link", "textbox", "Copy link", "Take it back"):
        press("Tab")
        control = card.get_by_role(name) if name in {"link", "textbox"} else card.get_by_role("button", name=name)
        expect(control).to_be_focused()
        assert control.evaluate("(element) => getComputedStyle(element).outlineStyle") == "solid"
    press("Enter")
    expect(card).to_have_attribute("data-state", "gone")
    expect(card).to_be_focused()
    press("Tab")
    press("Enter")
    expect(page.get_by_role("listitem")).to_have_count(0)
    expect(page.get_by_label("Choose pictures")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(page: Any, scheme: str) -> None:
    """At 360 pixels nothing scrolls sideways, whatever the state and however long a name is."""

    def fits() -> bool:
        return bool(page.evaluate("() => document.documentElement.scrollWidth <= 360"))

    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 360, "height": 740})
    expect(page.get_by_label("Name")).to_be_visible()
    assert fits()
    sign_in(page, "alice")
    assert fits()
    drawn(choose(page, picture("x" * 120 + ".png", 2000, 100, "PNG")))
    choose(page, TEXT)
    expect(page.locator("[data-state=refused]")).to_have_count(1)
    assert fits()
    page.get_by_role("button", name="Take it back").click()
    expect(page.locator("[data-state=gone]")).to_have_count(1)
    assert fits()


def test_the_server_is_gone(alice: Any) -> None:
    """A connection that fails is said in words; Retry sends the same file again when the server is back."""
    alice.route("**/media/upload", lambda route: route.abort("connectionrefused"))
    card = choose(alice, picture())
    expect(card.locator(".message")).to_have_text("The server cannot be reached. Check that it is running, then try again.")
    alice.unroute("**/media/upload")
    card.get_by_role("button", name="Retry").click()
    assert drawn(card)[1:] == (640, 400)


def test_offline(alice: Any) -> None:
    """Taking a picture back without a network says so and keeps the card as it was, so that it can be tried again."""
    card = choose(alice, picture())
    drawn(card)
    alice.context.set_offline(True)
    card.get_by_role("button", name="Take it back").click()
    expect(card.locator(".message")).to_have_text("You are offline. Try again when you are connected.")
    assert card.get_by_role("img").evaluate("(image) => image.naturalWidth") == 640
    alice.context.set_offline(False)
    card.get_by_role("button", name="Take it back").click()
    expect(card).to_have_attribute("data-state", "gone")


def test_a_session_that_ended_meanwhile(alice: Any) -> None:
    """An upload after the session's end asks for the sign-in and loses nothing: Retry then sends the file."""
    alice.context.clear_cookies()
    card = choose(alice, picture())
    expect(alice.get_by_role("alert")).to_have_text("You are no longer signed in. Sign in again, then try once more.")
    sign_in(alice, "alice")
    card.get_by_role("button", name="Retry").click()
    assert drawn(card)[1:] == (640, 400)


def test_the_next_person_sees_no_cards(alice: Any) -> None:
    """Signing out clears the list: the next person at this screen is someone else."""
    drawn(choose(alice, picture()))
    alice.get_by_role("button", name="Sign out").click()
    expect(alice.get_by_role("listitem")).to_have_count(0)
