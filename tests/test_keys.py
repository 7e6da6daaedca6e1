"""Keys: what this service mints, and nothing else, is recognised."""

import re
import uuid

import pytest

from media_storage import keys

UUID4 = "6f0c1d2e-3a4b-4c5d-8e9f-0a1b2c3d4e5f"
KEY = f"uploads/7/{UUID4}.jpg"

USER_IDS = ["7", "0", "alice", "ALICE", "a.b", "a..", "user_1", "user-1", "0190b0b4-7d2c-7c33-b1f1-f0d7a5e3a111", "x" * 128]

NOT_USER_IDS = [
    *["", ".", "..", ".a", "-a", "_a", "../x", "a/b", "a\\b", "/", "a b", " a", "a ", "a\n", "\na", "a\r", "a\0", "x" * 129],
    *["%2e%2e", "a%2fb", "a?b", "a#b", "a@b", "a:b", "a+b", "a,b", "é", "٣", "a\u200b", "\uff17", "-5", "1e400\n", "\ud800"],
]

NOT_KEYS = {
    "empty": "",
    "prefix alone": "uploads/",
    "no user": f"uploads/{UUID4}.jpg",
    "empty user": f"uploads//{UUID4}.jpg",
    "a slash in front": f"/{KEY}",
    "two slashes in front": f"//{KEY}",
    "a slash behind": f"{KEY}/",
    "other prefix": f"private/7/{UUID4}.jpg",
    "prefix in upper case": f"Uploads/7/{UUID4}.jpg",
    "prefix before it": f"x/{KEY}",
    "bucket before it": f"irc-media/{KEY}",
    "doubled slash": f"uploads/7//{UUID4}.jpg",
    "one level more": f"uploads/7/8/{UUID4}.jpg",
    "user is a step up": f"uploads/../{UUID4}.jpg",
    "user is this folder": f"uploads/./{UUID4}.jpg",
    "step up inside": f"uploads/7/../8/{UUID4}.jpg",
    "backslash": f"uploads\\7\\{UUID4}.jpg",
    "encoded user": f"uploads/%2e%2e/{UUID4}.jpg",
    "encoded slash": f"uploads/7%2F{UUID4}.jpg",
    "user of 129 characters": f"uploads/{'x' * 129}/{UUID4}.jpg",
    "user in Arabic digits": f"uploads/\u0663/{UUID4}.jpg",
    "user with a line feed": f"uploads/7\n/{UUID4}.jpg",
    "uuid in upper case": f"uploads/7/{UUID4.upper()}.jpg",
    "uuid without hyphens": f"uploads/7/{UUID4.replace('-', '')}.jpg",
    "uuid in braces": f"uploads/7/{{{UUID4}}}.jpg",
    "uuid1": f"uploads/7/{uuid.UUID(int=0x6F0C1D2E3A4B1C5D8E9F0A1B2C3D4E5F)}.jpg",
    "uuid7": f"uploads/7/{uuid.UUID(int=0x6F0C1D2E3A4B7C5D8E9F0A1B2C3D4E5F)}.jpg",
    "uuid of another variant": f"uploads/7/{uuid.UUID(int=0x6F0C1D2E3A4B4C5DCE9F0A1B2C3D4E5F)}.jpg",
    "nil uuid": f"uploads/7/{uuid.UUID(int=0)}.jpg",
    "uuid one digit short": f"uploads/7/{UUID4[:-1]}.jpg",
    "uuid one digit long": f"uploads/7/{UUID4}0.jpg",
    "uuid with an Arabic digit": f"uploads/7/{UUID4[:-1]}\u0663.jpg",
    "uuid with a letter beyond f": f"uploads/7/{UUID4[:-1]}g.jpg",
    "no extension": f"uploads/7/{UUID4}",
    "dot alone": f"uploads/7/{UUID4}.",
    "jpeg": f"uploads/7/{UUID4}.jpeg",
    "gif": f"uploads/7/{UUID4}.gif",
    "svg": f"uploads/7/{UUID4}.svg",
    "extension in upper case": f"uploads/7/{UUID4}.JPG",
    "two extensions": f"uploads/7/{UUID4}.jpg.png",
    "other character for the dot": f"uploads/7/{UUID4}xjpg",
    "query": f"{KEY}?response-content-type=text/html",
    "fragment": f"{KEY}#x",
    "line feed behind": f"{KEY}\n",
    "line feed before": f"\n{KEY}",
    "carriage return behind": f"{KEY}\r",
    "header behind": f"{KEY}\r\nSet-Cookie: a=b",
    "NUL behind": f"{KEY}\0",
    "space behind": f"{KEY} ",
}


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
@pytest.mark.parametrize("user_id", USER_IDS)
def test_what_is_minted_is_recognised(user_id: str, extension: str) -> None:
    """A minted key has the contract's form, and its owner can be read back from it."""
    key = keys.mint(user_id, extension)
    prefix, user, name = key.split("/")
    stem, _, suffix = name.rpartition(".")
    assert (prefix, user, suffix) == ("uploads", user_id, extension)
    assert uuid.UUID(stem).version == 4
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", stem)
    assert keys.owner(key) == user_id


def test_no_two_keys_are_the_same() -> None:
    """Keys are never written twice, which is why objects may be cached for ever."""
    assert len({keys.mint("7", "jpg") for _ in range(1000)}) == 1000


@pytest.mark.parametrize("user_id", USER_IDS)
def test_user_ids(user_id: str) -> None:
    """An id of the contract's grammar may stand in a key."""
    assert keys.is_user_id(user_id)


@pytest.mark.parametrize("text", NOT_USER_IDS, ids=ascii)
def test_not_user_ids(text: str) -> None:
    """What is outside the grammar cannot become a part of a key."""
    assert not keys.is_user_id(text)


@pytest.mark.parametrize("key", NOT_KEYS.values(), ids=NOT_KEYS)
def test_what_could_not_have_been_minted_is_not_recognised(key: str) -> None:
    """A string that this service cannot have minted has no owner."""
    assert keys.owner(key) is None


@pytest.mark.parametrize("code", [*range(0x21), *range(0x7F, 0xA1), 0x2028, 0x2029, 0xFEFF, *map(ord, '%?#\\"<>^`{|}*')])
def test_no_odd_character_anywhere_in_a_key(code: int) -> None:
    """A control character, a space or what a URL would have to encode is in no key, wherever it is put."""
    for at in range(len(KEY) + 1):
        assert keys.owner(KEY[:at] + chr(code) + KEY[at:]) is None, at
