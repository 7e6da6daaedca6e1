"""The benchmark's smoke run: everyone who is compared answers as expected. No verdict: figures need a quiet machine."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

if sys.platform != "linux":
    pytest.skip("the benchmark is for Linux", allow_module_level=True)

from benchmarks import programs, systems  # noqa: E402 - it imports what other platforms lack


@pytest.mark.long
@pytest.mark.timeout(600)
def test_everyone_who_is_compared_answers() -> None:
    """Every system, limit and store; a second each."""
    missing = [name for name in ("wrk", programs.nginx()) if not shutil.which(name)]
    missing += [f"{system.name}: {reason}" for system in systems.ALL if (reason := system.lacks())]
    if missing:
        pytest.skip(f"not here: {'; '.join(missing)} (see benchmarks/README.md)")
    done = subprocess.run([sys.executable, "-m", "benchmarks", "--smoke"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for name in (system.name for system in systems.ALL):
        assert f"| {name} |" in done.stdout
    for store in ("MinIO", "SeaweedFS"):
        assert f"## 10 MB to {store}" in done.stdout
