"""Windows, as far as another system can show it: `as_on_windows.py` takes away what it lacks."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import servers
from media_storage import cli
from media_storage.dev import store as embedded
from media_storage.dev.pieces import Piece
from pictures import make

if sys.platform == "win32":
    pytest.skip("this is Windows", allow_module_level=True)

AS_ON_WINDOWS = str(Path(__file__).with_name("as_on_windows.py"))
CTRL_BREAK = signal.SIGUSR1  # as as_on_windows.py has it
SETTINGS = {
    "PUBLIC_BASE_URL": "https://media.example",
    "MINIO_ENDPOINT": "http://127.0.0.1:9",
    "MINIO_ACCESS_KEY": "access",
    "MINIO_SECRET_KEY": "secret",
    "HOST": "127.0.0.1",
    "METRICS_PORT": "0",
}


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command to its end, with a console that knows ASCII only."""
    return subprocess.run(
        [sys.executable, AS_ON_WINDOWS, "-m", "media_storage", *arguments],
        env={**servers.bare_environ(), "PYTHONIOENCODING": "ascii:strict", **environ},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextlib.contextmanager
def running(folder: Path, module: str, *arguments: str, **environ: str) -> Iterator[Piece]:
    piece = Piece(module, [sys.executable, AS_ON_WINDOWS, "-m", module, *arguments], environ, folder / "log", cwd=folder)
    try:
        yield piece
    finally:
        piece.stop()


def test_the_commands_are_there(tmp_path: Path) -> None:
    """Everything that is not gunicorn's is imported without what only Unix has; help is plain ASCII, for any console."""
    done = run(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(command.help and command.help.isascii() for command in cli.main.commands.values())


def test_what_is_taken_away_is_missed(tmp_path: Path) -> None:
    """The simulation bites: a module that needs Unix cannot be imported, and what it lacks is named."""
    for name, missing in (("media_storage.server_unix", "resource"), ("media_storage.body_unix", "gunicorn")):
        command = [sys.executable, AS_ON_WINDOWS, "-m", name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert f"No module named '{missing}" in done.stderr


def test_mistakes_in_the_configuration_are_listed(tmp_path: Path) -> None:
    """As everywhere: all at once, status 2."""
    done = run(tmp_path, "serve", PORT="many")
    assert done.returncode == 2
    assert "PORT: " in done.stderr
    assert "MINIO_ENDPOINT: is required" in done.stderr


def test_serve_without_waitress_says_what_to_install(tmp_path: Path) -> None:
    """A sentence, status 2, no stack."""
    done = run(tmp_path, "serve", AS_ON_WINDOWS_WITHOUT="waitress", **SETTINGS)
    assert (done.returncode, done.stderr) == (2, "On Windows `serve` needs waitress: pip install waitress. (`dev` runs without it.)\n")


@pytest.mark.skipif(not servers.HAS_WAITRESS, reason=servers.NO_WAITRESS)
def test_serve_runs_on_waitress_until_ctrl_break(tmp_path: Path) -> None:
    """It serves, and ends with status 0."""
    port = str(servers.free_port())
    with running(tmp_path, "media_storage", "serve", **SETTINGS, PORT=port) as piece:
        piece.wait_until(lambda: servers.answers(f"http://127.0.0.1:{port}/healthz"), 30)
        assert "Server" not in requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5).headers  # gunicorn and Werkzeug send it
        piece.send_signal(CTRL_BREAK)
        assert piece.status(10) == 0
    assert "Traceback" not in (tmp_path / "log").read_text(encoding="utf-8")


def test_dev_runs_and_stops_its_pieces_in_order(tmp_path: Path) -> None:
    """`dev` and its service as on Windows, with a store and a backend that are configured: an upload, then Ctrl-C."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{AS_ON_WINDOWS}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    backend = servers.ChatBackend()
    port = str(servers.free_port())
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        stack.callback(backend.close)
        store = stack.enter_context(servers.running_store("seaweedfs", tmp_path / "store"))
        environ = {
            **store.environ,
            "BACKEND_VERIFY_URL": backend.url,
            "PORT": port,
            "METRICS_PORT": "0",
            "AS_ON_WINDOWS_PYTHON": str(python),
        }
        dev = stack.enter_context(running(tmp_path, "media_storage", "dev", **environ))
        dev.wait_until(lambda: servers.answers(f"{url}/healthz"), 60)
        picture = make.png(after=bytes(1_000_000))
        files = {"file": ("a.png", picture)}
        answer = requests.post(f"{url}/media/upload", files=files, headers={"Cookie": "session=alice"}, timeout=10)
        assert answer.status_code == 201, answer.text
        assert answer.headers["Server"] == "Werkzeug"
        assert requests.get(f"{store.endpoint}/irc-media/{answer.json()['key']}", timeout=10).content == picture
        dev.send_signal(signal.SIGINT)
        assert dev.status(15) == 0
        assert not embedded.is_taken(int(port))
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert text.endswith("\nStopping.\n")
    assert "Traceback" not in text


def test_a_piece_is_asked_with_ctrl_break(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """terminate() would end it without a word there, and leave what it has started."""
    code = f"import signal, sys, time; signal.signal({int(CTRL_BREAK)}, lambda *_: sys.exit(7)); print('ready', flush=True); time.sleep(60)"
    log = tmp_path / "log"
    for given, status in ((CTRL_BREAK, 7), (None, -signal.SIGTERM)):  # without a console, it is ended after all
        piece = Piece("a piece", [sys.executable, "-c", code], {}, log)
        piece.wait_until(lambda: b"ready" in log.read_bytes(), 10)
        with monkeypatch.context() as patched:
            patched.setattr(sys, "platform", "win32")
            if given:
                patched.setattr(signal, "CTRL_BREAK_EVENT", given, raising=False)
            else:
                patched.setattr(signal, "CTRL_BREAK_EVENT", 1, raising=False)
                patched.setattr(piece._process, "send_signal", _no_console)
                patched.setattr(piece._process, "terminate", lambda piece=piece: os.kill(piece.pid, signal.SIGTERM))
            piece.stop()
        assert piece.status(0) == status


def _no_console(number: int) -> None:
    raise OSError(6, "The handle is invalid")


def test_a_minio_exe_in_the_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the design has it: `minio.exe` beside the project, when there is none on the PATH."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(sys, "platform", "win32")
    (tmp_path / "minio").touch()
    assert embedded.find_minio(tmp_path) is None
    (tmp_path / "minio.exe").touch()
    assert embedded.find_minio(tmp_path) == str((tmp_path / "minio.exe").resolve())


CONDA = """
import ctypes.util, os, sys
def find_library(name):  # as CPython's for Windows: the PATH, and nothing else
    for folder in os.environ["PATH"].split(os.pathsep):
        for candidate in (os.path.join(folder, name), os.path.join(folder, name + ".dll")):
            if os.path.isfile(candidate):
                return candidate
ctypes.util.find_library = find_library
from media_storage import images
sys.modules["pylibmagic"] = None
sys.platform = "win32"
print(images.sniff(sys.stdin.buffer.read()))
import magic
print(magic.libmagic._name)
"""


def test_libmagic_of_conda_is_found(tmp_path: Path) -> None:
    r"""conda-forge's libmagic is `Library\bin\magic.dll` (and `libmagic.dll`), and that folder is on the PATH of `pixi run`."""
    wheel = pytest.importorskip("pylibmagic", reason="pylibmagic is not here, whose library stands in for the DLL")
    folder = tmp_path / "Library" / "bin"
    folder.mkdir(parents=True)
    library = next(path for path in Path(str(wheel.data)).iterdir() if path.name in ("libmagic.so.1", "libmagic.dylib"))
    for name in ("magic.dll", "libmagic.dll"):
        shutil.copy(library, folder / name)
    environ: dict[str, Any] = {**servers.bare_environ(), "PATH": str(folder), "MAGIC": str(Path(str(wheel.data)) / "magic.mgc")}
    done = subprocess.run([sys.executable, "-c", CONDA], input=make.png(), env=environ, capture_output=True, timeout=30, check=False)
    assert done.stdout.decode().split() == ["image/png", str(folder / "magic.dll")], done.stderr.decode()
