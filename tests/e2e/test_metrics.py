"""Metrics of the service as it runs in production: exact after known traffic, whatever becomes of its workers, and nowhere else."""

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import requests

import servers
from live import Live
from media_storage.dev.pieces import PieceDied
from pictures import make
from rawclient import UUID, body_of, connect, head_for, picture

if sys.platform == "win32":
    pytest.skip("gunicorn and its workers are for Unix", allow_module_level=True)

REDIRECTS = "media_storage_redirects_total"
BYTES = "media_storage_upload_bytes_total"
IN_FLIGHT = "media_storage_uploads_in_flight"
LIMIT = "media_storage_uploads_in_flight_limit"
WHOLE = "media_storage_upload_duration_seconds_count"
NOWHERE = {"MINIO_ENDPOINT": "http://127.0.0.1:1", "MINIO_ACCESS_KEY": "x", "MINIO_SECRET_KEY": "x"}


def outcome(code: str, status: int) -> str:
    return f'media_storage_uploads_total{{outcome="{code}",status="{status}"}}'


def phase(name: str) -> str:
    return f'media_storage_upload_phase_duration_seconds_count{{phase="{name}"}}'


CREATED = outcome("created", 201)


@pytest.fixture(scope="module")
def measured(backend: servers.ChatBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The service with two workers, in front of one store: what is counted does not depend on its kind."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "spool").mkdir()
    with ExitStack() as stack:
        store = stack.enter_context(servers.running_store("seaweedfs", folder / "store"))
        own = {"WORKERS": "2", "MAX_CONCURRENT_UPLOADS": "40", "MAX_UPLOAD_MB": "1", "TMPDIR": str(folder / "spool")}
        environ = {**store.environ, **own, "BACKEND_VERIFY_URL": backend.url}
        assert servers.media_storage("init-bucket", environ=environ, folder=folder).returncode == 0
        service = stack.enter_context(servers.running_service(environ, folder))
        live = Live(store, backend, service, folder / "spool")
        servers.wait_for(lambda: len(workers(live)) == 2, 10)
        yield live


def workers(live: Live) -> list[psutil.Process]:
    return psutil.Process(live.service.pid).children()


def gained(live: Live, before: dict[str, float]) -> dict[str, float]:
    """How much each sample has grown, where it has."""
    return {name: value - before[name] for name, value in live.service.metrics().items() if value != before[name]}


def read(live: Live, method: str = "GET", key: str = f"uploads/7/{UUID}.png") -> int:
    return requests.request(method, f"{live.url}/media/{key}", allow_redirects=False, timeout=10).status_code


def test_figures_are_exact_after_known_traffic(measured: Live) -> None:
    """Over both workers: outcomes by code, bytes of what was stored, times, redirects; and nothing for what is neither."""
    before = measured.service.metrics()
    sizes = [5_000 + number for number in range(8)]
    keys = [str(measured.upload(picture(size)).json()["key"]) for size in sizes]
    for content, cookie in ((b"GIF89a" * 100, "session=alice"), (b"hello", "session=bob"), (b"", "session=alice"), (b"x", None)):
        measured.upload(content, cookie)
    measured.upload(picture(2_000_000))
    requests.post(f"{measured.url}/upload", data=b"x", timeout=10)
    assert [read(measured) for _ in range(6)] + [read(measured, "HEAD")] == [302] * 7
    # Neither an upload nor a redirect.
    assert [read(measured, key=f"uploads/7/{UUID}.gif"), read(measured, "PUT")] == [404, 405]
    assert requests.delete(f"{measured.url}/media/{keys[0]}", headers={"Cookie": "session=alice"}, timeout=10).status_code == 204
    preflight = {"Origin": measured.url, "Access-Control-Request-Method": "POST"}
    assert requests.options(f"{measured.url}/media/upload", headers=preflight, timeout=10).status_code == 204
    assert requests.get(f"{measured.url}/media/upload", timeout=10).status_code == 405

    grown = gained(measured, before)
    assert {name: grown[name] for name in grown if "_bucket" not in name and "_sum" not in name} == {
        CREATED: 8,
        outcome("unsupported_type", 415): 2,
        outcome("empty_file", 400): 1,
        outcome("unauthenticated", 401): 1,
        outcome("file_too_large", 413): 1,
        outcome("not_multipart", 415): 1,
        BYTES: sum(sizes),
        REDIRECTS: 7,
        WHOLE: 8,
        phase("backend"): 11,
        phase("receive"): 11,
        phase("prove"): 8,
        phase("store"): 8,
    }
    sums = {name: grown[f'media_storage_upload_phase_duration_seconds_sum{{phase="{name}"}}'] for name in ("receive", "prove", "store")}
    assert all(0 < seconds < 60 for seconds in sums.values())
    assert sums["store"] < grown["media_storage_upload_duration_seconds_sum"] < 60


def test_what_the_log_says_is_what_is_counted(measured: Live) -> None:
    """One line per upload, with the same outcome and the same phases' milliseconds."""
    before = measured.service.metrics()
    request_id = measured.upload(make.png()).headers["X-Request-ID"]
    (line,) = [line for line in measured.service.log_lines() if line.get("id") == request_id]
    assert line["outcome"] == "created"
    assert set(line["phases"]) == {"backend", "receive", "prove", "store"}
    grown = gained(measured, before)
    for name, ms in line["phases"].items():
        grew = grown.get(f'media_storage_upload_phase_duration_seconds_sum{{phase="{name}"}}', 0)
        assert grew == pytest.approx(ms / 1000, abs=1e-6)


def begin_upload(live: Live, stack: ExitStack) -> socket.socket:
    """An upload whose body does not come to its end yet."""
    body = body_of(picture(300_000))
    sock = stack.enter_context(connect(live.url))
    sock.sendall(head_for(len(body)) + body[:1000])
    return sock


def test_workers_that_are_killed(measured: Live) -> None:
    """kill -9 of one worker after the other, with uploads under way: no counter goes down, theirs are no longer in flight."""
    for _ in range(20):
        read(measured)
        measured.upload(make.png()).raise_for_status()
    before = measured.service.metrics()
    with ExitStack() as stack:
        for _ in range(12):
            begin_upload(measured, stack)
        servers.wait_for(lambda: measured.service.metrics()[IN_FLIGHT] == 12, 10)
        assert measured.service.metrics()[LIMIT] == 80
        for victim in workers(measured):
            victim.kill()
            servers.wait_for(lambda gone=victim: not gone.is_running(), 10)
            now = measured.service.metrics()
            assert all(now[name] >= before[name] for name in before if name not in (IN_FLIGHT, LIMIT))
        servers.wait_for(lambda: measured.service.metrics()[IN_FLIGHT] == 0, 10)
    servers.wait_for(lambda: measured.service.metrics()[LIMIT] == 80, 10)
    servers.wait_for(lambda: servers.answers(f"{measured.url}/healthz"), 10)
    assert gained(measured, before) == {}
    assert read(measured) == 302
    measured.upload(make.png()).raise_for_status()
    grown = gained(measured, before)
    assert (grown[REDIRECTS], grown[CREATED]) == (1, 1)
    assert measured.service.metrics()[LIMIT] == 80


def test_a_reload_keeps_the_figures(measured: Live) -> None:
    """SIGHUP replaces all workers by new ones, which for a while run beside them."""
    read(measured)
    before, old = measured.service.metrics(), {worker.pid for worker in workers(measured)}
    measured.service.piece.send_signal(signal.SIGHUP)
    servers.wait_for(lambda: len(workers(measured)) == 2 and not old & {worker.pid for worker in workers(measured)}, 20)
    servers.wait_for(lambda: measured.service.metrics()[LIMIT] == 80, 5)
    assert gained(measured, before) == {}
    servers.wait_for(lambda: servers.answers(f"{measured.url}/healthz"), 10)
    read(measured)
    assert gained(measured, before) == {REDIRECTS: 1}


def test_scrapes_during_a_load(measured: Live) -> None:
    """Each is answered, counters only grow, and when the load is over they are exact."""
    before = measured.service.metrics()
    seen = [before]
    over = threading.Event()

    def scrape() -> None:
        while not over.is_set():
            seen.append(measured.service.metrics())

    scraping = threading.Thread(target=scrape)
    scraping.start()
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(read, measured) for _ in range(300)]
        uploads = [pool.submit(measured.upload, make.png()) for _ in range(60)]
        assert {future.result() for future in reads} == {302}
        assert {future.result().status_code for future in uploads} == {201}
    over.set()
    scraping.join()
    grown = gained(measured, before)
    assert (grown[REDIRECTS], grown[CREATED], grown[phase("store")]) == (300, 60, 60)
    assert grown[BYTES] == 60 * len(make.png())
    assert len(seen) > 2
    for earlier, later in pairwise(seen):
        assert all(later[name] >= earlier[name] for name in earlier if name != IN_FLIGHT)


def listening(live: Live) -> dict[int, set[int]]:
    """The TCP ports that the service's processes listen on, with the processes that do."""
    found: dict[int, set[int]] = {}
    for process in [psutil.Process(live.service.pid), *workers(live)]:
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                found.setdefault(connection.laddr.port, set()).add(process.pid)
    return found


def test_only_one_process_listens_and_never_on_the_public_port(measured: Live) -> None:
    """The arbiter has the metrics' port alone, on loopback; the public port knows nothing of them."""
    ports = listening(measured)
    metrics_port = measured.service.metrics_port
    assert set(ports) == {metrics_port, int(measured.service.environ["PORT"])}
    assert ports[metrics_port] == {measured.service.pid}
    for path in ("/metrics", "/metrics/", "/media/metrics", "/"):
        answer = requests.get(f"{measured.url}{path}", timeout=10)
        assert answer.status_code == 404
        assert "media_storage_" not in answer.text


def test_without_a_port_there_is_no_listener(tmp_path: Path) -> None:
    """METRICS_PORT=0: the service works, listens on its own port only, and ends well."""
    (tmp_path / "spool").mkdir()
    environ = {**NOWHERE, "WORKERS": "1", "METRICS_PORT": "0", "TMPDIR": str(tmp_path / "spool")}
    with servers.running_service(environ, tmp_path) as service:
        live = Live(None, None, service, tmp_path)  # type: ignore[arg-type]  # neither is there
        assert read(live) == 302
        assert set(listening(live)) == {int(service.environ["PORT"])}
        ends_well(service)


def test_sigterm_with_metrics_leaves_nothing(tmp_path: Path) -> None:
    """While a scraper holds a connection: status 0, both ports free, no temporary file."""
    (tmp_path / "spool").mkdir()
    environ = {**NOWHERE, "WORKERS": "2", "TMPDIR": str(tmp_path / "spool"), "SHUTDOWN_GRACE_SECONDS": "2"}
    with servers.running_service(environ, tmp_path) as service, connect(f"http://127.0.0.1:{service.metrics_port}"):
        service.metrics()
        ends_well(service)
        with pytest.raises(requests.ConnectionError):
            service.metrics()
    assert not [path for path in (tmp_path / "spool").iterdir() if not path.name.startswith("wgunicorn")]


def ends_well(service: servers.RunningService) -> None:
    service.piece.send_signal(signal.SIGTERM)
    with pytest.raises(PieceDied, match="status 0"):
        service.piece.wait_until(lambda: False, 10)


@pytest.mark.parametrize("settings", [{}, {"METRICS_HOST": "192.0.2.1"}], ids=["taken", "another machine's"])
def test_an_address_that_cannot_be_had_stops_the_start(tmp_path: Path, settings: dict[str, str]) -> None:
    """A sentence that names it and both settings, status 2, no stack; the public port was not opened."""
    port = servers.free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own = {"PORT": str(port), "PUBLIC_BASE_URL": "http://media.example", "METRICS_PORT": str(taken.getsockname()[1])}
        done = servers.media_storage("serve", environ={**NOWHERE, **own, **settings}, folder=tmp_path)
    assert done.returncode == 2
    assert f"{settings.get('METRICS_HOST', '127.0.0.1')}, port {own['METRICS_PORT']}" in done.stderr
    assert "METRICS_PORT" in done.stderr
    assert "METRICS_HOST" in done.stderr
    assert "Traceback" not in done.stderr


def test_metrics_on_the_public_port_are_a_problem_of_the_settings(tmp_path: Path) -> None:
    """Listed with whatever else is wrong, status 2."""
    done = servers.media_storage("serve", environ={"PORT": "9555", "METRICS_PORT": "9555"}, folder=tmp_path)
    assert done.returncode == 2
    assert "- METRICS_PORT: is also PORT" in done.stderr
    assert "- MINIO_ENDPOINT: is required" in done.stderr
