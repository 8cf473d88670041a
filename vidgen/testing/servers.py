"""
The servers of a test run: PostgreSQL and Valkey as child processes, S3 and the providers in a
thread, at addresses that stay the same for the whole run.

The thread has a loop of its own, so that the servers answer whatever the test's loop does, and
tests without a loop can use them, too.
"""

import asyncio
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import SecretStr
from redis.asyncio import Redis

from vidgen import catalog
from vidgen.dev import environment
from vidgen.dev.servers import PostgresServer, ValkeyServer
from vidgen.dispatch import later_name, open_redis, redis_errors
from vidgen.errors import SettingsError
from vidgen.line import MESSAGE_PREFIX, shares_name
from vidgen.resources import bucket_of
from vidgen.settings import Settings
from vidgen.simulator import SimulatorServer, clips, service_account_file
from vidgen.simulator.s3 import S3Server
from vidgen.storage import Storage
from vidgen.store.migrate import migrate
from vidgen.store.pool import Connection, connect
from vidgen.testing.simulated import Simulated, SimulatedProvider

BUCKET = "videos"
PROJECT = "vidgen-simulator"
GENERATION_S = 0.02
START_TIMEOUT_S = 60.0
EMPTY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
# Nobody but the owner of the tables, and for nothing but tests: it is only ever added to.
EMPTY_LEDGER = (
    "DELETE FROM budgets; DELETE FROM budget_use; DELETE FROM budget_changes;"
    " ALTER TABLE ledger DISABLE TRIGGER USER; DELETE FROM ledger;"
    " ALTER TABLE ledger ENABLE TRIGGER USER"
)
LOCK_KEY = 4_402_157_730_118_226_941  # any constant that nobody else uses

# A word that begins so: app_test, test-app, testing; but not "latest".
_TEST_DATABASE = re.compile(r"(?<![a-z])test", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What lives in the thread."""

    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event
    settings: Settings
    simulated: Simulated
    connection: Connection
    redis: Redis


class Servers:
    """
    Everything a video needs on this machine, running between `start` and `stop`.

    Call both from the main thread: on Linux the children end with the thread that started them.
    """

    def __init__(self, *, database_url: str = "", redis_url: str = "") -> None:
        """Start nothing yet; an address that is given is used in place of a server of ours."""
        self._database_url = database_url
        self._redis_url = redis_url
        self._running = ExitStack()
        self._opened: _Opened

    def __enter__(self) -> Self:
        """Start them."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them."""
        self.stop()

    @property
    def settings(self) -> Settings:
        """Point at all of them; every wait is as short as it may be."""
        return self._opened.settings

    @property
    def simulated(self) -> Simulated:
        """The providers."""
        return self._opened.simulated

    def start(self) -> None:
        """
        Start what is not given, make the tables and the bucket.

        Raises:
            SettingsError: A program is missing, or the given database is none for tests.
            DatabaseError, DispatchError: What is given does not answer.
            ImportError: The clip maker is not installed; the message tells how to get it.
        """
        environment.reach_loopback_directly()
        with ExitStack() as running:
            folder = running.enter_context(_folder())
            database_url, redis_url = self._database_url, self._redis_url
            if not database_url:
                postgres = PostgresServer(folder / "postgres", durable=False)
                database_url = running.enter_context(postgres).url
            if not redis_url:
                redis_url = running.enter_context(ValkeyServer(folder / "valkey")).url
            self._opened = running.enter_context(self._thread(folder, database_url, redis_url))
            self._running = running.pop_all()

    def stop(self) -> None:
        """Stop what was started, and remove its files; harmless when nothing runs."""
        self._running.close()

    def empty(self) -> None:
        """Remove every job and its dispatch, and let the providers forget everything."""
        opened = self._opened
        work = asyncio.run_coroutine_threadsafe(_empty(opened), opened.loop)
        work.result(EMPTY_TIMEOUT_S)
        for provider in opened.simulated.by_name.values():
            provider.reset()

    @contextmanager
    def _thread(self, folder: Path, database_url: str, redis_url: str) -> Iterator[_Opened]:
        ready: Future[_Opened] = Future()

        def live() -> None:
            try:
                asyncio.run(self._live(ready, folder, database_url, redis_url))
            except BaseException as error:
                if ready.done():
                    raise  # pytest tells of a thread that ended so
                ready.set_exception(error)

        # A daemon: a run that ends without its fixtures must not wait for it.
        thread = threading.Thread(target=live, name="vidgen-servers", daemon=True)
        thread.start()
        opened = ready.result(START_TIMEOUT_S)
        try:
            yield opened
        finally:
            opened.loop.call_soon_threadsafe(opened.stop.set)
            thread.join(STOP_TIMEOUT_S)

    async def _live(
        self, ready: "Future[_Opened]", folder: Path, database_url: str, redis_url: str
    ) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        async with AsyncExitStack() as stack:
            keys = {"access_key": "vidgen-tests", "secret_key": secrets.token_urlsafe(30)}
            s3 = await stack.enter_async_context(S3Server(folder / "s3", **keys))
            providers = await stack.enter_async_context(SimulatorServer(generation_s=GENERATION_S))
            clip = await asyncio.to_thread(
                clips.render, "vidgen.testing", seconds=1, width=320, height=180, audio=False
            )
            for simulator in providers.simulators.values():
                simulator.clip = clip
            addresses = providers.addresses()
            opened_by = dict.fromkeys(catalog.key_variables(addresses), "simulated")
            account = await asyncio.to_thread(
                service_account_file, folder, providers.veo.token_url, project=PROJECT
            )
            settings = Settings(
                database_url=database_url,
                redis_url=redis_url,
                # A worker that uses the same Redis must not take what is ours.
                queue_name=f"vidgen:tests:{secrets.token_hex(8)}",
                google_cloud_project_id=PROJECT,
                google_application_credentials=SecretStr(str(account)),
                veo_storage_uri=f"gs://{PROJECT}/videos",
                s3_bucket=BUCKET,
                s3_endpoint_url=s3.url,
                s3_addressing_style="path",
                aws_access_key_id=keys["access_key"],
                aws_secret_access_key=SecretStr(keys["secret_key"]),
                allow_private_addresses=True,
                concurrency=20,
                rate_limit_per_min=1_000_000,
                settle_s=0,
                submit_timeout_s=1,
                backoff_s=0.02,
                poll_interval_s=0.02,
                progress_interval_s=0.05,
                sweep_interval_s=0.2,
                lease_ttl_s=3,
                shutdown_grace_s=2,
                http_host="127.0.0.1",
                http_port=0,
            ).with_variables(addresses | opened_by)
            connection = await stack.enter_async_context(connect(settings.database_url))
            if self._database_url:
                await _claim(connection, settings)
            await migrate(settings.database_url)
            redis = await stack.enter_async_context(open_redis(settings.redis_url))
            async with Storage.open(bucket_of(settings)) as storage:
                await storage.create_bucket()
            opened = _Opened(
                loop=loop,
                stop=stop,
                settings=settings,
                simulated=Simulated(
                    by_name={
                        name: SimulatedProvider(simulator, loop)
                        for name, simulator in providers.simulators.items()
                    }
                ),
                connection=connection,
                redis=redis,
            )
            await _empty(opened)
            ready.set_result(opened)
            await stop.wait()
            await _empty(opened)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that other users can reach: pytest's own are closed to the one PostgreSQL has."""
    folder = Path(tempfile.mkdtemp(prefix="vidgen-testing-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _claim(connection: Connection, settings: Settings) -> None:
    """
    Make sure that nobody misses what is in this database, and that no other run uses it.

    Raises:
        SettingsError: Its name does not say test, or somebody else is in it.
    """
    name: str = await connection.fetchval("SELECT current_database()")
    if not _TEST_DATABASE.search(name):
        raise SettingsError(
            f"vidgen_database_url: came the database {name!r}; wanted: one with a name that says"
            " test (app_test), as every job in it is deleted"
        )
    if not settings.prepared_statements:
        return  # behind a transaction pooler a lock would stay with whoever comes next
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK_KEY):
        raise SettingsError(
            f"vidgen_database_url: another test run uses {name!r}; wanted: a database for each run,"
            " and for each worker of pytest-xdist (override the fixture vidgen_database_url)"
        )


async def _empty(opened: _Opened) -> None:
    # Events and images go with their jobs.
    await opened.connection.execute(
        "DELETE FROM video_jobs; DELETE FROM workers; DELETE FROM upkeep;"
        " DELETE FROM provider_keys; DELETE FROM erasures; DELETE FROM erased_operations"
    )
    await opened.connection.execute(EMPTY_LEDGER)
    queue_name = opened.settings.queue_name
    async with redis_errors("remove dispatches"):
        names = await opened.redis.zrange(queue_name, 0, -1)
        later = await opened.redis.zrange(later_name(queue_name), 0, -1)
        names += [name.partition(b":")[2] for name in later]  # without its priority
        messages = [f"{MESSAGE_PREFIX}{name.decode()}" for name in names]
        sets = (queue_name, later_name(queue_name), shares_name(queue_name))
        await opened.redis.delete(*sets, *messages)
