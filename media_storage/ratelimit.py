"""How many uploads a user may make in a minute: a fixed window, counted in this process or in Redis.

The maintained rate-limit libraries are not in conda-forge's published records, and one counter per minute is all
that is needed. A Redis that does not answer must not stop uploads: then they are allowed, uncounted, and the log says so.
"""

import logging
import math
import threading
import time
from typing import Protocol

from redis import Redis, RedisError

from media_storage.errors import RateLimited

WINDOW = 60  # seconds
REDIS_TIMEOUT = 0.25  # seconds, to connect and to answer
REDIS_PAUSE = 5.0  # seconds without a question after it failed

log = logging.getLogger(__name__)


class Counter(Protocol):
    """Counts events of one name within a window."""

    def add(self, name: str, window: int) -> int:
        """One more for `name` in the window with this number; how many there are now, 0 when it cannot tell."""


class Limiter:
    """Refuses a user's uploads beyond `per_minute`; 0 refuses none."""

    def __init__(self, per_minute: int, counter: Counter) -> None:
        self._per_minute = per_minute
        self._counter = counter

    def count(self, user: str) -> None:
        """Counts an upload of `user`. Raises RateLimited with the seconds until the next window."""
        if not self._per_minute:
            return
        now = time.time()
        if self._counter.add(user, int(now // WINDOW)) > self._per_minute:
            raise RateLimited(math.ceil(WINDOW - now % WINDOW))


class MemoryCounter:
    """Counts in this process alone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: dict[int, dict[str, int]] = {}

    def add(self, name: str, window: int) -> int:
        with self._lock:
            # Threads may come in the wrong order around the full minute: the neighbours stay.
            for old in [number for number in self._windows if abs(number - window) > 1]:
                del self._windows[old]
            counts = self._windows.setdefault(window, {})
            counts[name] = counts.get(name, 0) + 1
            return counts[name]


class RedisCounter:
    """Counts for all processes that use the same Redis."""

    def __init__(self, uri: str) -> None:
        self._redis = Redis.from_url(uri, socket_timeout=REDIS_TIMEOUT, socket_connect_timeout=REDIS_TIMEOUT)
        self._silent_until = 0.0

    def add(self, name: str, window: int) -> int:
        if time.monotonic() < self._silent_until:
            return 0
        key = f"media-storage:uploads:{name}:{window}"
        try:
            with self._redis.pipeline() as pipeline:
                pipeline.incr(key)
                pipeline.expire(key, 2 * WINDOW)
                return int(pipeline.execute()[0])
        except RedisError as exc:
            self._silent_until = time.monotonic() + REDIS_PAUSE
            log.warning("uploads are not counted for %s s: Redis: %s", REDIS_PAUSE, exc)
            return 0


def limiter_for(per_minute: int, uri: str) -> Limiter:
    """The limiter that the settings ask for; connects when it is first used."""
    return Limiter(per_minute, RedisCounter(uri) if per_minute and uri != "memory://" else MemoryCounter())
