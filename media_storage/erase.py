"""The operator's takedown: what would be deleted, and its deletion, however much it is.

What is shown is counted from one listing of the store, and what is deleted comes from a second one, in batches: a
user's objects are never all held in memory. Objects that were written since the first are left alone.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from media_storage import keys
from media_storage.errors import StoreUnavailable
from media_storage.storage import Store, Stored

BATCH = 200  # objects that one call deletes: an old disk manages them within the store's timeout
SHOWN = 10
BEFORE_ALL = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Selection:
    """The objects with these keys, or a user's."""

    chosen: frozenset[str] = frozenset()
    user: str = ""

    def prefixes(self) -> list[str]:
        return [f"uploads/{self.user}/"] if self.user else sorted(self.chosen)

    def __contains__(self, key: str) -> bool:
        return keys.owner(key) == self.user if self.user else key in self.chosen


@dataclass
class Survey:
    """What a selection holds: how many objects, their bytes, and the first of them."""

    objects: int = 0
    size: int = 0
    first: list[Stored] = field(default_factory=list)
    missing: int = 0  # of the keys asked for
    others: int = 0  # below the same prefix, but none that this service made
    newest: datetime = BEFORE_ALL

    def lines(self) -> Iterator[str]:
        """For the operator to judge."""
        yield from (f"  {item.key}  {item.size:,} bytes" for item in self.first)
        if self.objects > len(self.first):
            yield f"  and {self.objects - len(self.first):,} more"
        if self.missing:
            yield f"{self.missing:,} of the keys given are not there."
        if self.others:
            yield f"{self.others:,} other object(s) beside them were not made by this service and stay."
        if self.objects:
            yield f"{self.objects:,} object(s) with {self.size:,} bytes will be deleted for good."
            yield "Caches, and people who saw a picture, may keep a copy."
        else:
            yield "There is nothing to delete."


@dataclass
class Outcome:
    """What became of it. `failed` holds the first of the keys that were not deleted, with the store's reasons."""

    deleted: int = 0
    not_deleted: int = 0
    newer: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stopped: str = ""  # why the rest was not tried

    @property
    def complete(self) -> bool:
        return not (self.not_deleted or self.newer or self.stopped)

    def lines(self) -> Iterator[str]:
        """What was done, and what was not."""
        yield f"{self.deleted:,} object(s) deleted."
        if self.newer:
            yield f"{self.newer:,} object(s) were uploaded meanwhile and stay: run this again."
        if self.not_deleted:
            yield f"{self.not_deleted:,} object(s) could not be deleted:"
            yield from (f"  {key}  {reason}" for key, reason in self.failed.items())
        if self.not_deleted > len(self.failed):
            yield f"  and {self.not_deleted - len(self.failed):,} more"
        if self.stopped:
            yield f"Stopped before the end, run this again: {self.stopped}"


def survey(store: Store, selection: Selection) -> Survey:
    """Counts, and changes nothing. Raises StoreUnavailable."""
    found = Survey()
    for item in _objects(store, selection):
        if item.key not in selection:
            found.others += 1
            continue
        found.objects += 1
        found.size += item.size
        found.newest = max(found.newest, item.written)
        if len(found.first) < SHOWN:
            found.first.append(item)
    found.missing = max(0, len(selection.chosen) - found.objects)
    return found


def erase(store: Store, selection: Selection, seen: Survey) -> Outcome:
    """Deletes what `seen` counted. That an object is gone already is no failure; what the store refuses is in the answer."""
    outcome = Outcome()
    try:
        wanted = (item for item in _objects(store, selection) if item.key in selection)
        while batch := list(itertools.islice(wanted, BATCH)):
            shown = [item.key for item in batch if item.written <= seen.newest]
            outcome.newer += len(batch) - len(shown)
            failed = store.delete_all(shown) if shown else {}
            outcome.deleted += len(shown) - len(failed)
            outcome.not_deleted += len(failed)
            outcome.failed |= dict(itertools.islice(failed.items(), max(0, SHOWN - len(outcome.failed))))
    except StoreUnavailable as exc:
        outcome.stopped = exc.reason
    except KeyboardInterrupt:
        outcome.stopped = "interrupted"
    return outcome


def _objects(store: Store, selection: Selection) -> Iterator[Stored]:
    for prefix in selection.prefixes():
        yield from store.objects(prefix)
