"""
The fixtures, each started when the first test asks for it.

    vidgen_database_url, vidgen_redis_url   servers of your own, if there are
    └── vidgen_servers                  PostgreSQL, Valkey, S3, simulated providers, once per run
        ├── vidgen_settings             point at all of them, with short waits; override at will
        └── vidgen_emptied              before each test: no job, no script, no bill
            ├── vidgen_environment      the settings in `os.environ`, for `VideoQueue.from_env()`
            ├── vidgen_simulator        what the providers shall do, what they got and billed
            ├── vidgen_queue            a connected `VideoQueue`
            └── vidgen_worker           `await vidgen_worker.drain()` runs what is due
"""

import os.path
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, TypeVar, cast

import pytest

from vidgen.testing.plugin import DATABASE_URL, REDIS_URL

if TYPE_CHECKING:  # each fixture imports what it needs: most runs need none
    from vidgen.queue import VideoQueue
    from vidgen.settings import Settings
    from vidgen.testing.servers import Servers
    from vidgen.testing.simulated import Simulated
    from vidgen.testing.worker import InlineWorker

F = TypeVar("F", bound=Callable[..., object])


def _async_fixture(function: F) -> F:
    """
    Make *function* a fixture for whichever plug-in runs asynchronous ones.

    pytest-asyncio in its strict mode wants to be told; anyio takes what pytest calls a fixture.
    """
    asyncio_plugin = sys.modules.get("pytest_asyncio")
    fixture = pytest.fixture if asyncio_plugin is None else asyncio_plugin.fixture
    return cast("F", fixture(function))


@pytest.fixture(scope="session")
def vidgen_database_url(pytestconfig: pytest.Config) -> str:
    """PostgreSQL of your own; empty starts one. Override it where each xdist worker has its own."""
    return _configured(pytestconfig, DATABASE_URL)


@pytest.fixture(scope="session")
def vidgen_redis_url(pytestconfig: pytest.Config) -> str:
    """Redis of your own; empty starts one."""
    return _configured(pytestconfig, REDIS_URL)


@pytest.fixture(scope="session")
def vidgen_servers(vidgen_database_url: str, vidgen_redis_url: str) -> "Iterator[Servers]":
    """Every server a video needs, real ones, started once for the whole run."""
    from vidgen.errors import VidgenError
    from vidgen.testing.servers import Servers

    servers = Servers(database_url=vidgen_database_url, redis_url=vidgen_redis_url)
    try:
        servers.start()
    except (VidgenError, ImportError) as error:
        pytest.fail(f"vidgen's servers for tests do not start: {error}", pytrace=False)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def vidgen_settings(vidgen_servers: "Servers") -> "Settings":
    """Settings for the servers, the same for the whole run."""
    return vidgen_servers.settings


@pytest.fixture
def vidgen_emptied(vidgen_servers: "Servers") -> None:
    """No job, no script, no bill: each test begins anew."""
    vidgen_servers.empty()


@pytest.fixture
def vidgen_environment(
    vidgen_emptied: None, vidgen_settings: "Settings", monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The environment says what the settings do: for services that read it themselves."""
    from vidgen.dev.environment import variables

    environment = variables(vidgen_settings)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    return environment


@pytest.fixture
def vidgen_simulator(vidgen_emptied: None, vidgen_servers: "Servers") -> "Simulated":
    """The simulated providers: `vidgen_simulator.sora.script(Rule(…))`, `.bill`, `.received`."""
    return vidgen_servers.simulated


@_async_fixture
async def vidgen_queue(
    vidgen_emptied: None, vidgen_settings: "Settings"
) -> "AsyncIterator[VideoQueue]":
    """A connected `VideoQueue` without a job in it."""
    from vidgen.queue import VideoQueue

    async with VideoQueue(vidgen_settings) as queue:
        yield queue


@_async_fixture
async def vidgen_worker(
    vidgen_emptied: None, vidgen_settings: "Settings"
) -> "AsyncIterator[InlineWorker]":
    """A worker that does nothing until `drain` is called, and then everything that is due."""
    from vidgen.resources import open_resources
    from vidgen.testing.worker import InlineWorker

    async with open_resources(vidgen_settings) as resources:
        yield InlineWorker(resources)


def _configured(config: pytest.Config, name: str) -> str:
    """The setting with `$NAME` filled in; empty if the environment has no such name."""
    text = os.path.expandvars(str(config.getini(name)).strip())
    return "" if text.startswith("$") else text
