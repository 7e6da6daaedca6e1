"""The one place that reads the environment: every setting, its default and its rule.

``load()`` takes the environment as an argument, so that tests and ``dev`` can pass their own. Each field's upper-case
name is the variable's name.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator

MEBIBYTE = 1_048_576
DOTENV = Path(".env")

# What `dev` assumes where nothing is configured.
_DEV_DEFAULTS = {
    "HOST": "127.0.0.1",
    "ALLOWED_ORIGINS": "http://localhost:3000,http://127.0.0.1:3000,http://localhost:5173,http://127.0.0.1:5173",
    "MINIO_ENDPOINT": "http://127.0.0.1:9000",
    "MINIO_ACCESS_KEY": "minioadmin",
    "MINIO_SECRET_KEY": "minioadmin",
}


class SettingsError(Exception):
    """The configuration cannot be used; ``problems`` holds one sentence for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _split(text: str) -> SplitResult:
    """`text` as a URL with http or https, a host, and neither credentials nor fragment; ValueError otherwise."""
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("must start with http:// or https:// and name a host")
    if "@" in url.netloc or "#" in text or any(ord(c) <= 0x20 or ord(c) >= 0x7F for c in text):
        raise ValueError("must not hold credentials, a fragment, spaces or characters outside ASCII")
    _ = url.port  # raises ValueError when it is not a port number
    return url


def origin_of(text: str) -> str:
    """The web origin (RFC 6454) of a URL, as browsers write it: lower case, without the scheme's own port."""
    url = _split(text)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    own_port = {"http": 80, "https": 443}[url.scheme]
    return f"{url.scheme}://{host}" + (f":{url.port}" if url.port not in (None, own_port) else "")


def _base_url(text: str) -> str:
    _split(text)
    if "?" in text:
        raise ValueError("must not have a query")
    return text.rstrip("/")


def _origins(text: object) -> object:
    if not isinstance(text, str):
        return text
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if open_to_all := [entry for entry in entries if "*" in entry or entry == "null"]:
        raise ValueError(
            f"{', '.join(map(repr, open_to_all))} could be any site, which would then act for a signed-in user; list each origin"
        )
    for entry in entries:
        url = _split(entry)
        if url.path not in ("", "/") or url.query:
            raise ValueError(f"{entry!r} is not an origin: write scheme://host:port and nothing behind it")
    return tuple(origin_of(entry) for entry in entries)


class Settings(BaseModel):
    """What the service was told to do. Sizes in bytes, times in seconds, unless the name says otherwise."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=str.upper, hide_input_in_errors=True)

    host: str = "0.0.0.0"  # noqa: S104 - a service in a container is reached from outside it
    port: int = Field(9101, ge=1, le=65535)
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(9102, ge=0, le=65535)
    public_base_url: str
    backend_verify_url: str = "http://127.0.0.1:8002/auth/me"
    backend_user_id_field: str = "id"
    backend_timeout_seconds: float = Field(3, gt=0, le=60)
    minio_use_ssl: bool | None = None
    minio_endpoint: str
    minio_public_endpoint: str = ""
    minio_access_key: str
    minio_secret_key: SecretStr
    minio_bucket: str = "irc-media"
    minio_region: str = "us-east-1"
    store_timeout_seconds: float = Field(10, gt=0, le=300)
    upload_timeout_seconds: float = Field(600, gt=0, allow_inf_nan=False)
    min_upload_bytes_per_second: int = Field(1024, ge=0)
    shutdown_grace_seconds: float = Field(30, ge=0, allow_inf_nan=False)
    max_concurrent_uploads: int = Field(500, ge=1, le=4096)
    uploads_per_minute: int = Field(0, ge=0)
    rate_limit_storage_uri: str = "memory://"
    max_upload_mb: int = Field(10, ge=1, le=5120)  # 5 GiB is the most that S3 takes in one PUT
    max_image_pixels: int = Field(268_435_456, ge=0)
    allowed_origins: Annotated[tuple[str, ...], BeforeValidator(_origins)] = ()
    redirect_max_age_seconds: int = Field(86_400, ge=0)
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=512)
    log_format: Literal["console", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mb * MEBIBYTE

    @property
    def origins(self) -> frozenset[str]:
        """The web origins that may upload and delete: the configured ones and the service's own."""
        return frozenset((*self.allowed_origins, origin_of(self.public_base_url)))

    @property
    def public_bucket_url(self) -> str:
        return f"{self.minio_public_endpoint}/{self.minio_bucket}"

    @field_validator("metrics_port")
    @classmethod
    def _check_metrics_port(cls, port: int, info: ValidationInfo) -> int:
        if port == info.data.get("port"):
            raise ValueError("is also PORT, and metrics are not for the public; choose another, or 0 for none")
        return port

    @field_validator("public_base_url", "minio_public_endpoint")
    @classmethod
    def _check_base_url(cls, text: str) -> str:
        return _base_url(text)

    @field_validator("backend_verify_url")
    @classmethod
    def _check_url(cls, text: str) -> str:
        _split(text)
        return text

    @field_validator("backend_user_id_field")
    @classmethod
    def _check_field(cls, text: str) -> str:
        if not re.fullmatch(r"[^.]+(\.[^.]+)*", text):
            raise ValueError("must be names joined by dots, such as user.id")
        return text

    @field_validator("minio_endpoint")
    @classmethod
    def _check_endpoint(cls, text: str, info: ValidationInfo) -> str:
        use_ssl = info.data.get("minio_use_ssl")
        if "://" not in text:
            text = f"{'https' if use_ssl else 'http'}://{text}"
        url = _split(text)
        if url.path not in ("", "/") or "?" in text:
            raise ValueError("must be a host and a port, with no path behind it")
        if use_ssl is not None and use_ssl != (url.scheme == "https"):
            raise ValueError(f"says {url.scheme}, but MINIO_USE_SSL says the opposite; drop one of the two")
        return text.rstrip("/")

    @field_validator("rate_limit_storage_uri")
    @classmethod
    def _check_storage_uri(cls, text: str) -> str:
        url = urlsplit(text)
        if text != "memory://" and not (url.scheme in ("redis", "rediss") and url.hostname and re.fullmatch(r"(/\d*)?", url.path)):
            raise ValueError("must be memory:// or redis://host:port/number (rediss:// with TLS)")
        _ = url.port  # raises ValueError when it is not a port number
        return text

    @field_validator("minio_bucket")
    @classmethod
    def _check_bucket(cls, text: str) -> str:
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", text) or ".." in text:
            raise ValueError("must be 3 to 63 lower-case letters, digits, dots and hyphens")
        return text

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, text: object) -> object:
        return text.lower() if isinstance(text, str) else text


def _sentences(error: ValidationError) -> list[str]:
    problems = []
    for entry in error.errors(include_input=False, include_url=False, include_context=False):
        name = str(entry["loc"][0])
        text = "is required" if entry["type"] == "missing" else entry["msg"].removeprefix("Value error, ")
        problems.append(f"{name}: {text}")
    return problems


def _given(environ: Mapping[str, str], dotenv: Path) -> dict[str, str]:
    """What `environ`, else the `dotenv` file, gives a value; an empty value counts as unset. Raises SettingsError."""
    try:
        # utf-8-sig: Notepad writes a byte order mark; interpolate: a secret may hold a dollar sign.
        from_file = dotenv_values(dotenv, encoding="utf-8-sig", interpolate=False)
    except UnicodeDecodeError as exc:
        raise SettingsError([f"{dotenv.name}: is not UTF-8 text ({exc.reason} at byte {exc.start}); save it as UTF-8"]) from None
    values: dict[str, str] = {}
    for source in (from_file, environ):
        values |= {name: value.strip() for name, value in source.items() if value and value.strip()}
    return values


def load(environ: Mapping[str, str], *, dotenv: Path = DOTENV, defaults: Mapping[str, str] | None = None) -> Settings:
    """The settings of `environ`, else of the `dotenv` file, else of `defaults`.

    Raises SettingsError with every problem at once.
    """
    try:
        settings = Settings.model_validate({**(defaults or {}), **_given(environ, dotenv)})
    except ValidationError as exc:
        raise SettingsError(_sentences(exc)) from None
    if not settings.minio_public_endpoint:
        settings = settings.model_copy(update={"minio_public_endpoint": settings.minio_endpoint})
    return settings


def dev_defaults(environ: Mapping[str, str], *, dotenv: Path = DOTENV) -> dict[str, str]:
    """Defaults for a developer's machine, where everything is on loopback."""
    port = _given(environ, dotenv).get("PORT", "9101")
    # A wrong port is reported as such, and not as a bad URL as well.
    usable = re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65_535
    return {**_DEV_DEFAULTS, "PUBLIC_BASE_URL": f"http://localhost:{port if usable else 9101}"}


def configured(environ: Mapping[str, str], *, dotenv: Path = DOTENV) -> set[str]:
    """The names of what the environment or the `dotenv` file gives a value."""
    return set(_given(environ, dotenv))
