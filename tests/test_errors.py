"""Refusals: the contract's table of codes and statuses."""

import re
from http import HTTPStatus

import pytest

from media_storage import errors
from media_storage.errors import Refusal

TABLE: list[tuple[Refusal, int, str]] = [
    (errors.BadRequest("Say it otherwise."), 400, "bad_request"),
    (errors.BadMultipart("Say it otherwise."), 400, "bad_multipart"),
    (errors.MissingFile("Send a file."), 400, "missing_file"),
    (errors.MultipleFiles(), 400, "multiple_files"),
    (errors.EmptyFile(), 400, "empty_file"),
    (errors.Unauthenticated(), 401, "unauthenticated"),
    (errors.OriginNotAllowed(), 403, "origin_not_allowed"),
    (errors.NotOwner(), 403, "not_owner"),
    (errors.NotFound(), 404, "not_found"),
    (errors.MethodNotAllowed(), 405, "method_not_allowed"),
    (errors.UploadTimeout("canary"), 408, "upload_timeout"),
    (errors.FileTooLarge(10_485_760), 413, "file_too_large"),
    (errors.NotMultipart(), 415, "not_multipart"),
    (errors.UnsupportedType("text/html", ("image/jpeg", "image/png")), 415, "unsupported_type"),
    (errors.InvalidImage("canary"), 422, "invalid_image"),
    (errors.TooManyPixels(1000), 422, "too_many_pixels"),
    (errors.RateLimited(17), 429, "rate_limited"),
    (errors.InternalError(), 500, "internal_error"),
    (errors.BackendInvalid("canary"), 502, "backend_invalid"),
    (errors.BackendUnavailable("canary"), 503, "backend_unavailable"),
    (errors.StoreUnavailable("canary"), 503, "store_unavailable"),
    (errors.Overloaded("canary"), 503, "overloaded"),
    (errors.ShuttingDown(), 503, "shutting_down"),
]
IDS = [code for _, _, code in TABLE]


def classes() -> set[type[Refusal]]:
    return set(Refusal.__subclasses__())


@pytest.mark.parametrize(("refusal", "status", "code"), TABLE, ids=IDS)
def test_status_and_code(refusal: Refusal, status: int, code: str) -> None:
    """A refusal has the status and the code of the contract's table."""
    assert (refusal.status, refusal.code) == (status, code)


def test_the_table_is_whole() -> None:
    """Every refusal class is in the table, and none of them has a child that could escape it."""
    assert {type(refusal) for refusal, _, _ in TABLE} == classes()
    assert not [child for kind in classes() for child in kind.__subclasses__()]


def test_codes_are_unique() -> None:
    """A client that switches on the code never meets two meanings of it."""
    codes = [kind.code for kind in classes()]
    assert len(set(codes)) == len(codes)


def test_the_tree_in_the_docstring() -> None:
    """The tree at the top of the module names every class, once, beside its status."""
    named: dict[str, int] = {}
    for status, names in re.findall(r"\b([45]\d\d) ((?:\w+(?: · )?)+)", errors.__doc__ or ""):
        named |= dict.fromkeys(names.split(" · "), int(status))
    assert named == {kind.__name__: kind.status for kind in classes()}


@pytest.mark.parametrize("refusal", [refusal for refusal, _, _ in TABLE], ids=IDS)
def test_the_detail_is_a_sentence(refusal: Refusal) -> None:
    """The client is told in a whole sentence what to do, and its title exists."""
    assert re.fullmatch(r"[A-Z][^\n]*\.", refusal.detail)
    assert HTTPStatus(refusal.status).phrase


@pytest.mark.parametrize("refusal", [refusal for refusal, _, _ in TABLE], ids=IDS)
def test_the_reason_is_for_the_log(refusal: Refusal) -> None:
    """What a refusal was raised for is in nothing that the client gets; the log's text is never empty."""
    assert "canary" not in f"{refusal.detail} {refusal.extra}"
    assert str(refusal)


@pytest.mark.parametrize("refusal", [refusal for refusal, _, _ in TABLE], ids=IDS)
def test_retry_after(refusal: Refusal) -> None:
    """An outage and a limit of uploads say in whole seconds when to try again, and nothing else does."""
    if refusal.status in (429, 503):
        assert type(refusal.retry_after) is int
        assert refusal.retry_after > 0
    else:
        assert refusal.retry_after is None


def test_members_of_their_own() -> None:
    """The refusals that the contract gives more members have exactly these."""
    assert errors.FileTooLarge(10_485_760).extra == {"maxBytes": 10_485_760}
    assert errors.TooManyPixels(1000).extra == {"maxPixels": 1000}
    assert errors.UnsupportedType("text/html", ("image/png",)).extra == {"detected": "text/html", "allowed": ["image/png"]}
    more = {"file_too_large", "too_many_pixels", "unsupported_type"}
    assert {refusal.code for refusal, _, _ in TABLE if refusal.extra} == more


def test_the_limit_is_said_in_megabytes() -> None:
    """A person who sent too much reads the limit in the unit of MAX_UPLOAD_MB."""
    assert "10 MB" in errors.FileTooLarge(10 * 1_048_576).detail


def test_the_origin_refusal_says_what_to_do() -> None:
    """An operator reads the setting's name, and a backend's developer that Origin should not be passed on."""
    detail = errors.OriginNotAllowed().detail
    assert "ALLOWED_ORIGINS" in detail
    assert "Origin" in detail.replace("ALLOWED_ORIGINS", "")
    assert "forward" in detail
