"""Runs a module of the package as on Windows: ``python tests/as_on_windows.py -m MODULE ARGUMENT...``, on any system.

What only Unix has is taken away from everything but the standard library, which goes on as before: modules, `fork`, `poll`, `sendfile`.
Then all of the package that is not named `_unix` is imported, `sys.platform` is ``win32``, and Ctrl-Break is SIGUSR1.
``AS_ON_WINDOWS_WITHOUT`` names one more module to take away, ``AS_ON_WINDOWS_PYTHON`` a program to start for `sys.executable`.
"""

import importlib
import os
import pkgutil
import select
import signal
import sys
from importlib.abc import MetaPathFinder
from types import ModuleType

UNIX_ONLY = {"crypt", "fcntl", "grp", "gunicorn", "nis", "posix", "pty", "pwd", "resource", "spwd", "syslog", "termios", "tty"}
SERVICES = {"media_storage": "media_storage.cli"}


class _TakenAway(MetaPathFinder):
    """Finds no module that Windows lacks, unless the standard library asks."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname.partition(".")[0] in self._names and _asker() not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def _asker() -> str:
    """The top-level package whose import statement is being run."""
    frame = sys._getframe(2)
    while frame.f_globals["__name__"].startswith("importlib"):
        assert frame.f_back
        frame = frame.f_back
    return str(frame.f_globals["__name__"]).partition(".")[0]


def _take_away() -> None:
    names = UNIX_ONLY | {os.environ.get("AS_ON_WINDOWS_WITHOUT", "")}
    sys.meta_path.insert(0, _TakenAway(names))
    for name in names & set(sys.modules):
        del sys.modules[name]
    for module, attributes in (
        (os, ("fork", "forkpty", "killpg", "sendfile", "setsid")),
        (select, ("poll", "epoll")),
        (signal, ("SIGHUP", "SIGKILL")),
    ):
        for attribute in attributes:
            if hasattr(module, attribute):
                delattr(module, attribute)


def _import_all() -> list[ModuleType]:
    import media_storage  # noqa: PLC0415 - after what it may not use is gone

    found = pkgutil.walk_packages(media_storage.__path__, "media_storage.")
    left_out = ("_unix", ".__main__", *([".server_waitress"] if os.environ.get("AS_ON_WINDOWS_WITHOUT") == "waitress" else []))
    return [importlib.import_module(module.name) for module in found if not module.name.endswith(left_out)]


def main(name: str, arguments: list[str]) -> None:
    _take_away()
    _import_all()
    from media_storage import images  # noqa: PLC0415 - as above

    images.libmagic()  # this system's, while it is known which system that is
    sys.platform = "win32"
    signal.SIGBREAK = signal.CTRL_BREAK_EVENT = signal.SIGUSR1  # type: ignore[attr-defined]
    sys.executable = os.environ.get("AS_ON_WINDOWS_PYTHON", sys.executable)
    sys.argv = [name, *arguments]
    importlib.import_module(SERVICES.get(name, name)).main()


if __name__ == "__main__":
    main(sys.argv[2], sys.argv[3:])
