"""The figures for Prometheus, counted by threads, read as a scrape reads them."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
import requests
from prometheus_client import CollectorRegistry, generate_latest

from media_storage import errors, metrics
from media_storage.metrics import BOUNDS, Board, Meter

CREATED = 'media_storage_uploads_total{outcome="created",status="201"}'
REDIRECTS = "media_storage_redirects_total"
IN_FLIGHT = "media_storage_uploads_in_flight"
LIMIT = "media_storage_uploads_in_flight_limit"


@pytest.fixture
def board() -> Board:
    return Board(max_uploads=500)


def samples(board: Board) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(board)
    lines = [line.rpartition(" ") for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_every_outcome_has_a_counter_from_the_start(board: Board) -> None:
    """Prometheus sees an increase only from a value that it has seen before, so each code of an upload is there as a zero."""
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.Refusal)} - {errors.Refusal}
    expected = {f'media_storage_uploads_total{{outcome="{kind.code}",status="{kind.status}"}}' for kind in kinds} | {CREATED}
    found = samples(board)
    assert {name for name in found if name.startswith("media_storage_uploads_total")} == expected
    assert set(found.values()) == {0}


def test_an_upload_is_counted_once_in_everything_that_it_touches(board: Board) -> None:
    """Outcome, bytes, the whole and each phase, in seconds."""
    board.meter().upload("created", 120.0, {"backend": 2.0, "receive": 100.0, "prove": 0.4, "store": 10.0}, 48_213)
    found = samples(board)
    assert found[CREATED] == 1
    assert found["media_storage_upload_bytes_total"] == 48_213
    assert found["media_storage_upload_duration_seconds_sum"] == pytest.approx(0.12)
    assert found["media_storage_upload_duration_seconds_count"] == 1
    for phase, seconds in (("backend", 0.002), ("receive", 0.1), ("prove", 0.0004), ("store", 0.01)):
        name = f'media_storage_upload_phase_duration_seconds_%s{{phase="{phase}"}}'
        assert (found[name % "count"], found[name % "sum"]) == (1, pytest.approx(seconds))


def test_a_refusal_has_neither_bytes_nor_a_whole_time(board: Board) -> None:
    """Refusals are quick, or as slow as a timeout: they would hide how long an upload takes. The phases that they reached do count."""
    board.meter().upload("unsupported_type", 3.0, {"backend": 2.0, "receive": 1.0}, 0)
    found = samples(board)
    assert found['media_storage_uploads_total{outcome="unsupported_type",status="415"}'] == 1
    assert found["media_storage_upload_bytes_total"] == found["media_storage_upload_duration_seconds_count"] == 0
    assert found['media_storage_upload_phase_duration_seconds_count{phase="receive"}'] == 1
    assert found['media_storage_upload_phase_duration_seconds_count{phase="store"}'] == 0


def test_buckets_hold_what_is_at_most_their_bound(board: Board) -> None:
    """A time that is a bound exactly is in its bucket; the last one holds all, also what took longer than any bound."""
    meter = board.meter()
    for seconds in (*BOUNDS, 1000.0):
        meter.upload("created", seconds * 1000, {}, 1)
    found = samples(board)
    buckets = [found[f'media_storage_upload_duration_seconds_bucket{{le="{bound}"}}'] for bound in BOUNDS]
    assert buckets == [*range(1, len(BOUNDS) + 1)]
    assert found['media_storage_upload_duration_seconds_bucket{le="+Inf"}'] == len(BOUNDS) + 1
    assert found["media_storage_upload_duration_seconds_count"] == len(BOUNDS) + 1


def test_processes_are_added_up(board: Board) -> None:
    """Counters, what is in flight, and how much may be."""
    one, two = board.meter(), board.meter()
    one.redirect()
    two.redirect()
    with one.in_flight(), two.in_flight(), two.in_flight():
        found = samples(board)
    assert (found[REDIRECTS], found[IN_FLIGHT], found[LIMIT]) == (2, 3, 1000)
    assert samples(board)[IN_FLIGHT] == 0


def test_what_a_dead_process_counted_stays_and_its_uploads_in_flight_go(board: Board) -> None:
    """The process that takes its place counts on; memory does not grow with the number of processes that there ever were."""
    survivor = board.meter()
    survivor.redirect()
    for generation in range(1, 20):
        dead = board.meter()
        dead.redirect()
        dead.in_flight().__enter__()
        board.retire(dead)
        found = samples(board)
        assert (found[REDIRECTS], found[IN_FLIGHT], found[LIMIT]) == (1 + generation, 0, 500)
    assert len(board._rows) == 2


def test_threads_lose_nothing() -> None:
    """Many at once: every call is counted, in flight is back at nothing."""
    board = Board(500)
    meter = board.meter()
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        for _ in range(2000):
            with meter.in_flight():
                meter.redirect()
                meter.upload("created", 1.0, {"store": 1.0}, 10)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = samples(board)
    assert (found[REDIRECTS], found[CREATED], found[IN_FLIGHT]) == (16_000, 16_000, 0)
    assert found["media_storage_upload_bytes_total"] == 160_000
    assert found['media_storage_upload_phase_duration_seconds_count{phase="store"}'] == 16_000


def test_an_upload_that_fails_is_no_longer_in_flight(board: Board) -> None:
    """Whatever it raises."""
    meter = board.meter()
    with pytest.raises(errors.EmptyFile), meter.in_flight():
        raise errors.EmptyFile
    assert samples(board)[IN_FLIGHT] == 0


def test_a_meter_of_its_own() -> None:
    """Counts where nobody looks: an application that is given none needs no condition."""
    meter = Meter()
    meter.redirect()
    meter.upload("created", 1.0, {}, 1)


# --- the listener ---


@contextlib.contextmanager
def listening(board: Board, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A listener's port, while the context lasts."""
    server = metrics.listen(board, host, port)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def port(board: Board) -> Iterator[int]:
    """The board's, on loopback."""
    with listening(board) as number:
        yield number


def test_a_scrape(board: Board, port: int) -> None:
    """In the text format, at the path that Prometheus asks for unless told otherwise; a client that asks for OpenMetrics gets it."""
    board.meter().redirect()
    answer = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert f"{REDIRECTS} 1.0\n" in answer.text
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = requests.get(f"http://127.0.0.1:{port}/metrics", headers=accept, timeout=5)
    assert answer.text.endswith("# EOF\n")


def test_a_client_that_stays_silent_or_leaves_stops_nobody(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    """The next scrape is answered meanwhile, and nothing of it is written anywhere."""
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)) as leaves:
        leaves.sendall(b"GET /metrics HTTP/1.1\r\nHo")
        leaves.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaves.close()
        assert requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).status_code == 200
    assert not "".join(capfd.readouterr())


def test_a_silent_client_is_dropped(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each would hold a thread of the process for ever."""
    monkeypatch.setattr(metrics, "SCRAPE_SECONDS", 0.2)
    with listening(board) as port, socket.create_connection(("127.0.0.1", port), timeout=5) as silent:
        assert silent.recv(1) == b""


def test_ipv6(board: Board) -> None:
    """METRICS_HOST may be an IPv6 address."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listening(board, "::1") as port:
        assert requests.get(f"http://[::1]:{port}/metrics", timeout=5).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "no such host"], ids=["taken", "another machine's", "no address"])
def test_an_address_that_cannot_be_had_is_named(board: Board, host: str) -> None:
    """With both settings, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(metrics.CannotListen, match=f"(?s){host}, port {number}: .*METRICS_PORT.*METRICS_HOST"):
            metrics.listen(board, host, number)


def test_a_port_is_free_again_at_once(board: Board) -> None:
    """A restart does not wait until the system has forgotten the connections of the last scrape."""
    with listening(board) as port, socket.create_connection(("127.0.0.1", port)) as scraper:
        scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")  # HTTP/1.0: the server closes first, and waits for what may still come
        while scraper.recv(65_536):
            pass
    with listening(board, port=port):
        pass
