"""The service as it runs in production, in front of each store, with a chat backend of the tests'."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import servers
from live import STORES, Audit, Live, Site
from rig import Rig, running_rig


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out, for some stores and servers, what would prove nothing there or cannot be. The markers say why."""
    left_out = {id(item) for item in items if _is_left_out(item)}
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left_out])
    items[:] = [item for item in items if id(item) not in left_out]


def _is_left_out(item: pytest.Item) -> bool:
    params: dict[str, object] = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    store, server = params.get("store"), params.get("server")
    return bool(
        (store == "moto" and item.get_closest_marker("not_on_moto"))
        or (params.get("rig", store) == "seaweedfs" and item.get_closest_marker("beside_minio"))
        or (server not in (None, servers.OWN_SERVER) and item.get_closest_marker("on_one_server"))
        or any(server in marker.args for marker in item.iter_markers("not_on"))
    )


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
def server(request: pytest.FixtureRequest) -> str:
    """What `media-storage serve` runs on; in a module that is marked `on_every_server`, each server has its turn."""
    return str(getattr(request, "param", servers.OWN_SERVER))


@pytest.fixture(scope="session")
def live(
    store: servers.RunningStore, backend: servers.ChatBackend, server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
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
    with servers.running_service(environ, folder, server) as service:
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


@pytest.fixture(scope="module", params=["seaweedfs", "minio"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A service whose store and backend can be made to misbehave."""
    with running_rig(request.param, tmp_path_factory.mktemp(f"rig-{request.param}")) as running:
        yield running


@pytest.fixture
def acknowledged(rig: Rig) -> Iterator[set[str]]:
    """Where a test puts the keys that it was given a 201 for; the audit follows it."""
    with rig.unharmed() as keys:
        yield keys


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not here: it has no wheel for this platform")
    from pictures import chromium  # noqa: PLC0415 - it imports Playwright

    if chromium.executable() is None:
        pytest.skip("Chromium is not here: none of chromium, chromium-browser and google-chrome is on the PATH")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium.executable(), args=chromium.FLAGS)
        yield running
        running.close()
