"""The service as it runs in production, in front of each store, with a chat backend of the tests'."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import servers
from live import Audit, Live, Site


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out, for some stores, what would prove nothing there. The markers say why."""
    pointless = [
        item
        for item in items
        if (item.get_closest_marker("not_on_moto") and "[moto" in item.name)
        or (item.get_closest_marker("beside_minio") and "[seaweedfs" in item.name)
    ]
    config.hook.pytest_deselected(items=pointless)
    items[:] = [item for item in items if item not in pointless]


STORES = ["seaweedfs", "minio", "moto"]


@pytest.fixture(scope="session", params=STORES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.RunningStore]:
    with servers.running_store(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture(scope="session")
def backend() -> Iterator[servers.ChatBackend]:
    running = servers.ChatBackend()
    yield running
    running.close()


@pytest.fixture(scope="session")
def live(store: servers.RunningStore, backend: servers.ChatBackend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("service")
    spool_folder = folder / "spool"
    spool_folder.mkdir()
    environ = {
        **store.environ,
        "BACKEND_VERIFY_URL": backend.url,
        "ALLOWED_ORIGINS": "https://chat.example",
        "TMPDIR": str(spool_folder),
        "WORKERS": "2",
    }
    made = servers.media_storage("init-bucket", environ=environ, folder=folder)
    assert made.returncode == 0, made.stderr
    with servers.running_service(environ, folder) as service:
        yield Live(store, backend, service, spool_folder)


@pytest.fixture
def audit(live: Live) -> Iterator[Audit]:
    """The bucket, looked at before and after; whatever the test did, no spool may be left."""
    yield Audit(live, live.store.object_keys())
    assert not [path for path in live.spool_folder.iterdir() if not path.name.startswith("wgunicorn")]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The stand-in backend and its page, the service and a store (which the page cannot tell), wired as `dev` wires them."""
    folder = tmp_path_factory.mktemp("site")
    backend_port, service_port = servers.free_port(), servers.free_port()
    with ExitStack() as stack:
        running = stack.enter_context(servers.running_store("seaweedfs", folder / "store"))
        environ = {
            **running.environ,
            "PORT": str(service_port),
            "BACKEND_VERIFY_URL": f"http://127.0.0.1:{backend_port}/auth/me",
        }
        assert servers.media_storage("init-bucket", environ=environ, folder=folder).returncode == 0
        service = stack.enter_context(servers.running_service(environ, folder))
        page = stack.enter_context(servers.stand_in(backend_port, service.url))
        yield Site(page, service.url)
