"""``python -m benchmarks``: measures this service, its peers and the limits, and says which goals are met. See README.md."""

import argparse
import datetime
import functools
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import nginx, payload, plot, programs, report, systems
from benchmarks.processes import Failed, free_port, running
from benchmarks.results import Results
from benchmarks.scenarios import Bench, Plan, answers, site_of
from benchmarks.stores import KINDS
from benchmarks.systems import System

SIZES = {"50 kB": 50_000, "1 MB": 1_000_000, "10 MB": 10_000_000}
RESULTS = programs.HERE / "results"
OPEN_FILES = 8192  # of every process: a slow upload is a connection and a temporary file
SCENARIOS = ("start", "redirect", "upload", "slow")
FULL = Plan(seconds=4, large_seconds=8, warm_up=1, connections=(1, 8), slow=500, settle=3)
SMOKE = Plan(seconds=1, large_seconds=1, warm_up=0, connections=(8,), slow=4, settle=0.2, one_store=True)
SMOKE_SIZES = ("50 kB", "10 MB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status is 0 when everyone present answered without errors, or when there were results to write."""
    options = _parse(arguments)
    if missing := [name for name in ("wrk", programs.nginx()) if not shutil.which(name)]:
        print(f"not on this machine: {', '.join(missing)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, most) if most > 0 else OPEN_FILES, most))
    results = Results()
    with tempfile.TemporaryDirectory(prefix="media-storage-bench-") as folder:
        run = Run(options, Path(folder), results)
        run.all()
        setting = run.setting()
        text = report.markdown(results, setting)
        target = Path(folder) if options.smoke else RESULTS
        target.mkdir(exist_ok=True)
        (target / f"{setting.date}.md").write_text(text, encoding="utf-8")
        plot.draw(results, setting, target / f"{setting.date}.png")
    print(text)
    return 1 if options.smoke and results.failures else 0


class Run:
    """One run of the whole benchmark."""

    def __init__(self, options: argparse.Namespace, folder: Path, results: Results) -> None:
        self._options, self._folder, self._results = options, folder, results
        self._plan = SMOKE if options.smoke else Plan(**{**vars(FULL), "seconds": options.seconds, "large_seconds": 2 * options.seconds})
        self._rounds = 1 if options.smoke else options.rounds
        self._stores = [kind for kind in options.stores if self._has_store(kind)]
        self._systems = [system for system in systems.ALL if system.name in options.systems and self._has(system)]
        sizes = [size for size in options.sizes if not options.smoke or size in SMOKE_SIZES]
        self._pictures = [payload.write(label, SIZES[label], folder) for label in sizes]

    def all(self) -> None:
        """Every scenario, on every store."""
        port = free_port()
        with running("the backend stub", nginx.backend(self._folder, port), self._folder, lambda: answers(port, "/auth/me")):
            benches = [Bench(site_of(kind, port, self._folder), self._plan, self._results) for kind in self._stores]
            for number in range(self._rounds):
                self._round(number, benches)

    def setting(self) -> report.Setting:
        """What the report says about this run."""
        return report.Setting(
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            smoke=self._options.smoke,
            machine=programs.machine(),
            versions=programs.versions(),
            rounds=self._rounds,
            seconds=self._plan.seconds,
            large_seconds=self._plan.large_seconds,
            slow=self._plan.slow,
            stores=self._stores,
            sizes=[picture.label for picture in self._pictures],
            connections=self._plan.connections,
            systems=[system.name for system in self._systems],
        )

    def _round(self, number: int, benches: Sequence[Bench]) -> None:
        """Every measurement once. Who begins changes from round to round."""
        turn = number % max(1, len(self._systems))
        turns = self._systems[turn:] + self._systems[:turn]
        for bench in benches:
            try:
                with bench.shared_store():
                    self._on(number, bench, turns, first=bench is benches[0])
            except Failed as failure:
                self._note(failure, KINDS[bench.site.kind])

    def _on(self, number: int, bench: Bench, turns: Sequence[System], *, first: bool) -> None:
        """A round's measurements on one store."""
        if first:
            self._without_uploads(number, bench, turns)
        if "upload" in self._options.scenarios:
            self._uploads(number, bench, [system for system in turns if system.upload])

    def _without_uploads(self, number: int, bench: Bench, turns: Sequence[System]) -> None:
        """What does not depend on the store."""
        scenarios = self._options.scenarios
        if "start" in scenarios:
            self._each(number, "start", [system for system in turns if system.command], bench.start)
        if "redirect" in scenarios:
            self._each(number, "redirect", [system for system in turns if system.redirects], bench.redirect)
        if "slow" in scenarios:
            small, large = self._pictures[0], self._pictures[-1]
            self._each(number, "slow", [system for system in turns if system.takes_forms], lambda system: bench.slow(system, small, large))

    def _uploads(self, number: int, bench: Bench, turns: Sequence[System]) -> None:
        """Each size with newly started systems; a smoke test has no time for that."""
        groups = [self._pictures] if self._options.smoke else [[picture] for picture in self._pictures]
        for group in groups:
            what = f"{' and '.join(picture.label for picture in group)} to {KINDS[bench.site.kind]}"
            self._each(number, what, turns, functools.partial(bench.upload, pictures=group))

    def _each(self, number: int, what: str, turns: Sequence[System], measure: Callable[[System], None]) -> None:
        for system in turns:
            print(f"round {number + 1}/{self._rounds}: {what}: {system.name}", file=sys.stderr, flush=True)
            try:
                measure(system)
            except Failed as failure:
                self._note(failure, f"{system.name}: {what}")

    def _note(self, failure: Failed, where: str) -> None:
        print(failure, file=sys.stderr)
        self._results.failures.append(f"{where}: {str(failure).splitlines()[0]}")

    def _has(self, system: System) -> bool:
        reason = system.lacks()
        if reason:
            self._results.left_out[system.name] = reason
            print(f"{system.name}: left out, {reason}", file=sys.stderr)
        return reason is None

    def _has_store(self, kind: str) -> bool:
        found = programs.find_store(kind)
        if not found:
            self._results.left_out[KINDS[kind]] = "there is no such program on this machine"
            print(f"{KINDS[kind]}: left out, there is no such program on this machine", file=sys.stderr)
        return bool(found)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Uploads and redirects beside peers and limits.")
    parser.add_argument(
        "--smoke", action="store_true", help="everything for a second, no verdict: exit status 0 when all answered without errors"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each measurement is repeated (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=FULL.seconds, help="of one measurement; twice that for 10 MB (default: %(default)s)")
    names = tuple(system.name for system in systems.ALL)
    for name, choices in (("stores", tuple(KINDS)), ("sizes", tuple(SIZES)), ("systems", names), ("scenarios", SCENARIOS)):
        parser.add_argument(
            f"--{name}", nargs="+", choices=choices, default=choices, metavar="NAME", help=f"only these of: {', '.join(choices)}"
        )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
