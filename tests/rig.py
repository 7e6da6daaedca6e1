"""The service between two fronts, and the audit that every fault ends with."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import servers
from faulty import Front
from live import Live
from pictures import make
from rawclient import Answer, body_of, connect, head_for, read_answer

MIB = 1_048_576
GROWTH = 32 * MIB  # of a worker, that is still "back at base": what its allocator keeps of a load


@dataclass
class Rig:
    """A running service with a front before its store and one before its backend."""

    live: Live
    folder: Path
    store_front: Front
    backend_front: Front
    base_fds: int = field(init=False)

    def __post_init__(self) -> None:
        self.base_fds = max(self.client_fds(worker) for worker in self.workers())

    @property
    def url(self) -> str:
        return self.live.url

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.live.service.pid).children()

    def rss(self) -> int:
        """Of the largest worker."""
        return max(worker.memory_info().rss for worker in self.workers())

    def client_fds(self, worker: psutil.Process) -> int:
        """File descriptors, without the connections that are kept open to the store and the backend."""
        ports = (self.store_front.port, self.backend_front.port)
        outgoing = [c for c in worker.net_connections("tcp") if c.raddr and c.raddr.port in ports]
        return worker.num_fds() - len(outgoing)

    def spools(self) -> list[str]:
        """Temporary files: named ones, and those that a worker holds open."""
        held = []
        for worker in self.workers():
            for entry in Path(f"/proc/{worker.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    held.append(str(entry.readlink()))
        named = [str(path) for path in self.live.spool_folder.iterdir()]
        return [path for path in held + named if path.startswith(str(self.live.spool_folder)) and "/wgunicorn" not in path]

    def open_multiparts(self) -> list[str]:
        """Unfinished multipart uploads. MinIO lists them only by an object's whole name, so there its disk is looked at."""
        listed = self.live.store.client._list_multipart_uploads(servers.BUCKET).uploads
        on_disk = (self.folder / "store" / "data" / ".minio.sys" / "multipart").glob("*/*")
        return [*(upload.object_name for upload in listed), *map(str, on_disk)]

    def upload(self, content: bytes, url: str = "") -> Answer:
        """One upload on a connection of its own, which is closed then."""
        return self.send(body_of(content), url)

    def send(self, body: bytes, url: str = "") -> Answer:
        """An upload's request with this body."""
        with connect(url or self.url) as sock:
            sock.sendall(head_for(len(body)))
            sock.sendall(body)
            answer = read_answer(sock)
        assert answer is not None, "the connection ended without an answer"
        return answer

    def warm(self, worker: psutil.Process) -> bool:
        """Whether a worker that was started in place of another serves."""
        return self.client_fds(worker) >= self.base_fds - 1

    def at_rest(self) -> bool:
        return not self.spools() and all(self.client_fds(worker) <= self.base_fds for worker in self.workers())

    @contextmanager
    def another_service(self, folder: Path, **environ: str) -> Iterator[servers.RunningService]:
        """A second service between the same fronts, with other settings."""
        whole = {**self.live.service.environ, "PORT": str(servers.free_port()), **environ}
        del whole["PUBLIC_BASE_URL"]
        with servers.running_service(whole, folder) as service:
            servers.wait_for(lambda: len(psutil.Process(service.pid).children()) == int(whole["WORKERS"]), 10)
            yield service

    @contextmanager
    def unharmed(self) -> Iterator[set[str]]:
        """Whatever happens inside, the bucket gains the keys that are added to the yielded set, and nothing is left behind."""
        before, rss = self.live.store.object_keys(), self.rss()
        acknowledged: set[str] = set()
        yield acknowledged
        began = time.monotonic()
        while not self.at_rest() and time.monotonic() - began < 2:
            time.sleep(0.02)
        assert self.at_rest(), (self.spools(), self.base_fds, [(self.client_fds(w), w.net_connections("tcp")) for w in self.workers()])
        answer = self.upload(make.png())
        assert answer.status == 201, answer.body
        assert self.live.store.object_keys() - before == acknowledged | {answer.key}
        assert not self.open_multiparts()
        assert self.rss() <= rss + GROWTH


@contextmanager
def running_rig(kind: str, folder: Path, **environ: str) -> Iterator[Rig]:
    """The service on a new store of `kind`, with two workers and short timeouts unless `environ` says otherwise."""
    spool_folder = folder / "spool"
    spool_folder.mkdir(parents=True)
    with ExitStack() as stack:
        store = stack.enter_context(servers.running_store(kind, folder / "store"))
        backend = servers.ChatBackend()
        backend._server.socket.listen(512)  # its own backlog of 5 makes a crowd wait a second
        stack.callback(backend.close)
        store_front = stack.enter_context(Front(store.endpoint))
        backend_front = stack.enter_context(Front(backend.url))
        whole = {
            **store.environ,
            "MINIO_ENDPOINT": store_front.url,
            "MINIO_PUBLIC_ENDPOINT": store.endpoint,
            "BACKEND_VERIFY_URL": f"{backend_front.url}/auth/me",
            "TMPDIR": str(spool_folder),
            "WORKERS": "2",
            "STORE_TIMEOUT_SECONDS": "2",
            "BACKEND_TIMEOUT_SECONDS": "1",
            **environ,
        }
        assert servers.media_storage("init-bucket", environ=whole, folder=folder).returncode == 0
        service = stack.enter_context(servers.running_service(whole, folder))
        servers.wait_for(lambda: len(psutil.Process(service.pid).children()) == int(whole["WORKERS"]), 10)
        live = Live(store, backend, service, Path(whole["TMPDIR"]))
        for _ in range(8):  # each worker has imported, and opened, what it needs
            live.upload(make.png()).raise_for_status()
        yield Rig(live, folder, store_front, backend_front)
    shutil.rmtree(folder / "store")  # pytest keeps the folders of its last runs
