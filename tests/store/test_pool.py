"""Connections: behind a pooler or not, and every way in which PostgreSQL can be away."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from tests.builders import a_new_job, a_video, a_worker, an_operation
from tests.proxy import proxy_of
from tests.store.conftest import applied, claimed, history, inserted
from vidgen import lifecycle
from vidgen.dev.servers import PostgresServer
from vidgen.errors import DatabaseError, InternalError, LeaseLostError
from vidgen.job import EventType, JobStatus, VideoJob
from vidgen.lifecycle import Transition
from vidgen.settings import Settings
from vidgen.store import inputs, jobs, pool, upkeep, workers
from vidgen.store.inputs import StoredInput
from vidgen.store.migrate import migrate
from vidgen.store.pool import Database, Urgency, connect

PASSWORD = "the-wrong-secret"
SLEEP = "SELECT pg_sleep(60)"


# --- behind a pooler in transaction mode ---


@pytest.fixture
async def pooled(pgbouncer_url: str) -> AsyncIterator[Database]:
    async with Database(pgbouncer_url, size=20, prepared_statements=False) as database:
        yield database


async def test_many_lives_go_side_by_side_through_a_transaction_pooler(pooled: Database) -> None:
    async def write(job: VideoJob, change: Transition) -> VideoJob:
        async with pooled.connection() as connection:
            await jobs.write_progress(connection, job.lease.worker_id, {job.id: 50})
            return await applied(connection, job, change)

    async def live(number: int) -> list[EventType]:
        worker_id = UUID(int=number + 1)
        async with pooled.connection() as connection:
            await workers.heartbeat(connection, a_worker(number + 1))
            job = await inserted(connection, prompt=f"tram {number}")
        async with pooled.connection() as connection:
            job = await claimed(connection, job, worker_id)
        job = await write(job, lifecycle.submitting(job))
        job = await write(job, lifecycle.submitted(1, an_operation(f"video_{number}")))
        job = await write(job, lifecycle.generated(job, expires_at=None, cost_micros=None))
        job = await write(job, lifecycle.completed(job, a_video()))
        async with pooled.connection() as connection:
            assert job.status is JobStatus.COMPLETED
            return [event.type for event in await history(connection, job)]

    async with asyncio.TaskGroup() as group:
        lives = [group.create_task(live(number)) for number in range(60)]

    assert {len(life.result()) for life in lives} == {6}


async def test_of_many_claims_through_a_pooler_one_succeeds(pooled: Database) -> None:
    async with pooled.connection() as connection:
        job = await inserted(connection)

    async def claim(number: int) -> bool:
        try:
            async with pooled.connection() as connection:
                await claimed(connection, job, UUID(int=number))
        except LeaseLostError:
            return False
        return True

    async with asyncio.TaskGroup() as group:
        claims = [group.create_task(claim(number)) for number in range(1, 21)]

    assert sum(claim.result() for claim in claims) == 1


async def test_lists_images_and_duties_work_through_a_pooler(pooled: Database) -> None:
    async with pooled.connection() as connection:
        made = await jobs.insert(connection, [a_new_job() for _ in range(100)])
        image = StoredInput(job_id=made[0].id, position=0, content_type="image/png", data=b"x")
        await inputs.insert(connection, [image])

    async with pooled.connection() as connection:
        assert await inputs.of_job(connection, made[0].id) == {0: image}
        assert len(await jobs.recent(connection)) == 50
        assert len(await jobs.due_now(connection, [job.id for job in made])) == 100
        assert (await jobs.counts(connection)).waiting == 100
        assert await upkeep.take_turn(connection, "sweep", 60)
        assert await jobs.raise_epoch(connection, [made[0].id])


async def test_each_use_without_prepared_statements_is_one_transaction(
    emptied_database_url: str,
) -> None:
    async with Database(emptied_database_url, prepared_statements=False) as database:
        with suppress(LookupError):
            async with database.connection() as connection:
                await inserted(connection)
                raise LookupError

        async with database.connection() as connection:
            assert (await jobs.counts(connection)).total == 0


# --- it cannot be reached ---


@pytest.fixture
async def locked_url(shared_database_url: str) -> AsyncIterator[str]:
    """The database as a user who needs a password."""
    async with connect(shared_database_url) as connection:
        await connection.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
        with first_rule(await connection.fetchval("SHOW hba_file")):
            await connection.execute("SELECT pg_reload_conf()")
            parts = urlsplit(shared_database_url)
            url = parts._replace(netloc=f"locked:{PASSWORD}@127.0.0.1:{parts.port}").geturl()
            await until_locked(url)
            yield url
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute("DROP ROLE locked")


async def until_locked(url: str) -> None:
    """The server reads its rules a moment after it was told to."""
    async with asyncio.timeout(5):
        while True:
            try:
                await (await asyncpg.connect(url)).close()
            except asyncpg.InvalidPasswordError:
                return


@contextmanager
def first_rule(name: str) -> Iterator[None]:
    rules = Path(name)
    before = rules.read_text()
    rules.write_text(f"host all locked 127.0.0.1/32 scram-sha-256\n{before}")
    yield
    rules.write_text(before)


async def open_pool(url: str) -> None:
    async with Database(url):
        pass


async def open_one(url: str) -> None:
    async with connect(url):
        pass


@pytest.mark.parametrize("opened", [open_pool, open_one])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"host": "no.such.host.invalid"}, r"at no\.such\.host\.invalid:\d+: .*not known"),
        ({"port": "1"}, r"at 127\.0\.0\.1:1: .*Connect call failed"),
        ({"path": "/nowhere"}, 'database "nowhere" does not exist'),
        ({"user": "nobody"}, 'role "nobody" does not exist'),
        ({"query": "sslmode=require"}, "rejected SSL upgrade"),
        ({"query": "sslmode=verify-full&sslrootcert=/nowhere/ca.pem"}, "sslrootcert"),
        ({"query": "sslmode=maybe"}, "sslmode"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_what_is_wrong_with_the_address_is_said_without_the_password(
    shared_database_url: str,
    opened: Callable[[str], Awaitable[None]],
    change: dict[str, str],
    sentence: str,
) -> None:
    with pytest.raises(DatabaseError, match=sentence) as wrong:
        await opened(changed(shared_database_url, **change))

    assert PASSWORD not in str(wrong.value)
    assert "vidgen:" not in str(wrong.value)


def changed(url: str, *, host: str = "", port: str = "", user: str = "", **parts: str) -> str:
    old = urlsplit(url)
    netloc = f"{user or 'vidgen'}:{PASSWORD}@{host or old.hostname}:{port or old.port}"
    return old._replace(netloc=netloc, **parts).geturl()


async def test_a_wrong_password_is_called_so_and_not_repeated(locked_url: str) -> None:
    with pytest.raises(DatabaseError, match="password authentication failed") as wrong:
        await open_pool(locked_url)

    assert PASSWORD not in str(wrong.value)


async def test_a_database_without_our_tables_is_told_what_to_run(empty_database_url: str) -> None:
    async with Database(empty_database_url) as database:
        with pytest.raises(DatabaseError, match="run `vidgen migrate`"):
            await use(database, "SELECT 1 FROM video_jobs")


async def test_a_pooler_that_breaks_prepared_statements_is_recognised(database: Database) -> None:
    with pytest.raises(DatabaseError, match="VIDGEN_PREPARED_STATEMENTS=off"):
        await use(database, "PREPARE a AS SELECT 1", "PREPARE a AS SELECT 1")


async def test_a_server_that_takes_connections_and_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "CONNECT_TIMEOUT_S", 0.1)
    async with a_silent_server() as port:
        for opened in (open_pool, open_one):
            with pytest.raises(DatabaseError, match="no answer in time"):
                await opened(f"postgresql://me:{PASSWORD}@127.0.0.1:{port}/videos")


@asynccontextmanager
async def a_silent_server() -> AsyncIterator[int]:
    closed = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closed.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        closed.set()
        server.close()
        await server.wait_closed()


# --- it goes away while we use it ---


async def use(database: Database, *statements: str) -> None:
    async with database.connection() as connection:
        for statement in statements:
            await connection.execute(statement)


async def works(database: Database) -> bool:
    async with asyncio.timeout(5), database.connection() as connection:
        return bool(await connection.fetchval("SELECT true"))


@pytest.fixture
async def one(emptied_database_url: str) -> AsyncIterator[Database]:
    """A pool of a single connection: whoever does not give it back, stops everybody."""
    async with Database(emptied_database_url, size=1) as database:
        yield database


async def test_a_server_that_goes_away_in_mid_statement_is_our_error(one: Database) -> None:
    with pytest.raises(DatabaseError, match="terminating connection") as gone:
        await use(one, "SELECT pg_terminate_backend(pg_backend_pid())")

    assert gone.value.retryable
    assert await works(one)


async def test_connections_that_were_cut_while_idle_are_replaced(
    emptied_database_url: str,
) -> None:
    async with Database(emptied_database_url, size=2) as database:
        async with database.connection() as one, database.connection() as other:
            pids = [await each.fetchval("SELECT pg_backend_pid()") for each in (one, other)]
        async with connect(emptied_database_url) as killer:
            await killer.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM unnest($1::int[]) pid", pids
            )
        async with asyncio.timeout(5):
            await until_cut(database)

        assert [await works(database) for _ in pids] == [True, True]


async def until_cut(database: Database) -> None:
    """Until the end of all connections at hand has been seen."""
    while True:
        if not any(lives(kept.connection) for kept in database._warm):
            return
        await asyncio.sleep(0)


def lives(connection: pool.Connection) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # asyncpg has taken it away
        return False


async def test_asyncpg_looks_after_connections_now_and_then(
    emptied_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Database(emptied_database_url, size=2) as database:
        async with database.connection(), database.connection():
            pass  # both are kept for whoever comes next
        kept = idle(database)
        monkeypatch.setattr(pool, "WARM_USES", 1)

        async with database.connection(), database.connection():
            pass

        assert (kept, idle(database)) == (0, 2)
        assert await works(database)


async def test_connections_that_nobody_needs_any_more_are_closed(
    emptied_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "WARM_S", 0.05)
    async with Database(emptied_database_url, size=3) as database:
        async with database.connection() as needed:
            async with database.connection() as one, database.connection() as other:
                pids = [await each.fetchval("SELECT pg_backend_pid()") for each in (one, other)]

            async with asyncio.timeout(5):
                while await needed.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)", pids
                ):
                    pass

        assert await works(database)


async def test_a_loop_ends_without_waiting_for_connections_to_fall_idle(one: Database) -> None:
    assert await works(one)
    cooling = one._cooling

    await one.__aexit__()

    assert cooling is not None
    assert cooling.cancelled()


def idle(database: Database) -> int:
    """How many connections asyncpg has in its hands."""
    assert database._pool is not None
    return database._pool.get_idle_size()


async def test_a_statement_that_takes_too_long_is_our_error(
    emptied_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "STATEMENT_TIMEOUT_S", 0.1)
    async with Database(emptied_database_url, size=1) as database:
        with pytest.raises(DatabaseError, match="no answer in time"):
            await use(database, SLEEP)

        assert await works(database)


async def test_a_pool_in_which_all_are_busy_says_so(
    one: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ACQUIRE_TIMEOUT_S", 0.05)
    async with one.connection():
        with pytest.raises(DatabaseError, match="at most 1 are used at once"):
            await works(one)

    assert await works(one)


async def test_of_those_who_wait_for_a_connection_the_most_urgent_goes_first(one: Database) -> None:
    served: list[Urgency] = []

    async def serve(urgency: Urgency) -> None:
        async with one.connection(urgency) as connection:
            served.append(urgency)
            await connection.fetchval("SELECT 1")

    async with asyncio.TaskGroup() as group, one.connection():
        for urgency in reversed(Urgency):
            group.create_task(serve(urgency))
        await asyncio.sleep(0)

    assert served == list(Urgency)


async def test_whoever_is_cancelled_gives_the_connection_back(one: Database) -> None:
    with pytest.raises(TimeoutError):  # of our own, and so not an error of the database
        async with asyncio.timeout(0.1):
            await use(one, SLEEP)

    assert await works(one)


@pytest.mark.parametrize("prepared_statements", [True, False])
async def test_whoever_is_cancelled_does_not_wait_for_a_server_that_hangs(
    emptied_database_url: str, prepared_statements: bool
) -> None:
    loop = asyncio.get_running_loop()
    parts = urlsplit(emptied_database_url)
    async with proxy_of(parts.port or 0) as proxy:
        url = parts._replace(netloc=f"vidgen@127.0.0.1:{proxy.port}").geturl()
        async with Database(url, size=1, prepared_statements=prepared_statements) as database:
            proxy.mute()
            began = loop.time()

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await use(database, "SELECT 1")

            assert loop.time() - began < 1
            await proxy.restore()
            assert await works(database)


async def test_an_error_of_the_borrower_stays_what_it_is(one: Database) -> None:
    with pytest.raises(LookupError):
        async with one.connection():
            raise LookupError

    assert await works(one)


@pytest.mark.parametrize(
    "statement",
    [
        "SET TRANSACTION READ ONLY; DELETE FROM workers",  # a former primary
        "SET lock_timeout = '10ms'; LOCK TABLE upkeep",
        "SET statement_timeout = '10ms'; SELECT pg_sleep(60)",
        "DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$",  # deadlock
        "DO $$ BEGIN RAISE SQLSTATE '40001'; END $$",  # serialization
        "DO $$ BEGIN RAISE SQLSTATE '53100'; END $$",  # disk full
        "DO $$ BEGIN RAISE SQLSTATE '53300'; END $$",  # too many connections
        "DO $$ BEGIN RAISE SQLSTATE '57P03'; END $$",  # starting up
        "DO $$ BEGIN RAISE SQLSTATE '58030'; END $$",  # input or output
        "DO $$ BEGIN RAISE SQLSTATE 'XX000'; END $$",  # what poolers say of everything
    ],
)
async def test_what_a_struggling_server_says_is_our_error(
    one: Database, emptied_database_url: str, statement: str
) -> None:
    async with connect(emptied_database_url) as other, other.transaction():
        await other.execute("LOCK TABLE upkeep")

        with pytest.raises(DatabaseError):
            await use(one, statement)

    await use(one, "RESET ALL")
    assert await works(one)


@pytest.mark.parametrize("prepared_statements", [True, False])
async def test_after_a_fail_over_the_new_primary_is_found(
    server_folder: Path, prepared_statements: bool
) -> None:
    with two_servers(server_folder) as (old, new):
        await migrate(new.url)
        await migrate(old.url)
        async with proxy_of(port_of(old)) as proxy:
            url = old.url.replace(str(port_of(old)), str(proxy.port))
            async with Database(url, size=3, prepared_statements=prepared_statements) as database:
                async with database.connection(), database.connection(), database.connection():
                    pass  # three connections are open, and stay so
                await become_read_only(old)
                proxy.target_port = port_of(new)

                async with database.connection() as reading:
                    with pytest.raises(DatabaseError, match="read-only"):
                        await beat(database)
                    await reading.fetchval("SELECT 1")  # ends well, and leads there all the same

                for _ in range(3):
                    await beat(database)


async def test_of_several_hosts_the_one_that_takes_writes_is_used(server_folder: Path) -> None:
    with two_servers(server_folder) as (old, new):
        await become_read_only(old)
        hosts = f"127.0.0.1:{port_of(old)},127.0.0.1:{port_of(new)}"
        url = f"postgresql://vidgen@{hosts}/postgres?target_session_attrs=read-write"
        url = Settings(database_url=url).database_url

        assert await migrate(url)
        async with Database(url) as database:
            await beat(database)


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    try:
        with (
            PostgresServer(folder / "old-primary", durable=False) as old,
            PostgresServer(folder / "new-primary", durable=False) as new,
        ):
            yield old, new
    finally:  # the next test wants new ones
        shutil.rmtree(folder / "old-primary")
        shutil.rmtree(folder / "new-primary")


def port_of(server: PostgresServer) -> int:
    return urlsplit(server.url).port or 0


async def become_read_only(server: PostgresServer) -> None:
    async with connect(server.url) as connection:
        await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await connection.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(5):  # the server reads it a moment after it was told to
        while True:
            async with connect(server.url) as connection:
                if await connection.fetchval("SHOW default_transaction_read_only") == "on":
                    return


async def beat(database: Database) -> None:
    async with asyncio.timeout(5), database.connection() as connection:
        await workers.heartbeat(connection, a_worker())


async def test_a_mistake_of_ours_is_no_trouble_of_the_server(one: Database) -> None:
    with pytest.raises(InternalError, match="PostgresSyntaxError"):
        await use(one, "SELEKT 1")


async def test_leaving_does_not_wait_for_ever_for_those_who_are_busy(
    emptied_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "CONNECT_TIMEOUT_S", 0.1)
    database = Database(emptied_database_url, size=1)
    await database.__aenter__()

    async with asyncio.TaskGroup() as group:
        busy = group.create_task(keep_busy(database))
        async with asyncio.timeout(5):
            await until_busy(database)
        await database.__aexit__(None, None, None)

    assert busy.done()


async def keep_busy(database: Database) -> None:
    with pytest.raises(DatabaseError):
        await use(database, SLEEP)


async def until_busy(database: Database) -> None:
    assert database._pool is not None
    while True:
        if database._pool.get_idle_size() == 0:
            return
        await asyncio.sleep(0)
