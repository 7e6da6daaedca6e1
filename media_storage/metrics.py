"""What Prometheus reads: uploads by outcome, their bytes and times, uploads in flight, redirects.

Every process counts in a row of its own: memory that it shares with the process that started it, which adds the rows up
and serves them. There is no file that a full disk could spoil, and nothing is asked of a process that may be busy or dead.
A row outlives its process: the next one goes on counting there, so no counter goes down when a worker dies.
"""

import mmap
import socket
import sys
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from itertools import accumulate
from socketserver import TCPServer
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from media_storage.errors import Refusal

PHASES = ("backend", "receive", "prove", "store")
CREATED = "created"
# Upper bounds in seconds: a proof takes under a millisecond, a slow client up to UPLOAD_TIMEOUT_SECONDS.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
SCRAPE_SECONDS = 10.0  # that a scraper may stay silent

_STATUSES = {CREATED: 201} | {kind.code: kind.status for kind in Refusal.__subclasses__()}
# A row: single cells, and for each histogram a count per bound, one for what is above all of them, and the sum.
_CELLS = {name: at for at, name in enumerate(("redirects", "bytes", "in_flight", *_STATUSES))}
_WIDTH = len(BOUNDS) + 2
_HISTOGRAMS = {name: len(_CELLS) + at * _WIDTH for at, name in enumerate(("whole", *PHASES))}
_ROW_CELLS = len(_CELLS) + len(_HISTOGRAMS) * _WIDTH
_REDIRECTS, _BYTES, _IN_FLIGHT = (_CELLS[name] for name in ("redirects", "bytes", "in_flight"))


def _new_row() -> "memoryview[float]":
    return memoryview(mmap.mmap(-1, _ROW_CELLS * 8)).cast("d")


class Meter:
    """One process's figures. Safe to share between threads; each call costs a microsecond or so."""

    def __init__(self, row: "memoryview[float] | None" = None) -> None:
        self.row = _new_row() if row is None else row
        self._lock = threading.Lock()

    def redirect(self) -> None:
        """A reader was sent to the store."""
        with self._lock:
            self.row[_REDIRECTS] += 1

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Surrounds an upload that holds one of the places for uploads."""
        with self._lock:
            self.row[_IN_FLIGHT] += 1
        try:
            yield
        finally:
            with self._lock:
                self.row[_IN_FLIGHT] -= 1

    def upload(self, outcome: str, ms: float, phases: Mapping[str, float], size: int) -> None:
        """An upload was answered: ``created`` or a refusal's code, milliseconds of the whole and of each phase, bytes of the file."""
        with self._lock:
            self.row[_CELLS[outcome]] += 1
            for phase, phase_ms in phases.items():
                self._observe(phase, phase_ms)
            if outcome == CREATED:
                self.row[_BYTES] += size
                self._observe("whole", ms)

    def _observe(self, histogram: str, ms: float) -> None:
        first, seconds = _HISTOGRAMS[histogram], ms / 1000
        self.row[first + bisect_left(BOUNDS, seconds)] += 1
        self.row[first + _WIDTH - 1] += seconds


class Board(Collector):
    """The figures of all processes, added up. `max_uploads` is how many each of them takes at once."""

    def __init__(self, max_uploads: int) -> None:
        self._max_uploads = max_uploads
        self._rows: list[memoryview[float]] = []
        self._free: list[memoryview[float]] = []

    def meter(self) -> Meter:
        """The figures of a process that is about to start."""
        if not self._free:
            self._free.append(_new_row())
            self._rows.append(self._free[-1])
        return Meter(self._free.pop())

    def retire(self, meter: Meter) -> None:
        """The meter's process has ended, and with it what it had in flight; what it counted stays."""
        meter.row[_IN_FLIGHT] = 0
        self._free.append(meter.row)

    def collect(self) -> Iterator[Metric]:
        """The metrics, each cell read once."""
        live = len(self._rows) - len(self._free)
        totals = [sum(cells) for cells in zip(*self._rows, strict=True)] or [0.0] * _ROW_CELLS

        uploads = CounterMetricFamily("media_storage_uploads", "Uploads answered, by outcome and status.", labels=("outcome", "status"))
        for outcome, status in _STATUSES.items():
            uploads.add_metric((outcome, str(status)), totals[_CELLS[outcome]])
        yield uploads
        yield CounterMetricFamily("media_storage_upload_bytes", "Bytes of the files that were stored.", totals[_BYTES])
        yield CounterMetricFamily("media_storage_redirects", "Readers who were sent to the store.", totals[_REDIRECTS])
        yield GaugeMetricFamily("media_storage_uploads_in_flight", "Uploads under way.", totals[_IN_FLIGHT])
        yield GaugeMetricFamily(
            "media_storage_uploads_in_flight_limit", "Uploads that all worker processes take at once.", live * self._max_uploads
        )
        whole = HistogramMetricFamily("media_storage_upload_duration_seconds", "From the request's head to the answer, of stored uploads.")
        whole.add_metric((), *_buckets_and_sum(totals, "whole"))
        yield whole
        phases = HistogramMetricFamily(
            "media_storage_upload_phase_duration_seconds", "Phases of every upload that reached them.", labels=("phase",)
        )
        for phase in PHASES:
            phases.add_metric((phase,), *_buckets_and_sum(totals, phase))
        yield phases


def _buckets_and_sum(totals: list[float], histogram: str) -> tuple[list[tuple[str, float]], float]:
    first = _HISTOGRAMS[histogram]
    *counts, total = totals[first : first + _WIDTH]
    return list(zip([*map(str, BOUNDS), "+Inf"], accumulate(counts), strict=True)), total


class CannotListen(Exception):
    """An address cannot be had; the text names it and says what to do."""


class _Listener(ThreadingHTTPServer):
    allow_reuse_address = sys.platform != "win32"  # there it would mean to share the port with whoever has it

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks a name server for this machine's name

    def handle_error(self, *_: Any) -> None:
        """Silent: a scraper may go away in the middle, and the inherited method would write a stack for it."""


def listen(board: Board, host: str, port: int) -> ThreadingHTTPServer:
    """Serves the board from a thread of its own, as long as the process lives. Raises CannotListen."""
    registry = CollectorRegistry()
    registry.register(board)
    handler = MetricsHandler.factory(registry)
    handler.timeout = SCRAPE_SECONDS  # type: ignore[attr-defined]  # StreamRequestHandler's
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = type("Listener", (_Listener,), {"address_family": family})
    try:
        server: ThreadingHTTPServer = kind((host, port), handler)
    except OSError as exc:
        raise CannotListen(
            f"The metrics cannot listen on {host}, port {port}: {exc.strerror or exc}.\n"
            "Stop the program that has the port, choose another with METRICS_PORT (0 = no metrics), or check METRICS_HOST."
        ) from exc
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
