"""Builds the MinIO server that the tests run against, once, and prints where it is: ``python tests/build_minio.py``.

Its vendor publishes no binaries any more, but the source is a Go module: with Go installed this takes two to three
minutes the first time and none later. The cache is ``$XDG_CACHE_HOME/media-storage/minio-<version>`` (or below ~/.cache).
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODULE = "github.com/minio/minio"
VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"  # the last commits before the project was archived
NAME = "minio.exe" if os.name == "nt" else "minio"
GO_BUILD_SECONDS = 1800


def cached() -> Path:
    """Return where the built server is, or would be."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "media-storage" / f"minio-{VERSION}" / NAME


def binary() -> Path | None:
    """Return a MinIO server to test against: the one built here, else one on the PATH."""
    if cached().is_file():
        return cached()
    found = shutil.which("minio")
    return Path(found) if found else None


def build() -> Path:
    """Return the server, built if it is not there; raises `subprocess.CalledProcessError` when Go cannot build it."""
    target = cached()
    if not target.is_file():
        go = shutil.which("go")
        if not go:
            sys.exit("Go is needed to build MinIO, and there is no `go` on the PATH.")
        print(f"Building MinIO {VERSION} once; this takes a few minutes.", file=sys.stderr)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            # Only the path may be on standard output.
            environment = {**os.environ, "GOBIN": scratch}
            subprocess.run([go, "install", f"{MODULE}@{VERSION}"], env=environment, stdout=sys.stderr, check=True, timeout=GO_BUILD_SECONDS)
            Path(scratch, NAME).replace(target)  # whole or not at all
    return target


if __name__ == "__main__":
    print(build())
