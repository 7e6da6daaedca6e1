"""What is done to each system. Every function starts what it needs, measures, and stops it."""

import contextlib
import http.client
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load
from benchmarks.payload import Picture
from benchmarks.processes import Tree, free_port, running, sampling
from benchmarks.results import Case, Results
from benchmarks.slow import SlowUploads, timed
from benchmarks.stores import Site, running_store
from benchmarks.systems import System, read_request

REDIRECT_CONNECTIONS = 16
PATIENT_SECONDS = 10
FAST_UPLOADS = 5
FAST_UPLOAD_SECONDS = 10.0  # one that takes longer counts as failed
START_SECONDS = 30.0


@dataclass(frozen=True)
class Plan:
    """How much is measured. Times in whole seconds, which is what wrk counts in; `slow` uploads stand open for about three measurements."""

    seconds: int
    large_seconds: int  # for pictures that take long, so that few are cut off at the end
    warm_up: int
    connections: tuple[int, ...]
    slow: int
    settle: float
    one_store: bool = False  # for all systems, instead of a new one for each

    def duration(self, picture: Picture) -> int:
        """How long one measurement with this picture lasts."""
        return self.large_seconds if picture.size >= 5_000_000 else self.seconds


@dataclass(frozen=True)
class Bench:
    """A run: where it writes, what it found."""

    site: Site
    plan: Plan
    results: Results

    def upload(self, system: System, pictures: Sequence[Picture]) -> None:
        """Uploads of each picture over each number of connections, to a store that is empty at the beginning."""
        with self._store(), self._running(system) as (port, tree):
            for picture in pictures:
                for connections in self.plan.connections:
                    case = Case("upload", system.name, self.site.kind, picture.label, connections)
                    self._upload(case, system, port, tree, picture)

    def redirect(self, system: System) -> None:
        """Readers' requests; no store is asked, so none runs."""
        case = Case("redirect", system.name, connections=REDIRECT_CONNECTIONS)
        with self._running(system) as (port, tree):
            self._warm_up(port, read_request(), REDIRECT_CONNECTIONS)
            self._measure(case, port, tree, read_request(), self.plan.seconds)

    def slow(self, system: System, fast: Picture, large: Picture) -> None:
        """Readers and a few uploads beside many slow uploads, and what these cost in memory."""
        assert system.upload  # noqa: S101 - only systems that take forms come here
        case = Case("slow", system.name)
        upload = system.upload(self.site, fast, 1)
        with self._store(), self._running(system) as (port, tree):
            assert tree  # noqa: S101 - only the store has no processes of its own
            self._warm_up(port, upload, 8)
            self._warm_up(port, read_request(), REDIRECT_CONNECTIONS)
            before = tree.sample()
            with SlowUploads(port, system.upload(self.site, large, 1), self.plan.slow) as slow:
                time.sleep(self.plan.settle)
                with sampling(tree):
                    self._measure(case, port, tree, read_request(), self.plan.seconds)
                    times = self._fast_uploads(port, upload)
                after = tree.sample()
            self.results.add(case, slow_kib=(after - before) * 1024 / self.plan.slow, lost=slow.lost)
        if None not in times:
            self.results.add(case, fast_upload_seconds=max(seconds for seconds in times if seconds is not None))
        else:
            self.results.failures.append(f"{case.system}: no answer to an upload beside slow ones within {FAST_UPLOAD_SECONDS:.0f} s")
        if slow.lost:
            self.results.failures.append(f"{case.system}: slow uploads were cut off")

    def start(self, system: System) -> None:
        """From the start of the command to the first answer."""
        begin = time.monotonic()
        with self._running(system):
            self.results.add(Case("start", system.name), start_seconds=time.monotonic() - begin)

    @contextlib.contextmanager
    def shared_store(self) -> Iterator[None]:
        """The store that all systems of a smoke test upload to; nothing when each has its own."""
        with running_store(self.site) if self.plan.one_store else contextlib.nullcontext():
            yield

    def _store(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self.plan.one_store else running_store(self.site)

    def _fast_uploads(self, port: int, upload: load.Request) -> list[float | None]:
        """The seconds that each of a few uploads took; None for one that failed, which is then the last."""
        times: list[float | None] = []
        while len(times) < FAST_UPLOADS and None not in times:
            times.append(timed(port, upload, FAST_UPLOAD_SECONDS))
        return times

    def _upload(self, case: Case, system: System, port: int, tree: Tree | None, picture: Picture) -> None:
        assert system.upload  # noqa: S101 - only systems that take uploads come here
        request = system.upload(self.site, picture, case.connections)
        self._warm_up(port, request, case.connections)
        self._measure(case, port, tree, request, self.plan.duration(picture))

    def _warm_up(self, port: int, request: load.Request, connections: int) -> None:
        if self.plan.warm_up:
            load.run(port, request, connections, self.plan.warm_up)

    def _measure(self, case: Case, port: int, tree: Tree | None, request: load.Request, seconds: int) -> None:
        connections = case.connections or REDIRECT_CONNECTIONS
        before = tree.usage() if tree else None
        with sampling(tree) if tree else contextlib.nullcontext():
            seen = load.run(port, request, connections, seconds)
            if not seen.answers and not seen.errors:  # a second is little for 10 MB on a busy machine
                seen = load.run(port, request, connections, PATIENT_SECONDS)
        if seen.errors or not seen.answers:
            what = " ".join(part for part in (case.scenario, case.size, case.store) if part)
            self.results.failures.append(f"{case.system}: {what}: {seen.what_failed or 'no answer'}")
        if seen.answers:
            self.results.add(case, rate=seen.rate, p50_ms=seen.p50_ms, p99_ms=seen.p99_ms)
        if tree and before and seen.answers:
            after = tree.usage()
            requests = seen.answers + connections / 2  # the end cuts one off on each connection, on average in its middle
            cpu_ms = (after.cpu_seconds - before.cpu_seconds) / requests * 1000
            self.results.add(case, cpu_ms=cpu_ms, process_mib=after.largest_process_mib, tree_mib=after.tree_mib)

    @contextlib.contextmanager
    def _running(self, system: System) -> Iterator[tuple[int, Tree | None]]:
        """The system's port, and its processes where it has any of its own."""
        if system.command is None:
            yield int(self.site.store.rpartition(":")[2]), None
            return
        port = free_port()
        command = system.command(self.site, port)
        with running(system.name, command, self.site.folder, lambda: answers(port, system.ready), START_SECONDS) as tree:
            yield port, tree


def answers(port: int, path: str) -> bool:
    """Whether a GET of `path` gets any answer but a server's error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def site_of(kind: str, backend_port: int, folder: Path) -> Site:
    """A site whose store will have a port of its own for the whole run."""
    return Site(kind, f"127.0.0.1:{free_port()}", f"127.0.0.1:{backend_port}", folder)
