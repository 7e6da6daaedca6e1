"""The Origin rule, and what CORS tells browsers."""

import pytest
from werkzeug.datastructures import Headers

from media_storage import origins
from media_storage.errors import OriginNotAllowed

ALLOWED = frozenset({"https://chat.example", "http://localhost:3000", "http://127.0.0.1:3000", "https://media.example:8443"})

NOT_ALLOWED = [
    "https://evil.example",
    "null",
    "",
    "*",
    "https://chat.example.evil.example",
    "https://evil.example/https://chat.example",
    "https://evilchat.example",
    "https://chat.example@evil.example",
    "https://sub.chat.example",
    "https://chat.exampl",
    "https://chat.example.",
    "https://chat.example/",
    "https://chat.example:443",
    "https://chat.example:8443",
    "https://media.example",
    "http://chat.example",
    "chat.example",
    "//chat.example",
    "HTTPS://CHAT.EXAMPLE",
    "https://Chat.Example",
    " https://chat.example",
    "https://chat.example ",
    "https://chat.example https://evil.example",
    "https://chat.example,https://evil.example",
    "https://chat.example, http://localhost:3000",
    "http://localhost",
    "http://localhost:3001",
    "http://localhost:30000",
    "http://127.0.0.1",
    "https://chatXexample",
    "https://ch\u0430t.example",  # the third letter is Cyrillic
]


@pytest.mark.parametrize("origin", sorted(ALLOWED))
@pytest.mark.parametrize("site", [None, "same-origin", "same-site", "cross-site", "none"])
def test_an_allowed_origin_passes(origin: str, site: str | None) -> None:
    """A page of the allow-list may act, from whatever site the browser says that it is."""
    headers = Headers({"Origin": origin} | ({"Sec-Fetch-Site": site} if site else {}))
    origins.check(headers, ALLOWED)


@pytest.mark.parametrize("origin", NOT_ALLOWED)
@pytest.mark.parametrize("site", [None, "same-origin"])
def test_any_other_origin_is_refused(origin: str, site: str | None) -> None:
    """What is not exactly in the allow-list is refused, and Sec-Fetch-Site does not heal it."""
    headers = Headers({"Origin": origin} | ({"Sec-Fetch-Site": site} if site else {}))
    with pytest.raises(OriginNotAllowed):
        origins.check(headers, ALLOWED)


@pytest.mark.parametrize("site", [None, "none", "same-origin", "same-site"])
def test_without_an_origin(site: str | None) -> None:
    """Servers send neither header, and they may; so may navigations and pages of the same site."""
    origins.check(Headers({"Sec-Fetch-Site": site} if site else {}), ALLOWED)


def test_cross_site_without_an_origin() -> None:
    """A browser that hides the Origin but says that the page is another site's is refused."""
    with pytest.raises(OriginNotAllowed):
        origins.check(Headers({"Sec-Fetch-Site": "cross-site"}), ALLOWED)


def test_an_empty_allow_list() -> None:
    """With nobody on the list no origin passes, the empty one and null included; servers still do."""
    for origin in ("https://chat.example", "", "null"):
        with pytest.raises(OriginNotAllowed):
            origins.check(Headers({"Origin": origin}), frozenset())
    origins.check(Headers(), frozenset())


@pytest.mark.parametrize("origin", sorted(ALLOWED))
def test_cors_of_an_allowed_origin(origin: str) -> None:
    """An allowed page may read the answer with credentials, and the headers that it needs."""
    assert exposed(origins.cors(Headers({"Origin": origin}), ALLOWED)) == {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": {"Location", "X-Request-ID", "Retry-After"},
    }


@pytest.mark.parametrize("origin", [None, *NOT_ALLOWED])
def test_cors_of_any_other_origin(origin: str | None) -> None:
    """Nothing is granted or reflected; caches are told that the answer depends on the Origin."""
    headers = Headers({} if origin is None else {"Origin": origin})
    assert origins.cors(headers, ALLOWED) == {"Vary": "Origin"}


def test_preflight() -> None:
    """A preflight of an allowed page learns the two methods and the two headers of the contract."""
    answer = exposed(origins.preflight(Headers({"Origin": "https://chat.example"}), ALLOWED))
    assert answer["Access-Control-Allow-Methods"] == {"POST", "DELETE"}
    assert answer["Access-Control-Allow-Headers"] == {"Content-Type", "X-Request-ID"}
    assert "*" not in str(answer)


@pytest.mark.parametrize("origin", NOT_ALLOWED)
def test_preflight_of_any_other_origin(origin: str) -> None:
    """A preflight of another page is refused like the request that it announces."""
    with pytest.raises(OriginNotAllowed):
        origins.preflight(Headers({"Origin": origin}), ALLOWED)


def exposed(headers: dict[str, str]) -> dict[str, str | set[str]]:
    """`headers` with those that are lists as sets."""
    lists = {"Access-Control-Expose-Headers", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers"}
    return {name: set(value.split(", ")) if name in lists else value for name, value in headers.items()}
