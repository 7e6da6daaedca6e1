"""deploy/prometheus, by Prometheus itself: the alert rules are sound, and a real server finds the service's figures with them."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import yaml
from prometheus_client import CollectorRegistry, generate_latest

import servers
from media_storage.dev.pieces import Piece
from media_storage.metrics import Board
from media_storage.settings import Settings
from pictures import make
from rawclient import UUID

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
ALERTS = {rule["alert"]: rule for rule in RULES}


def program(name: str) -> str:
    """The test is skipped where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: Debian's package prometheus has it")
    return found


@pytest.mark.parametrize("arguments", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]], ids=" ".join)
def test_promtool_finds_nothing_wrong(arguments: list[str]) -> None:
    """The configuration and its rules are valid, and the rules fire when they should, and only then."""
    done = subprocess.run([program("promtool"), *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire() -> None:
    """None is left out of the rules' own test."""
    tested = re.findall(r'alertname="(\w+)"', (FOLDER / "alerts_test.yml").read_text(encoding="utf-8"))
    assert sorted(tested) == sorted(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_to_do_in_words_that_exist(alert: str) -> None:
    """Summary, description and severity; each metric, label and setting that it names is the service's own."""
    rule = ALERTS[alert]
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    registry = CollectorRegistry()
    registry.register(Board(1))
    exported = generate_latest(registry).decode()
    text = rule["expr"] + rule["annotations"]["description"]
    for metric in re.findall(r"\bmedia_storage_\w+", text):
        assert re.search(rf"^(# TYPE )?{metric}[ {{]", exported, re.MULTILINE), metric
    for label, operator, values in re.findall(r'(outcome|status|phase)(=~?)"([^"]+)"', text):
        for value in values.split("|") if operator == "=~" else [values]:
            assert re.search(rf'{label}="{value}"', exported), value
    for setting in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text):
        assert setting.lower() in Settings.model_fields, setting


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[tuple[servers.RunningService, Callable[[str], Any]]]:
    """The service without a store, and a Prometheus that watches it as deploy/prometheus says, but every second."""
    binary = program("prometheus")
    backend = servers.ChatBackend()
    folder, port = tmp_path / "prometheus", servers.free_port()
    folder.mkdir()
    environ = {"MINIO_ENDPOINT": "http://127.0.0.1:1", "MINIO_ACCESS_KEY": "x", "MINIO_SECRET_KEY": "x", "WORKERS": "2"}
    with servers.running_service(environ | {"BACKEND_VERIFY_URL": backend.url}, tmp_path / "service") as service:
        config = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
        for usual, here in (("15s", "1s"), (":9102", f":{service.metrics_port}")):
            assert usual in config
            config = config.replace(usual, here)
        (folder / "prometheus.yml").write_text(config)
        shutil.copy(FOLDER / "alerts.yml", folder)
        own = [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
        piece = Piece("Prometheus", [binary, f"--config.file={folder / 'prometheus.yml'}", *own], {}, folder / "log", cwd=folder)

        def ask(path: str) -> Any:
            answer = requests.get(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10)
            answer.raise_for_status()
            return answer.json()["data"]

        try:
            piece.wait_until(lambda: servers.answers(f"http://127.0.0.1:{port}/-/ready"), 60)
            yield service, ask
        finally:
            piece.stop()
            backend.close()


def test_a_real_prometheus_finds_the_figures(prometheus: tuple[servers.RunningService, Callable[[str], Any]]) -> None:
    """Queries give what the traffic was, all rules are evaluated, and the end of the service is on its way to an alert."""
    service, ask = prometheus

    def value(query: str) -> float | None:
        found = ask(f"query?query={quote(query)}")["result"]
        return float(found[0]["value"][1]) if found else None

    def alerts() -> set[str]:
        return {alert["labels"]["alertname"] for alert in ask("alerts")["alerts"]}

    for _ in range(5):
        requests.get(f"{service.url}/media/uploads/7/{UUID}.png", allow_redirects=False, timeout=10)
    for cookie in ("session=alice", "session=bob", "session=nobody"):
        requests.post(f"{service.url}/media/upload", files={"file": ("a", make.png())}, headers={"Cookie": cookie}, timeout=30)
    servers.wait_for(lambda: value("sum(media_storage_uploads_total)") == 3, 20)
    assert value("media_storage_redirects_total") == 5
    assert value('media_storage_uploads_total{outcome="store_unavailable", status="503", job="media-storage"}') == 2
    assert value('media_storage_uploads_total{outcome="unauthenticated"}') == 1
    assert value('media_storage_upload_phase_duration_seconds_count{phase="backend"}') == 3
    assert value("media_storage_uploads_in_flight_limit") == 1000
    assert value('up{job="media-storage"}') == 1

    servers.wait_for(lambda: all(rule["health"] != "unknown" for rule in ask("rules")["groups"][0]["rules"]), 20)
    assert {rule["name"]: rule["health"] for rule in ask("rules")["groups"][0]["rules"]} == dict.fromkeys(ALERTS, "ok")
    assert "MediaStorageDown" not in alerts()
    service.piece.stop()
    servers.wait_for(lambda: "MediaStorageDown" in alerts(), 20)
