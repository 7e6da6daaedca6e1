"""What operators see: request ids, one log line per request, and readiness."""

import json
import logging
import random
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from media_storage.auth import Backend
from media_storage.errors import Refusal
from media_storage.storage import Store

READY_TIMEOUT = 2.0  # seconds for each question
READY_CACHE = 2.0  # seconds that an answer is good for

log = logging.getLogger(__name__)
requests_log = logging.getLogger("media_storage.request")

_visible_ascii = re.compile(r"[\x21-\x7e]{1,128}")


def request_id(offered: str | None) -> str:
    """The caller's id when it is 1 to 128 visible ASCII characters, else a fresh one."""
    return offered if offered and _visible_ascii.fullmatch(offered) else f"{random.getrandbits(128):032x}"  # a UUID is a system call


@dataclass
class Trace:
    """One request as the log will tell it. Phases in milliseconds, size in bytes."""

    request_id: str
    user: str = ""
    size: int | None = None
    is_upload: bool = False
    reason: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @property
    def ms(self) -> float:
        """Milliseconds since the request began."""
        return _ms_since(self.started)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a block, also when it raises."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] = _ms_since(began)

    def log(self, method: str, path: str, status: int, outcome: str) -> None:
        """Writes the request's one line. `outcome` is a refusal's code, or what was done."""
        fields: dict[str, object] = {"id": self.request_id, "outcome": outcome, "ms": self.ms}
        optional = {"user": self.user, "bytes": self.size, "reason": self.reason, "phases": self.phases}
        fields |= {name: value for name, value in optional.items() if value or value == 0}
        level = logging.ERROR if status == 500 else logging.WARNING if status > 500 else logging.INFO
        requests_log.log(level, "%d %s %s", status, method, path, extra={"fields": fields})


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 2)


class JsonFormatter(logging.Formatter):
    """One JSON object per line, ASCII only, so that nothing a caller sends can break or forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return _encode(entry)


_encode = json.JSONEncoder(default=str).encode


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class ConsoleFormatter(logging.Formatter):
    """For people: time, level, message, then name=value. Control characters are shown escaped."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = dict(getattr(record, "fields", {}))
        phases = fields.pop("phases", {})
        fields |= phases if isinstance(phases, dict) else {}
        words = [time.strftime("%H:%M:%S", time.localtime(record.created)), f"{record.levelname.lower():<7}", record.getMessage()]
        words += [f"{name}={value}" for name, value in fields.items()]
        lines = [_printable(" ".join(words))]
        if record.exc_info:
            lines += [f"  {_printable(line)}" for line in self.formatException(record.exc_info).split("\n")]
        return "\n".join(lines)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def configure_logging(form: Literal["console", "json"] | None, level: str) -> None:
    """Sends every log of this process to standard error; `form` None means console on a terminal, else JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ConsoleFormatter() if (form or ("console" if sys.stderr.isatty() else "json")) == "console" else JsonFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings repeat what refusals say
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a line for every malformed body
    logging.raiseExceptions = False  # a log that cannot be written must not fail a request
    # What no line of ours shows need not be collected for each (the logging documentation's "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None


class Readiness:
    """Whether an upload could succeed now; asked at most every two seconds, however often it is called."""

    def __init__(self, backend: Backend, store: Store) -> None:
        self._backend = backend
        self._store = store
        self._lock = threading.Lock()
        self._answer: dict[str, str] = {}
        self._good_until = 0.0

    def check(self) -> dict[str, str]:
        """``{"backend": "ok", "store": "ok", "bucket": "failed"}`` and the like; the reasons go to the log."""
        with self._lock:
            if time.monotonic() >= self._good_until:
                self._answer = self._ask()
                self._good_until = time.monotonic() + READY_CACHE
            return self._answer

    def _ask(self) -> dict[str, str]:
        backend = "ok"
        try:
            self._backend.check(READY_TIMEOUT)
        except Refusal as exc:
            log.warning("not ready: %s", exc)
            backend = "failed"
        wrong = self._store.check(READY_TIMEOUT)
        return {
            "backend": backend,
            "store": "failed" if wrong == "store" else "ok",
            "bucket": "failed" if wrong else "ok",
        }
