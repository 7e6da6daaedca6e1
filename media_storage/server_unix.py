"""gunicorn, set up for uploads. Only this module, `worker_unix`, `connection_unix` and `body_unix` may assume Unix."""

import contextlib
import logging
import math
import resource
import threading
from typing import Any

from flask import Flask
from gunicorn import glogging
from gunicorn.app.base import BaseApplication

from media_storage import metrics, storage
from media_storage.app import create_app
from media_storage.body_unix import Pace
from media_storage.settings import Settings
from media_storage.worker_unix import IDLE_CONNECTIONS, Worker

# A thread waits wherever its client is slow, so there must be more of them than uploads: these are left to everyone
# else. They are started only when they are needed.
OTHER_THREADS = 128
KILL_SECONDS = 2  # after the grace, what still runs is killed


def serve(settings: Settings) -> None:
    """Runs gunicorn until SIGTERM or SIGINT; exits the process. Raises CannotListen."""
    # An upload takes up to three open files, and many systems allow 1024 to whoever does not ask for more.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS takes no "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _Application(settings).run()


class _Application(BaseApplication):
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._board = metrics.Board(settings.max_concurrent_uploads)
        self._meter = metrics.Meter()  # of the worker that is being started
        # The arbiter serves them, which lives as long as the service. What its thread holds when a worker is forked, no worker uses.
        port = settings.metrics_port
        self._metrics = metrics.listen(self._board, settings.metrics_host, port) if port else None
        super().__init__()

    def load_config(self) -> None:
        threads = self._settings.max_concurrent_uploads + OTHER_THREADS
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        options = {
            "bind": f"{host}:{self._settings.port}",
            "workers": self._settings.workers,
            "worker_class": worker_class(self._settings),
            "threads": threads,
            "worker_connections": threads + IDLE_CONNECTIONS,
            "graceful_timeout": math.ceil(self._settings.shutdown_grace_seconds) + KILL_SECONDS,
            "logger_class": _Logger,
            "forwarded_allow_ips": "",  # no header of a caller's decides a path (SCRIPT_NAME) or a scheme; nothing here asks for one
            "proc_name": "media-storage",
            "pre_fork": self._give_meter,
            "post_fork": self._close_metrics,
            "post_worker_init": self._warn_once,
            "child_exit": self._retire_meter,
        }
        if "control_socket_disable" in self.cfg.settings:  # gunicorn 25 opens one below $HOME
            options["control_socket_disable"] = True
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return create_app(self._settings, self._meter)  # in each worker: connections must not cross a fork

    def _give_meter(self, _arbiter: Any, worker: Any) -> None:
        self._meter = worker.meter = self._board.meter()

    def _close_metrics(self, _arbiter: Any, _worker: Any) -> None:
        if self._metrics:
            self._metrics.server_close()

    def _retire_meter(self, _arbiter: Any, worker: Any) -> None:
        self._board.retire(worker.meter)

    def _warn_once(self, worker: Any) -> None:
        if worker.age == 1:
            threading.Thread(target=storage.warn_if_listable, args=(self._settings,), daemon=True).start()


class _Logger(glogging.Logger):
    """gunicorn's own messages, through this process's logging."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log = logging.getLogger("gunicorn")
        self.access_log = logging.getLogger("gunicorn.access")

    def access(self, *args: Any) -> None:
        """Silent: the application writes a line of its own."""

    def reopen_files(self) -> None:
        """There are none."""


def worker_class(settings: Settings) -> type[Worker]:
    """gunicorn makes its workers itself, from a class: this one knows the settings."""
    pace = Pace(settings.upload_timeout_seconds, settings.min_upload_bytes_per_second)
    return type("ConfiguredWorker", (Worker,), {"pace": pace, "grace": settings.shutdown_grace_seconds})
