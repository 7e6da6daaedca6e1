"""Holds the documentation to the code: every setting, refusal and command is in both, and says the same."""

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from media_storage import errors
from media_storage.cli import main
from media_storage.settings import Settings
from media_storage.version import __version__

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENV_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The README's text below a second-level heading."""
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def table(title: str) -> list[list[str]]:
    """The cells of the first table in a section, without its heading and ruler."""
    rows = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


def defaults() -> dict[str, str]:
    """Each setting's default as the documentation writes it."""
    written = {}
    for name, field in Settings.model_fields.items():
        value = "required" if field.is_required() else field.default
        written[name.upper()] = "" if value in (None, "", ()) or field.default_factory else str(value)
    return written


def test_the_readme_lists_every_setting_with_its_default() -> None:
    """No setting is missing, none is invented, and the defaults are the code's."""
    rows = {row[0].strip("`"): row[1].strip("`") for row in table("Settings")}
    assert set(rows) == set(defaults())
    spoken = {"MINIO_PUBLIC_ENDPOINT", "MINIO_USE_SSL", "ALLOWED_ORIGINS", "WORKERS", "LOG_FORMAT"}  # no fixed value
    assert {name: rows[name] for name in rows if name not in spoken} == {n: d for n, d in defaults().items() if n not in spoken}


def test_the_example_file_has_every_setting_on_a_line_of_its_own() -> None:
    """All commented out, so that a copy changes nothing; uncommented, each line is understood."""
    lines = ENV_EXAMPLE.splitlines()
    assert all(line.startswith("# ") for line in lines)
    assert set(re.findall(r"^# ([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE)) == set(defaults())
    assert len(lines) == len(defaults()) + 1


def test_the_example_file_uncommented_is_a_valid_configuration(tmp_path: Path) -> None:
    """A person who removes the leading marks gets what the lines say."""
    file = tmp_path / ".env"
    file.write_text("\n".join(line.removeprefix("# ") for line in ENV_EXAMPLE.splitlines()[1:]), encoding="utf-8")
    values = {name: value or "" for name, value in dotenv_values(file).items()}
    settings = Settings.model_validate(values)
    fixed = {name: value for name, value in defaults().items() if value not in ("", "required")}
    assert {name: values[name] for name in fixed} == fixed
    assert settings.public_base_url == "https://media.example.com"


def refusals() -> set[tuple[str, str]]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Refusal)]
    return {(str(kind.status), kind.code) for kind in kinds}


def test_the_readme_lists_every_refusal() -> None:
    """Status and code, as the code has them."""
    assert {(row[0], row[1].strip("`")) for row in table("Refusals")} == refusals()


def test_the_readme_names_every_command() -> None:
    """Each command that exists is mentioned, and each that is mentioned exists."""
    typed = set(re.findall(r"(?:^|/)media-storage ([a-z-]+)", README, re.MULTILINE))
    assert typed == set(main.commands)


@pytest.mark.parametrize("path", ["/media/upload", "/upload", "/media/<key>", "/media/limits", "/healthz", "/readyz"])
def test_the_readme_names_every_path(path: str) -> None:
    """The table of requests is complete."""
    assert f"{path}`" in section("A round trip with curl")


def test_the_readme_shows_the_way_of_an_upload_as_the_code_has_it() -> None:
    """The functions in the drawing exist."""
    from media_storage import auth, images, receive, storage  # noqa: PLC0415 - named here as the drawing names them

    assert callable(auth.Backend.user)
    assert callable(receive.file)
    assert callable(images.identify)
    assert callable(storage.Store.put)
    for name in ("auth.user()", "receive.file()", "images.identify()", "storage.put()"):
        assert name in section("Develop")


def test_the_changelog_is_kept() -> None:
    """There is a place for what comes next, and the version is stated once."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
