"""Settings: every default, every rule, and how problems are told."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from media_storage import settings
from media_storage.settings import Settings, SettingsError

SECRET = "canary$ecret"
REQUIRED = {
    "PUBLIC_BASE_URL": "https://media.example",
    "MINIO_ENDPOINT": "http://store:9000",
    "MINIO_ACCESS_KEY": "access",
    "MINIO_SECRET_KEY": SECRET,
}

DEFAULTS: dict[str, object] = {
    "HOST": "0.0.0.0",
    "PORT": 9101,
    "METRICS_HOST": "127.0.0.1",
    "METRICS_PORT": 9102,
    "BACKEND_VERIFY_URL": "http://127.0.0.1:8002/auth/me",
    "BACKEND_USER_ID_FIELD": "id",
    "BACKEND_TIMEOUT_SECONDS": 3,
    "MINIO_USE_SSL": None,  # either, as the endpoint's scheme says; none for a bare host
    "MINIO_PUBLIC_ENDPOINT": "http://store:9000",
    "MINIO_BUCKET": "irc-media",
    "MINIO_REGION": "us-east-1",
    "STORE_TIMEOUT_SECONDS": 10,
    "UPLOAD_TIMEOUT_SECONDS": 600,
    "MIN_UPLOAD_BYTES_PER_SECOND": 1024,
    "SHUTDOWN_GRACE_SECONDS": 30,
    "MAX_CONCURRENT_UPLOADS": 500,
    "UPLOADS_PER_MINUTE": 0,
    "RATE_LIMIT_STORAGE_URI": "memory://",
    "MAX_UPLOAD_MB": 10,
    "MAX_IMAGE_PIXELS": 268_435_456,
    "ALLOWED_ORIGINS": (),
    "REDIRECT_MAX_AGE_SECONDS": 86_400,
    "WORKERS": os.cpu_count() or 1,
    "LOG_FORMAT": None,  # console on a terminal, else json
    "LOG_LEVEL": "info",
}

ACCEPTED: list[tuple[str, str, object]] = [
    ("HOST", "::1", "::1"),
    ("PORT", "1", 1),
    ("PORT", "65535", 65535),
    ("PORT", " 8080 ", 8080),
    ("METRICS_HOST", "0.0.0.0", "0.0.0.0"),
    ("METRICS_PORT", "0", 0),
    ("METRICS_PORT", "65535", 65535),
    ("PUBLIC_BASE_URL", "https://media.example/", "https://media.example"),
    ("PUBLIC_BASE_URL", "https://chat.example/files/", "https://chat.example/files"),
    ("PUBLIC_BASE_URL", "http://[::1]:9101", "http://[::1]:9101"),
    ("BACKEND_VERIFY_URL", "https://api.example/v1/auth/me?full=0", "https://api.example/v1/auth/me?full=0"),
    ("BACKEND_USER_ID_FIELD", "user.id", "user.id"),
    ("BACKEND_TIMEOUT_SECONDS", "0.5", 0.5),
    ("MINIO_ENDPOINT", "store:9000", "http://store:9000"),
    ("MINIO_ENDPOINT", "127.0.0.1:9000", "http://127.0.0.1:9000"),
    ("MINIO_ENDPOINT", "store", "http://store"),
    ("MINIO_ENDPOINT", "[::1]:9000", "http://[::1]:9000"),
    ("MINIO_ENDPOINT", "https://store:9000", "https://store:9000"),
    ("MINIO_ENDPOINT", "http://store:9000/", "http://store:9000"),
    ("MINIO_PUBLIC_ENDPOINT", "https://cdn.example/pictures/", "https://cdn.example/pictures"),
    ("MINIO_PUBLIC_ENDPOINT", "https://cdn.example", "https://cdn.example"),
    ("MINIO_USE_SSL", "false", False),
    ("MINIO_BUCKET", "a.b-3", "a.b-3"),
    ("MINIO_BUCKET", "x" * 63, "x" * 63),
    ("MINIO_REGION", "eu-west-1", "eu-west-1"),
    ("STORE_TIMEOUT_SECONDS", "2.5", 2.5),
    ("UPLOAD_TIMEOUT_SECONDS", "1.5", 1.5),
    ("MIN_UPLOAD_BYTES_PER_SECOND", "0", 0),
    ("SHUTDOWN_GRACE_SECONDS", "0", 0),
    ("MAX_CONCURRENT_UPLOADS", "1", 1),
    ("UPLOADS_PER_MINUTE", "60", 60),
    ("RATE_LIMIT_STORAGE_URI", "redis://redis.example:6379/0", "redis://redis.example:6379/0"),
    ("MAX_UPLOAD_MB", "1", 1),
    ("MAX_IMAGE_PIXELS", "0", 0),
    ("REDIRECT_MAX_AGE_SECONDS", "0", 0),
    ("WORKERS", "4", 4),
    ("LOG_FORMAT", "JSON", "json"),
    ("LOG_FORMAT", "console", "console"),
    ("LOG_LEVEL", "WARNING", "warning"),
    ("LOG_LEVEL", "debug", "debug"),
]

WRONG: dict[str, list[str]] = {
    "PORT": ["0", "65536", "-1", "http", "80.5", "9101 9102"],
    "METRICS_PORT": ["-1", "65536", "off", "9101"],  # the last is PORT
    "PUBLIC_BASE_URL": [
        "media.example",
        "ftp://media.example",
        "https://",
        "/media",
        "https://media.example?a=b",
        "https://media.example/#a",
        "https://u:p@media.example",
        "https://m.example:x",
        "https://[::1",
        "https://media.example/a b",
        "https://media.example\n.evil.example",
        "https://m\u00e9dia.example",
    ],
    "BACKEND_VERIFY_URL": ["127.0.0.1:8002/auth/me", "file:///etc/passwd", "http://", "http://u:p@api.example/"],
    "BACKEND_USER_ID_FIELD": [".", ".id", "id.", "user..id"],
    "BACKEND_TIMEOUT_SECONDS": ["0", "-1", "61", "nan", "inf", "soon"],
    "MINIO_ENDPOINT": [
        "ftp://store",
        "http://store:9000/irc-media",
        "store:9000/irc-media",
        "http://store?a=b",
        "http://",
        "http://store:99999",
        "store:port",
        "http://u:p@store",
        "http://store:9000#a",
        "st ore",
    ],
    "MINIO_PUBLIC_ENDPOINT": ["cdn.example", "https://cdn.example/?a=b", "https://cdn.example/#a", "s3://cdn"],
    "MINIO_USE_SSL": ["maybe", "2"],
    "MINIO_BUCKET": ["ab", "x" * 64, "Media", "irc_media", "-abc", "abc-", "a..b", "a/b", "../x", "irc media"],
    "STORE_TIMEOUT_SECONDS": ["0", "-1", "301", "nan"],
    "UPLOAD_TIMEOUT_SECONDS": ["0", "-1", "nan", "inf", "long"],
    "MIN_UPLOAD_BYTES_PER_SECOND": ["-1", "1k"],
    "SHUTDOWN_GRACE_SECONDS": ["-1", "nan", "inf"],
    "MAX_CONCURRENT_UPLOADS": ["0", "-1", "many"],
    "UPLOADS_PER_MINUTE": ["-1", "often"],
    "RATE_LIMIT_STORAGE_URI": ["redis.example", "http://redis.example", "memory://x", "redis://", "redis:///0"],
    "MAX_UPLOAD_MB": ["0", "-1", "5121", "10MB"],
    "MAX_IMAGE_PIXELS": ["-1", "many"],
    "ALLOWED_ORIGINS": [
        "*",
        "null",
        "https://chat.example,*",
        "https://chat.example, null ,",
        "chat.example",
        "https://chat.example/app",
        "https://chat.example?a",
        "https://u:p@chat.example",
        "file://",
    ],
    "REDIRECT_MAX_AGE_SECONDS": ["-1", "1d"],
    "WORKERS": ["0", "-2", "513", "auto"],
    "LOG_FORMAT": ["xml"],
    "LOG_LEVEL": ["loud", "42"],
}
REFUSED = [(name, text) for name, texts in WRONG.items() for text in texts]


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    """Where the .env file would be; a test writes it or does not."""
    return tmp_path / ".env"


@pytest.fixture
def load(dotenv: Path) -> Callable[..., Settings]:
    """Loads what is required, changed as said, beside the .env file of the test."""
    return lambda **changes: settings.load(REQUIRED | changes, dotenv=dotenv)


@pytest.fixture
def problems(dotenv: Path) -> Callable[[dict[str, str]], list[str]]:
    """The problems of an environment."""

    def find(environ: dict[str, str]) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            settings.load(environ, dotenv=dotenv)
        return caught.value.problems

    return find


def value(found: Settings, name: str) -> Any:
    return getattr(found, name.lower())


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items(), ids=DEFAULTS)
def test_defaults(load: Callable[..., Settings], name: str, default: object) -> None:
    """A setting that nobody gives has the contract's default."""
    assert value(load(), name) == default


def test_every_setting_is_in_these_tests() -> None:
    """There is no setting whose default and rules are not proved here."""
    names = {name.upper() for name in Settings.model_fields}
    assert names == DEFAULTS.keys() | REQUIRED.keys()
    assert names - {name for name, _, _ in ACCEPTED} == {"MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "ALLOWED_ORIGINS"}
    # any text is a host name, a region or a key to somebody
    assert names - WRONG.keys() == {"HOST", "METRICS_HOST", "MINIO_REGION", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"}


@pytest.mark.parametrize(("name", "text", "expected"), ACCEPTED)
def test_accepted(load: Callable[..., Settings], name: str, text: str, expected: object) -> None:
    """A good value is taken, in its one spelling."""
    assert value(load(**{name: text}), name) == expected


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_refused(problems: Callable[..., list[str]], name: str, text: str) -> None:
    """A wrong value is one problem: a sentence that begins with the setting's name."""
    (problem,) = problems(REQUIRED | {name: text})
    assert problem.startswith(f"{name}: ")
    assert len(problem) > len(name) + 10
    assert "\n" not in problem


@pytest.mark.parametrize("name", ["PUBLIC_BASE_URL", "MINIO_ENDPOINT", "MINIO_PUBLIC_ENDPOINT"])
@pytest.mark.parametrize("end", ["?", "#", "/?", "/#"])
def test_a_base_that_ends_in_an_empty_query_or_fragment(problems: Callable[..., list[str]], name: str, end: str) -> None:
    """A base that paths cannot be put behind is refused: everything behind its ? or # would be lost."""
    (problem,) = problems(REQUIRED | {name: f"https://h.example{end}"})
    assert problem.startswith(f"{name}: ")


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("text", [None, "", " "])
def test_required(problems: Callable[..., list[str]], name: str, text: str | None) -> None:
    """What `serve` cannot do without is asked for, also when it is there and empty."""
    environ = {key: given for key, given in REQUIRED.items() if key != name} | ({name: text} if text is not None else {})
    assert problems(environ) == [f"{name}: is required"]


def test_every_problem_at_once(problems: Callable[..., list[str]]) -> None:
    """One run shows everything that is wrong, each setting once, and the error's text is that list."""
    wrong = {name: texts[0] for name, texts in WRONG.items() if name not in ("MINIO_ENDPOINT", "PUBLIC_BASE_URL")}
    found = problems(wrong)
    missing = {"PUBLIC_BASE_URL", "MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"}
    assert sorted(problem.partition(":")[0] for problem in found) == sorted(wrong.keys() | missing)
    with pytest.raises(SettingsError) as caught:
        settings.load(wrong, dotenv=Path("no such file"))
    assert str(caught.value).splitlines() == found


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_empty_is_unset(load: Callable[..., Settings], name: str, text: str) -> None:
    """An empty value is as good as none."""
    assert value(load(**{name: text}), name) == DEFAULTS[name]


def test_the_environment_beats_the_file(load: Callable[..., Settings], dotenv: Path) -> None:
    """The file fills in what the environment does not give, or gives as nothing."""
    dotenv.write_text("PORT=1111\nWORKERS=3\nMINIO_BUCKET=from-file\nMINIO_REGION=\n", encoding="utf-8")
    found = load(PORT="2222", WORKERS="", MINIO_REGION="eu-west-1")
    assert (found.port, found.workers, found.minio_bucket, found.minio_region) == (2222, 3, "from-file", "eu-west-1")


def test_defaults_are_beaten_by_both(dotenv: Path) -> None:
    """What a command assumes counts only where neither the environment nor the file says anything."""
    dotenv.write_text("PORT=1111\n", encoding="utf-8")
    assumed = REQUIRED | {"PORT": "3333", "WORKERS": "7", "MINIO_BUCKET": "assumed"}
    found = settings.load({"MINIO_BUCKET": "given"}, dotenv=dotenv, defaults=assumed)
    assert (found.port, found.workers, found.minio_bucket) == (1111, 7, "given")


def test_the_file_in_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without being told otherwise, the file is the .env of the working directory."""
    (tmp_path / ".env").write_text("PORT=1111\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert settings.load(REQUIRED).port == 1111


def test_a_file_from_notepad(load: Callable[..., Settings], dotenv: Path) -> None:
    """A byte order mark and Windows line ends change nothing."""
    dotenv.write_bytes(b"\xef\xbb\xbfPORT=1111\r\nWORKERS=3\r\n")
    found = load()
    assert (found.port, found.workers) == (1111, 3)


@pytest.mark.parametrize("content", ["PORT=1111\n".encode("utf-16"), b"MINIO_BUCKET=caf\xe9\n"], ids=["utf-16", "latin-1"])
def test_a_file_that_is_not_utf_8(problems: Callable[..., list[str]], dotenv: Path, content: bytes) -> None:
    """What Windows PowerShell's > writes is a problem told like any other, not a crash."""
    dotenv.write_bytes(content)
    (problem,) = problems(REQUIRED)
    assert ".env" in problem


@pytest.mark.parametrize("secret", ["a$b", "${HOME}", "$HOME", "pa#ss", "a=b", "pass'word", "ünï"])
def test_secrets_in_the_file_are_taken_as_they_stand(dotenv: Path, secret: str) -> None:
    """A dollar sign or another special character in a secret is the secret's own."""
    dotenv.write_text(f"MINIO_SECRET_KEY={secret}\n", encoding="utf-8")
    environ = {name: text for name, text in REQUIRED.items() if name != "MINIO_SECRET_KEY"}
    assert settings.load(environ, dotenv=dotenv).minio_secret_key.get_secret_value() == secret


def test_other_variables_are_nobodys_business(load: Callable[..., Settings]) -> None:
    """The environment is full of other programs' variables; their names in other cases are not ours either."""
    found = load(PATH="/bin", port="1", Port="2", MODEL_CONFIG="x", MAX_UPLOAD_BYTES="1", ORIGINS="*")
    assert (found.port, found.max_upload_bytes) == (9101, 10 * 1_048_576)


def test_secrets_are_never_shown(load: Callable[..., Settings]) -> None:
    """The secret is there for the store, and in no text form of the settings."""
    found = load()
    assert found.minio_secret_key.get_secret_value() == SECRET
    for text in (repr(found), str(found), f"{found.model_dump()}", found.model_dump_json(), repr(found.minio_secret_key)):
        assert SECRET not in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"PORT": SECRET},
        {"MINIO_ENDPOINT": f"http://admin:{SECRET}@store:9000"},
        {"MINIO_ENDPOINT": f"admin:{SECRET}@store:9000"},
        {"BACKEND_VERIFY_URL": f"http://u:{SECRET}@api.example/"},
        {"ALLOWED_ORIGINS": f"https://u:{SECRET}@chat.example"},
        {"MINIO_BUCKET": f"{SECRET}!"},
        {"LOG_LEVEL": SECRET},
        {"MINIO_USE_SSL": SECRET},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_secrets_are_not_in_problems(dotenv: Path, wrong: dict[str, str]) -> None:
    """Neither the secret nor one that strayed into another variable is repeated in an error, or in what led to it."""
    with pytest.raises(SettingsError) as caught:
        settings.load(REQUIRED | wrong, dotenv=dotenv)
    assert SECRET not in f"{caught.value} {caught.value!r} {caught.value.problems}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("endpoint", "use_ssl", "expected"),
    [
        ("store:9000", None, "http://store:9000"),
        ("store:9000", "false", "http://store:9000"),
        ("store:9000", "true", "https://store:9000"),
        ("store:9000", "1", "https://store:9000"),
        ("http://store:9000", "false", "http://store:9000"),
        ("https://store:9000", None, "https://store:9000"),
        ("https://store:9000", "", "https://store:9000"),
        ("https://store:9000", "TRUE", "https://store:9000"),
    ],
)
def test_the_endpoints_scheme(load: Callable[..., Settings], endpoint: str, use_ssl: str | None, expected: str) -> None:
    """A bare host takes its scheme from MINIO_USE_SSL; a scheme that is there need not be said twice."""
    changes = {"MINIO_ENDPOINT": endpoint} | ({"MINIO_USE_SSL": use_ssl} if use_ssl is not None else {})
    found = load(**changes)
    assert (found.minio_endpoint, found.minio_public_endpoint) == (expected, expected)


@pytest.mark.parametrize(("endpoint", "use_ssl"), [("http://store:9000", "true"), ("https://store:9000", "false")])
def test_a_scheme_that_contradicts(problems: Callable[..., list[str]], endpoint: str, use_ssl: str) -> None:
    """Two settings that say opposite things are an error that names both."""
    (problem,) = problems(REQUIRED | {"MINIO_ENDPOINT": endpoint, "MINIO_USE_SSL": use_ssl})
    assert problem.startswith("MINIO_ENDPOINT: ")
    assert "MINIO_USE_SSL" in problem


def test_the_public_bucket(load: Callable[..., Settings]) -> None:
    """Readers are sent to the bucket below the public endpoint, path and all, or to the store itself."""
    assert load().public_bucket_url == "http://store:9000/irc-media"
    found = load(MINIO_PUBLIC_ENDPOINT="https://cdn.example/pictures/", MINIO_BUCKET="other")
    assert found.public_bucket_url == "https://cdn.example/pictures/other"
    assert found.minio_endpoint == "http://store:9000"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://chat.example", {"https://chat.example"}),
        ("https://chat.example/", {"https://chat.example"}),
        ("HTTPS://Chat.Example", {"https://chat.example"}),
        ("https://chat.example:443,http://chat.example:80", {"https://chat.example", "http://chat.example"}),
        ("http://chat.example:443", {"http://chat.example:443"}),
        (" http://localhost:3000 , http://127.0.0.1:5173 ,, ", {"http://localhost:3000", "http://127.0.0.1:5173"}),
        ("http://[::1]:3000", {"http://[::1]:3000"}),
        ("https://chat.example,https://chat.example", {"https://chat.example"}),
    ],
)
def test_origins_are_written_as_browsers_do(load: Callable[..., Settings], text: str, expected: set[str]) -> None:
    """However an origin is configured, it is kept as a browser's Origin header spells it."""
    assert load(ALLOWED_ORIGINS=text).origins == expected | {"https://media.example"}


@pytest.mark.parametrize("text", ["*", "null", "https://chat.example,*", "null,https://chat.example"])
def test_origins_that_let_anyone_in(problems: Callable[..., list[str]], text: str) -> None:
    """The star and null are errors that say why."""
    (problem,) = problems(REQUIRED | {"ALLOWED_ORIGINS": text})
    assert ("'*'" if "*" in text else "'null'") in problem


@pytest.mark.parametrize(
    ("base", "origin"),
    [
        ("https://media.example", "https://media.example"),
        ("https://media.example/files", "https://media.example"),
        ("http://Localhost:9101/", "http://localhost:9101"),
        ("https://media.example:443", "https://media.example"),
    ],
)
def test_the_services_own_origin_is_allowed(load: Callable[..., Settings], base: str, origin: str) -> None:
    """The origin of PUBLIC_BASE_URL may act without being listed."""
    assert load(PUBLIC_BASE_URL=base).origins == {origin}


def test_a_megabyte(load: Callable[..., Settings]) -> None:
    """1 MB is 1,048,576 bytes."""
    assert load(MAX_UPLOAD_MB="3").max_upload_bytes == 3_145_728


def test_settings_do_not_change(load: Callable[..., Settings]) -> None:
    """What was checked at start stays as it was checked."""
    found = load()
    with pytest.raises(ValueError, match="frozen"):
        found.port = 1


def test_dev_needs_nothing(dotenv: Path) -> None:
    """With dev's defaults an empty environment is enough, and all of it is on loopback."""
    found = settings.load({}, dotenv=dotenv, defaults=settings.dev_defaults({}, dotenv=dotenv))
    assert (found.host, found.public_base_url, found.minio_endpoint) == ("127.0.0.1", "http://localhost:9101", "http://127.0.0.1:9000")
    pages = {f"http://{host}:{port}" for host in ("localhost", "127.0.0.1") for port in (3000, 5173)}
    assert found.origins == pages | {"http://localhost:9101"}


@pytest.mark.parametrize("where", ["environment", "file"])
def test_dev_follows_the_port(dotenv: Path, where: str) -> None:
    """URLs that dev returns name the port that it was told, wherever it was told."""
    environ = {"PORT": "9201"} if where == "environment" else {}
    dotenv.write_text("" if environ else "PORT=9201\n", encoding="utf-8")
    found = settings.load(environ, dotenv=dotenv, defaults=settings.dev_defaults(environ, dotenv=dotenv))
    assert (found.port, found.public_base_url) == (9201, "http://localhost:9201")


@pytest.mark.parametrize("port", ["http", "0", "-1", "99999", "\u0663", "9 1"])
def test_dev_with_a_wrong_port(dotenv: Path, port: str) -> None:
    """A wrong port is one problem, not a second one with a URL that nobody wrote."""
    environ = {"PORT": port}
    with pytest.raises(SettingsError) as caught:
        settings.load(environ, dotenv=dotenv, defaults=settings.dev_defaults(environ, dotenv=dotenv))
    (problem,) = caught.value.problems
    assert problem.startswith("PORT: ")


def test_configured_names_what_was_given(dotenv: Path) -> None:
    """`dev` can tell what somebody chose from what it assumes; empty values were not chosen."""
    dotenv.write_text("MINIO_ENDPOINT=http://store:9000\nMINIO_BUCKET=\n", encoding="utf-8")
    assert settings.configured({"PORT": "9201", "HOST": ""}, dotenv=dotenv) == {"PORT", "MINIO_ENDPOINT"}
