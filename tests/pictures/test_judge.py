"""Chromium draws or refuses every file of the material, and our verdict agrees, or `judge.EXPLAINED` says why not."""

import re

import pytest

from pictures import fetch

pytest.importorskip("playwright.sync_api", reason="the judge needs Playwright for Python")

from pictures import chromium, judge

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(chromium.executable() is None, reason="the judge needs a Chromium on the PATH, or named by CHROMIUM"),
    pytest.mark.skipif(not fetch.complete(), reason="the judge needs its material: run `python tests/pictures/fetch.py`"),
]


@pytest.fixture(scope="module")
def cases() -> list[judge.Case]:
    """Every file with both verdicts: about half a minute."""
    _, found = judge.cases()
    print(judge.table(found))
    return found


def test_there_is_enough_material(cases: list[judge.Case]) -> None:
    """At least 400 files, at least 100 of them hostile; and of each type hundreds or dozens that are drawn."""
    assert len(cases) >= 400
    assert sum(case.picture.hostile for case in cases) >= 100
    for content_type, least in {"image/jpeg": 100, "image/png": 400, "image/webp": 30}.items():
        assert sum(case.answer == content_type and case.chromium.draws for case in cases) >= least


def test_our_verdict_is_chromiums(cases: list[judge.Case]) -> None:
    """Accepted is what the browser draws, refused what it does not; each exception has its reason."""
    findings = [f"{case.label}: ours {case.answer}, {case.chromium}" for case in cases if not case.agreed and case.explanation is None]
    assert not findings, "\n".join(findings)


def test_every_explanation_is_needed(cases: list[judge.Case]) -> None:
    """No exception outlives the disagreement that it was made for."""
    differing = [case for case in cases if not case.agreed]
    for pattern, answer, draws, _ in judge.EXPLAINED:
        assert any(re.fullmatch(pattern, case.label) and (case.answer, case.chromium.draws) == (answer, draws) for case in differing), (
            pattern
        )


def test_our_dimensions_are_chromiums(cases: list[judge.Case]) -> None:
    """Width and height as the browser lays the picture out, but for EXIF's turning."""
    assert not [
        f"{case.label}: {case.image}, {case.chromium}" for case in cases if case.image and case.chromium.loaded and not case.same_size
    ]


def test_nothing_hostile_passes_for_another_type(cases: list[judge.Case]) -> None:
    """What is accepted begins with the signature of the type it gets, whatever else the file is."""
    signatures = {"image/jpeg": rb"\xff\xd8\xff", "image/png": rb"\x89PNG\r\n\x1a\n", "image/webp": rb"RIFF....WEBP"}
    for case in cases:
        if case.image:
            assert re.match(signatures[case.answer], case.picture.read(), re.DOTALL), case.label
