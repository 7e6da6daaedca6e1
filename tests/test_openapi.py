"""The OpenAPI document: sound in itself, made for the settings, true to the refusals. ``e2e/test_openapi.py`` asks a service."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from media_storage import create_app, errors, keys, openapi, settings
from media_storage.errors import Refusal
from media_storage.version import __version__

ENVIRON = {
    "PUBLIC_BASE_URL": "https://media.example/below",
    "MINIO_ENDPOINT": "http://canary-host:9000",
    "MINIO_PUBLIC_ENDPOINT": "https://cdn.example",
    "MINIO_ACCESS_KEY": "canary-access",
    "MINIO_SECRET_KEY": "canary-secret",
    "BACKEND_VERIFY_URL": "http://canary-backend/auth/me",
    "ALLOWED_ORIGINS": "https://canary-origin.example",
    "MAX_UPLOAD_MB": "3",
    "MAX_IMAGE_PIXELS": "1234567",
    "REDIRECT_MAX_AGE_SECONDS": "77",
}
SETTINGS = settings.load(ENVIRON, dotenv=Path("no such file"))
DOCUMENT = openapi.document(SETTINGS)
RESPONSES = DOCUMENT["components"]["responses"]
PROBLEM = "application/problem+json"
SESSION = {"bad_request", "unauthenticated", "origin_not_allowed", "backend_invalid", "backend_unavailable"}


def operations() -> dict[str, dict[str, Any]]:
    """Each operation by its id, with the answers that it refers to in place."""
    found = {}
    for path in DOCUMENT["paths"].values():
        for operation in (path[method] for method in path if method != "parameters"):
            answers = {
                status: RESPONSES[a["$ref"].rpartition("/")[2]] if "$ref" in a else a for status, a in operation["responses"].items()
            }
            found[operation["operationId"]] = {**operation, "responses": answers}
    return found


def problem_schema(answer: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = answer["content"][PROBLEM]["schema"]
    return schema


def refused(operation: dict[str, Any]) -> set[str]:
    """The codes of an operation's refusals."""
    answers = [answer for answer in operation["responses"].values() if PROBLEM in answer.get("content", {})]
    return {code for answer in answers for code in problem_schema(answer)["properties"]["code"]["enum"]}


def fits(document: object, schema: dict[str, Any]) -> bool:
    """Whether a JSON document is one that the schema describes."""
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]}).is_valid(document)


def test_it_is_openapi_3_1() -> None:
    """The specification's own schema accepts it, every reference leads somewhere, and no operation is called like another."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert not [*OpenAPIV31SpecValidator(DOCUMENT).iter_errors()]
    for kind, name in re.findall(r"'#/components/(\w+)/([\w-]+)'", str(DOCUMENT)):
        assert name in DOCUMENT["components"][kind]


def test_every_refusal_is_described() -> None:
    """Under its name: its status, its code, and the headers that go with it."""
    assert set(RESPONSES) == {kind.__name__ for kind in Refusal.__subclasses__()}
    for kind in Refusal.__subclasses__():
        answer = RESPONSES[kind.__name__]
        assert problem_schema(answer)["properties"] == {"status": {"const": kind.status}, "code": {"enum": [kind.code]}}
        assert ("Retry-After" in answer["headers"]) == (kind.status in (429, 503))
        assert ("Allow" in answer["headers"]) == (kind.status == 405)


def test_each_operation_has_its_own_refusals() -> None:
    """An upload may meet all but three; what asks nobody can only be defective."""
    every = {kind.code for kind in Refusal.__subclasses__()}
    found = {name: refused(operation) - {"internal_error"} for name, operation in operations().items()}
    assert found.pop("upload") == every - {"not_owner", "not_found", "method_not_allowed", "internal_error"}
    assert found.pop("uploadShort") == refused(operations()["upload"]) - {"internal_error"}
    assert found.pop("delete") == {*SESSION, "not_owner", "not_found", "store_unavailable"}
    assert found.pop("read") == found.pop("readHead") == {"not_found"}
    assert found.pop("preflightDelete") == {"origin_not_allowed", "not_found"}
    assert found.pop("preflightUpload") == found.pop("preflightUploadShort") == {"origin_not_allowed"}
    assert found == {"limits": set(), "healthz": set(), "readyz": set(), "openapi": set()}


def examples() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every example of an answer, with the schema that it should fit."""
    answers = [*RESPONSES.values(), *(answer for operation in operations().values() for answer in operation["responses"].values())]
    for content in (content for answer in answers for content in answer.get("content", {}).values()):
        for example in [content.get("example"), *(named["value"] for named in content.get("examples", {}).values())]:
            if example is not None:
                yield example, content["schema"]


def test_the_examples_fit_their_schemas() -> None:
    """Those of the refusals are made by the refusals themselves: what is described is what is sent."""
    shown = [*examples()]
    assert {example["code"] for example, _ in shown if "code" in example} == {kind.code for kind in Refusal.__subclasses__()}
    assert not [example for example, schema in shown if not fits(example, schema)]


@pytest.mark.parametrize(
    "refusal",
    [errors.NotMultipart(), errors.UnsupportedType("text/html", ("image/png",)), errors.InvalidImage("x"), errors.TooManyPixels(5)],
    ids=lambda refusal: str(refusal.code),
)
def test_a_code_has_its_own_members_and_no_others(refusal: Refusal) -> None:
    """A document with one too few or too many, or of another status, does not fit."""
    whole = refusal.document("id")
    schema = problem_schema(operations()["upload"]["responses"][str(refusal.status)])
    assert fits(whole, schema)
    assert not any(fits({name: whole[name] for name in whole if name != left_out}, schema) for left_out in whole)
    assert not fits({**whole, "trace": "x"}, schema)
    assert not fits({**whole, "maxBytes": 5}, schema)
    assert not fits(whole, problem_schema(operations()["upload"]["responses"]["400"]))


def test_keys_are_those_that_are_minted() -> None:
    """The path's two segments and the answer's key."""
    user, name = (parameter["schema"]["pattern"] for parameter in DOCUMENT["paths"]["/media/uploads/{user_id}/{name}"]["parameters"])
    key = DOCUMENT["components"]["schemas"]["Upload"]["properties"]["key"]
    for extension in ("jpg", "png", "webp"):
        minted = keys.mint("a.b_c-9", extension)
        _, owner, last = minted.split("/")
        assert re.search(user, owner)
        assert re.search(name, last)
        assert fits(minted, key)
        assert not fits(f"{minted}/x", key)
        assert not re.search(name, f"{last}x")
    assert not re.search(user, "../7")


def test_it_is_made_for_the_settings() -> None:
    """Limits, addresses and times are those in force; what is nobody's business is not in it."""
    client = create_app(SETTINGS).test_client()
    served = client.get("/openapi.json").get_json()
    paths = served["paths"]
    assert served["info"]["version"] == __version__
    assert served["servers"] == [{"url": "https://media.example/below"}]
    limits = paths["/media/limits"]["get"]["responses"]["200"]["content"]["application/json"]["example"]
    assert limits == client.get("/media/limits").get_json()
    found = paths["/media/uploads/{user_id}/{name}"]["get"]["responses"]["302"]["headers"]
    assert found["Cache-Control"]["schema"]["const"] == "public, max-age=77"
    assert found["Location"]["schema"]["examples"][0].startswith("https://cdn.example/irc-media/uploads/")
    assert served["components"]["schemas"]["Upload"]["properties"]["size"]["maximum"] == 3 * 1_048_576
    assert "canary" not in str(served)
