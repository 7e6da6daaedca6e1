"""The OpenAPI document, held to the running service by schemathesis: requests of its making, and every answer looked at."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from live import Live

FOLDER = Path(__file__).parent
# What it must have reached on its own, so that finding nothing means something.
REACHED = {
    "created",
    "found",
    "no_content",
    "ok",
    "missing_file",
    "unauthenticated",
    "origin_not_allowed",
    "not_owner",
    "not_found",
    "method_not_allowed",
    "not_multipart",
}


@pytest.mark.not_on_moto("the store does not show in the answers")
@pytest.mark.beside_minio("the store does not show in the answers")
@pytest.mark.skipif(
    not importlib.util.find_spec("schemathesis"), reason="schemathesis is not here: conda-forge's records lack it, pip has it"
)
def test_schemathesis_finds_nothing(live: Live, tmp_path: Path) -> None:
    """Statuses, types, headers and documents are those described; what is described as valid is taken, and nothing else is."""
    before = len(live.service.log_lines())
    report = tmp_path / "report.json"
    every = ["--include-path-regex", "^/"]  # or it would leave out the document's own path
    options = ["--config-file", str(FOLDER / "schemathesis.toml"), "run", "--no-color", "--report-json-path", str(report), *every]
    found = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *options, f"{live.url}/openapi.json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER), str(FOLDER.parent)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert found.returncode == 0, found.stdout + found.stderr
    story = json.loads(report.read_text(encoding="utf-8"))
    assert {phase["status"] for phase in story["phases"].values()} == {"success"}
    paths = requests.get(f"{live.url}/openapi.json", timeout=10).json()["paths"].values()
    assert story["operations"]["tested"] == len([name for path in paths for name in path if name != "parameters"])
    assert not [name for name, warned in story["warnings"].items() if warned]
    assert story["valid_rates"]["POST /media/upload"]["fuzzing"]["accepted"] > 10
    assert {line.get("outcome") for line in live.service.log_lines()[before:]} >= REACHED
