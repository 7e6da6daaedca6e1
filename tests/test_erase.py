"""What `erase` refuses before it asks a store; what it does is in tests/e2e."""

import uuid

import pytest
from click.testing import CliRunner

from media_storage import keys
from media_storage.cli import main

WRONG = {
    "nothing": [],
    "both": ["--user", "7", keys.mint("7", "png")],
    "an empty id": ["--user", ""],
    "a path as id": ["--user", "7/.."],
    "a pattern as id": ["--user", "*"],
    "a prefix": ["uploads/7/"],
    "another prefix": [f"private/7/{uuid.uuid4()}.png"],
    "another type": [keys.mint("7", "svg")],
    "a URL": [f"https://media.example.com/media/{keys.mint('7', 'png')}"],
    "one good, one bad": [keys.mint("7", "png"), "uploads/7/x.png"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_wrong_usage_asks_nobody(arguments: list[str]) -> None:
    """Status 2 and a sentence, whether or not a store is configured."""
    done = CliRunner().invoke(main, ["erase", "--yes", *arguments])
    assert done.exit_code == 2, done.output
    assert "Error: " in done.output


def test_a_key_is_told_from_its_url() -> None:
    """The likely mistake, with what to do instead."""
    done = CliRunner().invoke(main, ["erase", WRONG["a URL"][0]])
    assert "uploads/<user>/<uuid>" in done.output
    assert "nothing before it" in done.output
