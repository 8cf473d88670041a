"""Real servers for the tests, one each per run, and a check that no test leaves anything behind."""

import asyncio
import gc
import inspect
import itertools
import os
import shutil
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from vidgen.dev.child import Child
from vidgen.dev.servers import (
    NOBODY,
    PostgresServer,
    ValkeyServer,
    find_valkey,
    valkey_is_ready,
)
from vidgen.settings import Settings

T = TypeVar("T")

if TYPE_CHECKING:  # the heavy ones are imported by the fixtures that need them
    from vidgen.simulator.s3 import S3Server
    from vidgen.simulator.server import SimulatorServer

S3_ACCESS_KEY = "test-access-key"
S3_SECRET_KEY = "test-secret-key"
BUCKET = "videos"
TEMPLATE = "vidgen_template"
SHARED = "test_shared"
LEAK_TIMEOUT_S = 2  # the other end of a closed connection notices a moment later

# The rows of other tables go with their jobs.
EMPTIED = (
    *("video_jobs", "workers", "upkeep", "pauses", "audit", "durations"),
    "provider_keys",
    *("erasures", "erased_operations"),
)
FOLDER = "vidgen-tests-"  # and the id of the process that made it
MEMORY = Path("/dev/shm")
MIN_MEMORY_BYTES = 4 * 1024**3  # the servers of all processes together take less than half of it

# More than two cores have: most tests wait for a process, a row or a timer.
WORKERS = 4
# The longest first, lest one of them is all that still runs at the end.
FIRST = (
    *("test_the_types_are_right", "tests/deploy/test_image.py", "tests/server/browser/"),
    *("tests/journeys/", "tests/dev/", "tests/test_source.py"),
)

# A package of its own, whose checks run where it is installed.
collect_ignore = ["plugin_example"]

_CHILDREN = pytest.StashKey[set[psutil.Process]]()

_numbers = itertools.count(1)
_run_of_file = Counter[Path]()  # tests, in this process


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """
    Run whole folders in several processes; files and what was picked out by a word run in this one.

    Said here instead of in `addopts`, which fails where pytest-xdist is switched off or missing.
    """
    if not config.pluginmanager.hasplugin("xdist") or _is_worker(config):
        return
    option = config.option
    if option.numprocesses is None and not option.usepdb and not _is_narrow(config):
        option.numprocesses = WORKERS
    if option.numprocesses and option.dist == "no":
        option.dist = "loadgroup"  # hands out one test at a time, in order


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest, where the tests are shared out."""
    if _is_worker(config):
        items.sort(key=lambda item: [word not in item.nodeid for word in FIRST])


def pytest_collection_finish() -> None:
    """Take what every test shares out of the collector's sight: it runs after each one."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """
    The same of what the first test of a file has loaded for all others, and later of what piled up:
    else the collection after each test, which is for that test's own litter, takes ten times as
    long.
    """
    before = _run_of_file[item.path]
    _run_of_file[item.path] += 1
    if before == 1 or (before and before % 100 == 0):
        gc.collect()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Note who runs by now: servers of the whole run may have been started for this very test."""
    item.stash[_CHILDREN] = _children()


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a task, a child process or an open socket behind."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_task_left")
    yield
    left = _children() - request.node.stash.get(_CHILDREN, _children())
    assert not left, f"child processes left: {[_command_line(child) for child in left]}"
    gc.collect()  # what was not closed warns now, and warnings are errors


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail a test whose tasks go on after it and its fixtures have ended."""
    before = asyncio.all_tasks()
    yield
    if left := asyncio.all_tasks() - before - {asyncio.current_task()}:
        _, left = await asyncio.wait(left, timeout=LEAK_TIMEOUT_S)
    assert not left, f"tasks left: {left}"


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder for servers that other users can reach: pytest's own are closed to them."""
    place = _quickest_place()
    for old in place.glob(f"{FOLDER}*"):  # memory that a killed run still holds
        if not psutil.pid_exists(int(old.name.split("-")[2])):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=place))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[PostgresServer]:
    """The PostgreSQL of this run."""
    with PostgresServer(server_folder / "postgres", durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server(server_folder: Path) -> Iterator[ValkeyServer]:
    """The Redis of this run."""
    with ValkeyServer(server_folder / "valkey") as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> str:
    """The name of a database that has been migrated and is only copied."""
    from vidgen.store.migrate import migrate

    async def make() -> None:
        await _execute(postgres_server, f"CREATE DATABASE {TEMPLATE}")
        await migrate(_in_database(postgres_server.url, TEMPLATE))

    asyncio.run(make())
    return TEMPLATE


@pytest.fixture
async def empty_database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A database of the test's own without any table."""
    async with _database(postgres_server, "template0") as url:
        yield url


@pytest.fixture
async def own_database_url(
    postgres_server: PostgresServer, migrated_template: str
) -> AsyncIterator[str]:
    """A migrated database of the test's own; connections it leaves open fail the test."""
    async with _database(postgres_server, migrated_template) as url:
        yield url


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """One of the test's own, unless its file says otherwise."""
    return own_database_url


@pytest.fixture(scope="session")
def shared_database_url(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """One database for all tests that leave the schema alone: quicker emptied than copied."""
    create = f"CREATE DATABASE {SHARED} TEMPLATE {migrated_template}"
    asyncio.run(_execute(postgres_server, create))
    yield _in_database(postgres_server.url, SHARED)
    asyncio.run(_execute(postgres_server, f"DROP DATABASE {SHARED} WITH (FORCE)"))


@pytest.fixture
async def emptied_database_url(shared_database_url: str) -> str:
    """The shared database without a row."""
    from vidgen.testing.servers import EMPTY_LEDGER

    connection = await asyncpg.connect(shared_database_url, timeout=10)
    try:
        for table in EMPTIED:
            await connection.execute(f"DELETE FROM {table}", timeout=30)  # noqa: S608
        await connection.execute(EMPTY_LEDGER, timeout=30)
    finally:
        await connection.close(timeout=10)
    return shared_database_url


@pytest.fixture
async def redis_url(valkey_server: ValkeyServer) -> AsyncIterator[str]:
    """An empty Redis; connections the test leaves open fail it."""
    async with Redis.from_url(valkey_server.url) as redis:
        await redis.flushall()
        before = {client["id"] for client in await redis.client_list()}
        yield valkey_server.url

        async def connections() -> list[dict[str, str]]:
            return [client for client in await redis.client_list() if client["id"] not in before]

        await _none_left("connections to Redis", connections)


@pytest.fixture
def sentinel_url(redis_url: str, tmp_path: Path) -> Iterator[str]:
    """The empty Redis as a Sentinel of the test's own announces it."""
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor main 127.0.0.1 {urlsplit(redis_url).port} 1\n")
    pid_file = tmp_path / "sentinel.pid"
    child = Child("sentinel", tmp_path, pid_file=pid_file, stop_signal=signal.SIGTERM)

    def command(port: int) -> list[str]:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--pidfile", str(pid_file)]
        return [str(find_valkey()), str(config), "--sentinel", *options]

    with child.held():
        child.start(command, valkey_is_ready)
    with _ending(child):
        yield f"redis+sentinel://127.0.0.1:{child.port}/main/0"


@pytest.fixture
def pgbouncer_url(database_url: str, server_folder: Path) -> Iterator[str]:
    """The test's database behind a pooler in transaction mode."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        assert "CI" not in os.environ, "pgbouncer is missing; .ci/run installs it on Debian"
        pytest.skip("pgbouncer is not installed (apt-get install pgbouncer)")
    folder = Path(tempfile.mkdtemp(dir=server_folder))
    user = NOBODY if os.geteuid() == 0 else None  # like postgres, it does not run as root
    if user is not None:
        os.chown(folder, user, user)
    child = Child(
        "pgbouncer",
        folder,
        pid_file=folder / "pgbouncer.pid",
        stop_signal=signal.SIGINT,
        user=user,
    )
    with child.held():
        child.start(partial(_pgbouncer, program, folder, database_url), _takes_connections)
    with _ending(child):
        parts = urlsplit(database_url)
        yield parts._replace(netloc=f"vidgen@127.0.0.1:{child.port}").geturl()


@pytest.fixture(scope="session")
def models_read_once() -> Iterator[None]:
    """botocore looks through 1,700 files for each new session: half the time of a short test."""
    from botocore import loaders, session

    loader = loaders.Loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "create_loader", lambda _=None: loader)
        yield


@pytest.fixture(scope="session")
def s3_template(server_folder: Path) -> Path:
    """What the disk of an S3 server with the bucket `videos` begins with; it is only copied."""
    from vidgen.simulator.s3.disk import Disk

    folder = server_folder / "s3"
    folder.mkdir()
    with closing(Disk(folder)) as disk:
        disk.create_bucket(BUCKET)
    return folder


@pytest.fixture
async def s3(
    server_folder: Path, s3_template: Path, models_read_once: None
) -> AsyncIterator["S3Server"]:
    """An S3 server of the test's own with the bucket `videos`, in memory if the others are."""
    from vidgen.simulator.s3 import S3Server

    with tempfile.TemporaryDirectory(dir=server_folder, prefix="s3-") as name:
        folder = shutil.copytree(s3_template, Path(name), dirs_exist_ok=True)
        async with S3Server(folder, access_key=S3_ACCESS_KEY, secret_key=S3_SECRET_KEY) as server:
            yield server


@pytest.fixture
async def simulator() -> AsyncIterator["SimulatorServer"]:
    """Providers of the test's own, at the wire."""
    from vidgen.simulator.server import SimulatorServer

    async with SimulatorServer() as server:
        yield server


@pytest.fixture
def settings(
    database_url: str, redis_url: str, s3: "S3Server", simulator: "SimulatorServer"
) -> Settings:
    """Everything of the test's own, and short waits."""
    return Settings(
        database_url=database_url,
        redis_url=redis_url,
        admin_token=SecretStr("a-token-for-the-tests"),
        s3_bucket=BUCKET,
        s3_endpoint_url=s3.url,
        s3_addressing_style="path",
        aws_access_key_id=S3_ACCESS_KEY,
        aws_secret_access_key=SecretStr(S3_SECRET_KEY),
        openai_api_key=SecretStr("sk-simulated"),
        openai_base_url=simulator.sora.url,
        gemini_api_key=SecretStr("gemini-simulated"),
        gemini_base_url=simulator.veo.gemini_url,
        vertex_base_url=simulator.veo.vertex_url,
        gcs_base_url=simulator.veo.gcs_url,
        allow_private_addresses=True,
        concurrency=50,
        rate_limit_per_min=100_000,
        backoff_s=0.05,
        poll_interval_s=0.05,
        poll_max_attempts=1000,  # a round is longer than any test
        lease_ttl_s=3,
        submit_timeout_s=3,
        shutdown_grace_s=2,
        progress_interval_s=0.05,
        sweep_interval_s=0.2,
        http_host="127.0.0.1",
        http_port=0,
    )


def environment_of(settings: Settings) -> dict[str, str]:
    """*settings* as a child process reads them, beside what it needs to run at all."""
    environment = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ
    }
    for field, info in Settings.model_fields.items():
        value = getattr(settings, field)
        if value != info.default:
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            environment[str(info.validation_alias)] = text
    return environment


def _is_worker(config: pytest.Config) -> bool:
    """Whether this is one of the processes that pytest-xdist started."""
    return hasattr(config, "workerinput")


def _is_narrow(config: pytest.Config) -> bool:
    """Whether this is a small part of the tests: a process more would cost more than it saves."""
    option = config.option
    picked = option.keyword or option.markexpr or option.collectonly
    return bool(picked) or not any(Path(argument).is_dir() for argument in config.args)


def _quickest_place() -> Path:
    """In memory, where there is room: copying a database costs 18 ms there, 230 ms on a disk."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MIN_MEMORY_BYTES:
        return MEMORY
    return Path(tempfile.gettempdir())


def _children() -> set[psutil.Process]:
    # multiprocessing keeps a helper of its own for as long as Python runs.
    return {
        child
        for child in _started()
        if not any("resource_tracker" in word for word in _command_line(child))
    }


def _started() -> Iterator[psutil.Process]:
    """The processes that this one has started, of any of its threads."""
    try:
        lists = [(thread / "children").read_text() for thread in Path("/proc/self/task").iterdir()]
    except OSError:  # no Linux, or a thread ended meanwhile; psutil reads all of /proc, 3 ms a time
        yield from psutil.Process().children()
        return
    for number in " ".join(lists).split():
        with suppress(psutil.NoSuchProcess):
            yield psutil.Process(int(number))


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it ended meanwhile
        return []


async def _none_left(what: str, found: Callable[[], Awaitable[Sequence[object]]]) -> None:
    """Fail unless *found* finds nothing soon."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LEAK_TIMEOUT_S
    while left := await found():
        assert loop.time() < deadline, f"{what} left: {left}"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def in_its_own_task(context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """
    *context*, opened and closed by one task: pytest opens and closes a fixture in two, and a
    TaskGroup wants one.
    """
    stop = asyncio.Event()
    ready: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def live() -> None:
        async with context as opened:
            ready.set_result(opened)
            await stop.wait()

    life = asyncio.create_task(live())
    life.add_done_callback(lambda _: ready.cancel())  # nothing, unless it could not be opened
    try:
        yield await ready
    finally:
        stop.set()
        await life  # says why


@asynccontextmanager
async def _database(server: PostgresServer, template: str) -> AsyncIterator[str]:
    name = f"test_{next(_numbers)}"
    # Copying files beats writing them through the log: 18 instead of 28 ms.
    await _execute(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    try:
        yield _in_database(server.url, name)
        await no_connection_left(server, name)
    finally:
        await _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


async def no_connection_left(server: PostgresServer, name: str) -> None:
    """Fail if somebody is still in the database *name* when all should have left."""

    async def connections() -> list[asyncpg.Record]:
        statement = """
            SELECT pid, query FROM pg_stat_activity
            WHERE datname = $1 AND backend_type = 'client backend'
        """
        return await _execute(server, statement, name)

    await _none_left("connections to PostgreSQL", connections)


async def _execute(server: PostgresServer, statement: str, *values: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(server.url, timeout=10)
    try:
        return await connection.fetch(statement, *values, timeout=30)
    finally:
        await connection.close(timeout=10)


def _in_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@contextmanager
def _ending(child: Child) -> Iterator[None]:
    try:
        yield
    finally:
        child.stop()


def _pgbouncer(program: str, folder: Path, database_url: str, port: int) -> list[str]:
    """The command of a pooler on *port*, after writing what it reads."""
    target = urlsplit(database_url)
    (folder / "users.txt").write_text('"vidgen" ""\n')
    config = folder / "pgbouncer.ini"
    config.write_text(
        "[databases]\n"
        f"* = host=127.0.0.1 port={target.port}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder / 'users.txt'}\n"
        "pool_mode = transaction\ndefault_pool_size = 5\nmax_client_conn = 500\n"
        f"pidfile = {folder / 'pgbouncer.pid'}\n"
    )
    return [program, str(config)]


def _takes_connections(child: Child) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", child.port)) == 0
