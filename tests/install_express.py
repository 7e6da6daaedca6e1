"""Installs what examples/express needs, once, and prints where: ``python tests/install_express.py``, with npm on the PATH.

It goes into the user's cache, ``$XDG_CACHE_HOME/media-storage/example-express-<digest>`` (or below ~/.cache), and never into the example.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "express"
FILES = [EXAMPLE / "package.json", EXAMPLE / "package-lock.json"]
NPM_SECONDS = 300


def modules() -> Path:
    """Return where Express and its modules are, or would be: another folder when the lock changes."""
    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in FILES)).hexdigest()[:12]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "media-storage"
    return base / f"example-express-{digest}" / "node_modules"


def install() -> Path:
    """Return the modules, installed if they are not there; raises `subprocess.CalledProcessError` when npm cannot install them."""
    target = modules()
    if not target.is_dir():
        npm = shutil.which("npm")
        if not npm:
            sys.exit("npm is needed to install Express, and there is none on the PATH.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            for file in FILES:
                shutil.copy(file, scratch)
            command = [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
            # Only the path may be on standard output.
            subprocess.run(command, cwd=scratch, stdout=sys.stderr, check=True, timeout=NPM_SECONDS)
            Path(scratch, "node_modules").replace(target)  # whole or not at all
    return target


if __name__ == "__main__":
    print(install())
