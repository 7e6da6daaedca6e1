"""A real Redis for the tests."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import servers


@contextlib.contextmanager
def running_redis(folder: Path, port: int, *options: str) -> Iterator[str]:
    """A redis-server of the test's own, on loopback, that keeps nothing; its URI."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Redis is not here: apt-get install redis-server, or conda-forge's redis-server")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port) as client:
            servers.wait_for(lambda: _pings(client), 20)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def _pings(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.AuthenticationError:
        return True
    except redis.RedisError:
        return False
