"""wrk: one request again and again over a number of connections."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import Failed

SCRIPT = Path(__file__).parent / "upload.lua"
ANSWER_SECONDS = 30  # an answer later than this is an error
_END_SECONDS = 30


@dataclass(frozen=True)
class Request:
    """What to send, and the status that has to come back. `body` and `paths` are files; see upload.lua. `threads` are wrk's."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Path | None = None
    paths: Path | None = None
    threads: int = 1


@dataclass(frozen=True)
class Load:
    """What wrk saw: answers per second, latency in milliseconds (percentiles), and how many requests failed."""

    answers: int
    rate: float
    p50_ms: float
    p99_ms: float
    errors: int
    what_failed: str


def run(port: int, request: Request, connections: int, seconds: int) -> Load:
    """Loads 127.0.0.1:`port` for `seconds`. Raises Failed when wrk itself does not work."""
    headers = [part for name, value in request.headers.items() for part in ("-H", f"{name}: {value}")]
    options = [
        "-t",
        str(request.threads),
        "-c",
        str(connections),
        "-d",
        f"{seconds}s",
        "--timeout",
        f"{ANSWER_SECONDS}s",
        "-s",
        str(SCRIPT),
    ]
    arguments = [request.method, str(request.status), str(request.threads), str(request.body or "-"), str(request.paths or "-")]
    argv = ["wrk", *options, *headers, f"http://127.0.0.1:{port}{request.path}", "--", *arguments]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + ANSWER_SECONDS + _END_SECONDS, check=False)  # noqa: S603
    last = next((line for line in reversed(ended.stdout.splitlines()) if line.startswith("{")), None)
    if ended.returncode != 0 or last is None:
        raise Failed(f"wrk ended with status {ended.returncode}\n{ended.stdout}{ended.stderr}")
    seen = json.loads(last)
    errors = seen["unexpected"] + seen["broken"] + seen["timeouts"]
    what_failed = ", ".join(f"{name} {seen[name]}" for name in ("unexpected", "status", "broken", "timeouts") if seen[name])
    rate = (seen["answers"] - seen["unexpected"]) / seen["seconds"]
    return Load(seen["answers"], rate, seen["p50_ms"], seen["p99_ms"], errors, what_failed)
