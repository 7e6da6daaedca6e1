"""Processes that a measurement starts, what they use, and their certain end. Linux."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MEBIBYTE = 1_048_576
STOP_SECONDS = 5.0
PORTS = range(20_000, 28_000)
POLL_SECONDS = 0.005
SAMPLE_SECONDS = 0.5  # between two looks at a tree's memory; each costs about a millisecond per process
_TAIL_LINES = 15


class Failed(Exception):
    """A program ended, did not become ready, or answered what it should not; the text says which and how."""


@dataclass(frozen=True)
class Command:
    """What to run. `environ` is added to this process's own environment."""

    argv: list[str]
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Usage:
    """What a process tree used: CPU seconds until now, and the most memory until now, in MiB (RSS of one process; PSS of the tree)."""

    cpu_seconds: float
    largest_process_mib: float
    tree_mib: float


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, outside the range that outgoing connections take theirs from."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", port))
            return port
    raise Failed("no port is free")


class Tree:
    """A running program with its children, in a process group of its own that is killed at the end."""

    def __init__(self, name: str, command: Command, folder: Path) -> None:
        self.name = name
        self._log = folder / f"{name.replace(' ', '-').replace('/', '-')}.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the commands are ours
                command.argv,
                env={**os.environ, **command.environ},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._root = psutil.Process(self._process.pid)
        self._peak_pss = 0.0

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Returns when `ready()`. Raises Failed when the program has ended or `seconds` are over."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self._process.poll() is not None:
                raise Failed(f"{self.name} ended with status {self._process.returncode}\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} did not answer within {seconds:.0f} s\n{self.last_words()}")
            time.sleep(POLL_SECONDS)

    def last_words(self) -> str:
        """The last lines that the program wrote."""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])

    def usage(self) -> Usage:
        """What the tree has used until now."""
        cpu = largest = 0.0
        for process in self._members():
            with contextlib.suppress(psutil.Error, OSError):
                times = process.cpu_times()
                cpu += times.user + times.system + times.children_user + times.children_system
                largest = max(largest, _peak_rss_mib(process.pid))
        return Usage(cpu, largest, max(self._peak_pss, self.sample()))

    def sample(self) -> float:
        """The tree's memory now, in MiB: each process's own pages and its share of those it has in common with others."""
        total = 0.0
        for process in self._members():
            with contextlib.suppress(psutil.Error, OSError):
                total += process.memory_full_info().pss / MEBIBYTE
        self._peak_pss = max(self._peak_pss, total)
        return total

    def stop(self) -> None:
        """Kills the whole group: nothing of it is needed any more."""
        members = self._members()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        psutil.wait_procs(members, STOP_SECONDS)

    def _members(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []


def _peak_rss_mib(pid: int) -> float:
    """The most that a process ever had resident, in MiB; the kernel keeps count (VmHWM of proc_pid_status(5), in KiB)."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(lines.get("VmHWM", "0 kB").split()[0]) / 1024


@contextlib.contextmanager
def running(name: str, command: Command, folder: Path, ready: Callable[[], bool], seconds: float = 60.0) -> Iterator[Tree]:
    """The program while the context lasts, from its first answer on."""
    tree = Tree(name, command, folder)
    try:
        tree.wait_until(ready, seconds)
        yield tree
    finally:
        tree.stop()


@contextlib.contextmanager
def sampling(tree: Tree) -> Iterator[None]:
    """Looks at the tree's memory from time to time while the context lasts."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(SAMPLE_SECONDS):
            tree.sample()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
