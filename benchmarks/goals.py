"""The goals of this project for speed and memory, and whether a run met them."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.results import Case, Results
from benchmarks.scenarios import REDIRECT_CONNECTIONS
from benchmarks.systems import DIRECT, EXPRESS, OURS

CONNECTIONS = 8  # the load under which uploads are compared
Read = Callable[[Results, str], float | None]


@dataclass(frozen=True)
class Goal:
    """One line of the table of goals: at least (or at most) `limit` of what `read` takes from the results of a store."""

    what: str
    limit: float
    at_least: bool
    unit: str
    read: Read

    def verdict(self, value: float | None) -> str:
        """`met`, `missed`, or that it was not measured."""
        if value is None:
            return "not measured"
        return "met" if (value >= self.limit if self.at_least else value <= self.limit) else "**missed**"


def _upload(system: str, store: str, size: str) -> Case:
    return Case("upload", system, store, size, CONNECTIONS)


def _beside(other: str, size: str, limit: float) -> Goal:
    def read(results: Results, store: str) -> float | None:
        return results.ratio(_upload(OURS, store, size), _upload(other, store, size), "rate")

    return Goal(f"uploads of {size} beside {other}", limit, True, "times", read)


def _cpu(size: str, limit: float) -> Goal:
    return Goal(
        f"service CPU for an upload of {size}",
        limit,
        False,
        "ms",
        lambda results, store: results.median(_upload(OURS, store, size), "cpu_ms"),
    )


def _slow(what: str, quantity: str, limit: float, unit: str) -> Goal:
    return Goal(what, limit, False, unit, lambda results, _store: results.median(Case("slow", OURS), quantity))


def _redirects(results: Results, _store: str) -> float | None:
    ours, theirs = (Case("redirect", system, connections=REDIRECT_CONNECTIONS) for system in (OURS, EXPRESS))
    return results.ratio(ours, theirs, "rate")


ALL = (
    _beside(EXPRESS, "50 kB", 2.0),
    _beside(EXPRESS, "1 MB", 1.3),
    _beside(EXPRESS, "10 MB", 1.3),
    _beside(DIRECT, "50 kB", 0.35),
    _beside(DIRECT, "1 MB", 0.85),
    _beside(DIRECT, "10 MB", 0.9),
    _cpu("50 kB", 1.2),
    _cpu("10 MB", 18.0),
    Goal(
        "the largest process of all these measurements",
        80.0,
        False,
        "MiB",
        lambda results, _store: results.largest("process_mib", OURS),
    ),
    _slow("memory for each slow upload under way", "slow_kib", 128.0, "KiB"),
    _slow("redirect p99 beside slow uploads", "p99_ms", 50.0, "ms"),
    _slow("the slowest of a few 50 kB uploads beside slow ones", "fast_upload_seconds", 2.0, "s"),
    Goal(f"redirects beside {EXPRESS}", 0.9, True, "times", _redirects),
    Goal("start to first answer", 1.0, False, "s", lambda results, _store: results.median(Case("start", OURS), "start_seconds")),
)
