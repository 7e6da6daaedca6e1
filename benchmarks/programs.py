"""Where the programs of a run are: those of the machine, and the peers that ``python -m benchmarks.install`` puts in the user's cache."""

import hashlib
import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from media_storage.dev import store as embedded

HERE = Path(__file__).parent
ROOT = HERE.parent
PEERS = HERE / "peers"
REQUIREMENTS = HERE / "requirements.txt"
EXPRESS = PEERS / "express"
TUSD = "v2.8.0"
INSTALLED = "installed"  # the file that says an installation came to its end
INSTALL_HINT = "`python -m benchmarks.install` brings it"


def _cache(name: str, *contents: Path) -> Path:
    """A folder of the user's cache that is another one when the lock files change."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "media-storage" / "bench"
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in contents)).hexdigest()[:12]
    return base / (f"{name}-{digest}" if contents else name)


def express_folder() -> Path:
    """Where Express and its modules are, or would be."""
    return _cache("express", EXPRESS / "package.json", EXPRESS / "package-lock.json")


def python_folder() -> Path:
    """The Python peers' virtual environment."""
    return _cache("python", REQUIREMENTS)


def tusd_folder() -> Path:
    """Where tusd is, or would be."""
    return _cache(f"tusd-{TUSD}")


def is_installed(folder: Path) -> bool:
    """Whether an installation into `folder` came to its end."""
    return (folder / INSTALLED).is_file()


def peers_python() -> str:
    """The interpreter of the Python peers."""
    return str(python_folder() / "bin" / "python")


def nginx() -> str:
    """nginx; Debian keeps it where only root's PATH looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or "nginx"


def find_store(kind: str) -> str | None:
    """The program of a store, `minio` or `seaweedfs`; None when it is not here."""
    if kind == "seaweedfs":
        return embedded.find_weed()
    found = _minio_builder()["binary"]()
    return str(found) if found else None


def _minio_builder() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tests" / "build_minio.py"))


def lacks_nginx() -> str | None:
    """Why there is no nginx, or None when there is."""
    return None if shutil.which(nginx()) else "there is no nginx on this machine"


def lacks_express() -> str | None:
    """Why Express cannot run, or None when it can."""
    if not shutil.which("node"):
        return "there is no Node.js on this machine"
    return None if is_installed(express_folder()) else f"not installed: {INSTALL_HINT}"


def lacks_python_peers() -> str | None:
    """Why the Python peers cannot run, or None when they can."""
    return None if is_installed(python_folder()) else f"not installed: {INSTALL_HINT}"


def lacks_tusd() -> str | None:
    """Why tusd cannot run, or None when it can."""
    return None if is_installed(tusd_folder()) else f"not installed: {INSTALL_HINT} (needs Go)"


def versions() -> dict[str, str]:
    """The versions of all that takes part, by name."""
    peers = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)$", REQUIREMENTS.read_text(encoding="utf-8")))
    express = json.loads((EXPRESS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    own = {name: metadata.version(name) for name in ("flask", "gunicorn", "minio", "python-multipart", "urllib3")}
    return {
        "this service": f"Python {platform.python_version()}, " + ", ".join(f"{name} {version}" for name, version in own.items()),
        "MinIO": _minio_version(),
        "SeaweedFS": _first_line(find_store("seaweedfs"), "version"),
        "Express": f"Node.js {_first_line('node', '--version')}, " + ", ".join(f"{name} {version}" for name, version in express.items()),
        "naive Flask": ", ".join(f"{name} {peers[name]}" for name in ("Flask", "gunicorn", "minio", "requests")),
        "FastAPI": ", ".join(f"{name} {peers[name]}" for name in ("fastapi", "uvicorn", "aioboto3", "httpx", "python-multipart")),
        "tusd": TUSD,
        "nginx": _first_line(nginx(), "-v").removeprefix("nginx version: "),
        "wrk": _first_line("wrk", "-v").partition(" Copyright")[0],
    }


def machine() -> str:
    """The machine in a few words: processor, cores, memory in GiB, system."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = re.search(r"model name\s*: (.+)", info)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores, kernel = len(os.sched_getaffinity(0)), platform.release().split("-")[0]
    return f"{model[1].strip() if model else platform.machine()}, {cores} cores, {memory:.0f} GiB, {sys.platform} {kernel}"


def _minio_version() -> str:
    """What MinIO says; one that Go built knows no version, and is then the one that the tests pin."""
    said, builder = _first_line(find_store("minio"), "--version"), _minio_builder()
    return str(builder["VERSION"]) if builder["cached"]().is_file() else said


def _first_line(program: str | None, argument: str) -> str:
    """What a program says about its version; `wrk -v` does so with status 1."""
    if not program or not shutil.which(program):
        return "not here"
    said = subprocess.run([program, argument], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    return next(iter((said.stdout + said.stderr).splitlines()), "").strip()
