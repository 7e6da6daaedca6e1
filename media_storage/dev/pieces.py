"""Processes that `dev` starts and must not leave behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

STOP_SECONDS = 10.0
TAIL_LINES = 15


class PieceDied(Exception):
    """A process ended, or did not become ready in time; the text says which, and how it ended."""


class Piece:
    """A running process. With `log_file` its output goes there, else to this terminal."""

    def __init__(
        self, name: str, command: list[str], environ: dict[str, str], log_file: Path | None = None, cwd: Path | None = None
    ) -> None:
        self.name = name
        self._log_file = log_file
        output = log_file.open("wb") if log_file else None
        # Not in the terminal's foreground group: Ctrl-C must reach `dev` alone, which stops the pieces in order.
        windows = sys.platform == "win32"
        self._process = subprocess.Popen(  # noqa: S603 - the commands are ours
            command,
            env={**os.environ, **environ},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output and subprocess.STDOUT,
            start_new_session=not windows,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) if windows else 0,
        )
        if output:
            output.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises PieceDied when the process has ended, with the last lines that it wrote."""
        status = self._process.poll()
        if status is None:
            return
        text = f"{self.name} ended with status {status}"
        if self._log_file:
            lines = self._log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
            text = "\n".join([f"{text}; its last words ({self._log_file}):", *(f"  {line}" for line in lines)])
        raise PieceDied(text)

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Returns when `ready()` is true. Raises PieceDied when the process ends or the time is up."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise PieceDied(f"{self.name} was not ready after {seconds:.0f} seconds")
            time.sleep(0.05)

    def stop(self) -> None:
        """Asks the process to end, and ends it when it does not."""
        if self._process.poll() is None:
            self._ask_to_end()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask_to_end(self) -> None:
        # On Windows terminate() ends only the one process, at once; a group can be sent Ctrl-Break, where there is a console.
        if sys.platform == "win32":
            with contextlib.suppress(OSError):
                self._process.send_signal(signal.CTRL_BREAK_EVENT)
                return
        self._process.terminate()

    def status(self, seconds: float) -> int | None:
        """The exit status, once the process has ended; None when it is still running after so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.poll()

    def send_signal(self, number: int) -> None:
        """Sends the process a signal."""
        self._process.send_signal(number)
