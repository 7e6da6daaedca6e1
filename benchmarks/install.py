"""Installs the peers into the user's cache: ``python -m benchmarks.install``. What is already there is left alone.

Express and its modules by ``npm ci``, the Python peers by pip into a virtual environment of their own, tusd by Go. wrk, nginx and Node.js
are the machine's (on Debian: ``apt-get install wrk nginx-light nodejs npm``). A peer that cannot be installed is named; exit status 1.
"""

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from benchmarks import programs

INSTALL_SECONDS = 1200


def _run(*argv: str, folder: Path) -> None:
    subprocess.run(argv, cwd=folder, stdout=sys.stderr, check=True, timeout=INSTALL_SECONDS)  # noqa: S603 - the commands are ours


def express(folder: Path) -> None:
    """Node's modules as package-lock.json has them."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(programs.EXPRESS / name, folder)
    _run("npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", folder=folder)


def python(folder: Path) -> None:
    """The virtual environment of naive Flask and FastAPI."""
    venv.create(folder, with_pip=True)
    _run(programs.peers_python(), "-m", "pip", "install", "-q", "-r", str(programs.REQUIREMENTS), folder=folder)


def tusd(folder: Path) -> None:
    """tusd by way of a module of its own: ``go install`` would ask for the list of all versions, which not every module proxy gives."""
    package = "github.com/tus/tusd/v2/cmd/tusd"
    _run("go", "mod", "init", "bench", folder=folder)
    _run("go", "get", f"{package}@{programs.TUSD}", folder=folder)
    _run("go", "build", "-o", "tusd", package, folder=folder)


def install(name: str, folder: Path, fill: Callable[[Path], None]) -> bool:
    """Fills `folder` unless that was done before; returns whether it is complete now."""
    if programs.is_installed(folder):
        print(f"{name}: already installed")
        return True
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        fill(folder)
    except (OSError, subprocess.SubprocessError) as failure:
        print(f"{name}: not installed: {failure}")
        return False
    (folder / programs.INSTALLED).touch()
    print(f"{name}: installed")
    return True


def main() -> int:
    """Installs every peer; returns the exit status."""
    done = [
        install("Express", programs.express_folder(), express),
        install("naive Flask and FastAPI", programs.python_folder(), python),
        install("tusd", programs.tusd_folder(), tusd),
    ]
    return 0 if all(done) else 1


if __name__ == "__main__":
    sys.exit(main())
