"""Tests run side by side, a file's tests in one process; what measures time has the machine to itself."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

if sys.platform != "win32":
    import fcntl


def _is(item: pytest.Item | None, marker: str) -> bool:
    return item is not None and item.get_closest_marker(marker) is not None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the fixtures of a file, which are servers, in one process.

    Those that measure come first, one after the other; then the longest, so that no process is left with one at the end.
    """
    for item in items:
        if _is(item, "alone"):
            item.add_marker(pytest.mark.xdist_group("alone"))
        elif not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=lambda item: (_is(item, "alone"), _is(item, "long")), reverse=True)


class Room:
    """The machine, shared by the processes of one run: any number of ordinary tests are in it, or one that is alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: IO[bytes] | None = None

    @contextlib.contextmanager
    def entered(self, *, alone: bool, next_alone: bool) -> Iterator[None]:
        """Waits for its turn. Several that are alone keep the room from the first to the last."""
        if self._held is None and sys.platform != "win32":
            with (self._folder / "door").open("wb") as door:  # whoever waits to be alone keeps others from coming in
                fcntl.flock(door, fcntl.LOCK_EX)
                self._held = (self._folder / "room").open("wb")
                fcntl.flock(self._held, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
        if self._held is not None and not (alone and next_alone):
            self._held.close()
            self._held = None


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_room] = Room(config.cache.mkdir("room"))  # type: ignore[union-attr]  # the plugin is pytest's own


_room = pytest.StashKey[Room]()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before any test's timeout begins to count
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    with item.config.stash[_room].entered(alone=_is(item, "alone"), next_alone=_is(nextitem, "alone")):
        return (yield)
