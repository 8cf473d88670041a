"""PostgreSQL and Redis as they should be, and in every way in which they are not."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import pytest
from redis.asyncio import Redis

from tests.builders import a_worker
from tests.doctor.conftest import NOBODY, changed
from tests.store.conftest import inserted
from vidgen.doctor import servers
from vidgen.doctor.finding import Finding, State
from vidgen.job import VideoRequest
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.store import budgets, workers

NEVER = "vidgen_never"  # no database has this name


@pytest.fixture
async def connection(well: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(well.database_url, timeout=10)
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


@pytest.fixture
async def with_password(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> AsyncIterator[str]:
    """A user that PostgreSQL asks for a password."""
    file = await connection.fetchval("SHOW hba_file")
    await connection.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    with rules_with(file, "host all guarded 127.0.0.1/32 scram-sha-256"):
        await connection.execute("SELECT pg_reload_conf()")
        yield "guarded"
    await connection.execute("SELECT pg_reload_conf()")
    await connection.execute("DROP ROLE guarded")


@contextmanager
def rules_with(file: str, first: str) -> Iterator[None]:
    """One more rule before all others that PostgreSQL has in *file*."""
    before = Path(file).read_text()
    Path(file).write_text(f"{first}\n{before}")
    try:
        yield
    finally:
        Path(file).write_text(before)


@asynccontextmanager
async def answering(facts: Mapping[str, str]) -> AsyncIterator[str]:
    """The address of something that answers INFO as a server with *facts* would."""
    text = "".join(f"{name}:{value}\r\n" for name, value in facts.items()).encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readline():
                words = []
                for _ in range(int(head[1:])):
                    length = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(length + 2))[:-2].upper())
                if words[0] == b"INFO":
                    writer.write(b"$%d\r\n%b\r\n" % (len(text), text))
                else:
                    writer.write(b"-ERR unknown command\r\n")
                await writer.drain()
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


def told(finding: Finding) -> tuple[State, str]:
    assert bool(finding.remedy) is (finding.state is not State.OK)
    return finding.state, finding.sentence


# --- PostgreSQL ---


async def test_a_good_postgresql_tells_its_version(well: Settings) -> None:
    state, sentence = told(await servers.postgresql(well))

    assert state is State.OK
    assert sentence.startswith("version 1")


async def test_a_postgresql_that_is_away_or_lacks_the_database_is_a_problem(
    well: Settings,
) -> None:
    away = changed(well, database_url=f"postgresql://vidgen@{NOBODY}/none")
    address = well.database_url.rpartition("/")[0]
    missing = changed(well, database_url=f"{address}/{NEVER}")

    assert (await servers.postgresql(away)).state is State.PROBLEM
    finding = await servers.postgresql(missing)
    assert finding.state is State.PROBLEM
    assert f'database "{NEVER}" does not exist' in finding.sentence
    assert "createdb" in finding.remedy


async def test_a_wrong_password_is_a_problem_and_a_right_one_is_none(
    well: Settings, with_password: str
) -> None:
    place = well.database_url.partition("@")[2]

    def by(password: str) -> Settings:
        return changed(well, database_url=f"postgresql://{with_password}:{password}@{place}")

    # The server reads its rules anew when it gets to it.
    async with asyncio.timeout(10):
        while (refused := await servers.postgresql(by("wrong"))).state is not State.PROBLEM:
            pass

    assert "password authentication failed" in refused.sentence
    assert "wrong" not in refused.sentence
    assert "password" in refused.remedy
    assert (await servers.postgresql(by("right"))).state is State.OK


async def test_a_postgresql_that_takes_no_writes_is_a_problem(
    well: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    name = well.database_url.rpartition("/")[2]
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    state, sentence = told(await servers.postgresql(well))

    assert state is State.PROBLEM
    assert "takes no writes" in sentence


async def test_a_postgresql_without_room_for_a_pool_is_a_warning(well: Settings) -> None:
    state, sentence = told(await servers.postgresql(changed(well, database_pool_size=500)))

    assert state is State.WARNING
    assert "of 300 connections are taken, and one process wants up to 500" in sentence


# --- the schema ---


async def test_a_schema_that_was_never_made_is_a_problem(
    well: Settings, empty_database_url: str
) -> None:
    finding = await servers.schema(changed(well, database_url=empty_database_url))

    assert told(finding)[0] is State.PROBLEM
    assert finding.sentence.startswith("lacks 0001_initial, ")
    assert "vidgen migrate" in finding.remedy


async def test_a_schema_may_be_newer_but_no_step_may_be_another_one(
    well: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    current = await servers.schema(well)
    await connection.execute("INSERT INTO vidgen_migrations VALUES (9999, '9999_x', 'x')")
    newer = await servers.schema(well)
    await connection.execute("UPDATE vidgen_migrations SET sha256 = 'x' WHERE version = 1")
    altered = await servers.schema(well)

    assert told(current)[0] is State.OK
    assert told(newer) == (State.OK, "newer than this release, which is all right; steps ahead: 1")
    assert told(altered)[0] is State.PROBLEM
    assert "0001_initial was applied with another content" in altered.sentence


# --- Redis ---


async def test_a_good_redis_tells_which_one_it_is(well: Settings) -> None:
    state, sentence = told(await servers.redis(well))
    memory = await servers.eviction(well)

    assert state is State.OK
    assert sentence.split()[0] in {"Valkey", "Redis"}
    assert told(memory)[0] is State.OK
    assert memory.sentence.startswith("noeviction; ")


async def test_a_redis_that_is_away_is_a_problem(well: Settings) -> None:
    finding = await servers.redis(changed(well, redis_url=f"redis://{NOBODY}/0"))

    assert told(finding)[0] is State.PROBLEM
    assert "REDIS_URL" in finding.remedy


async def test_a_redis_that_refuses_the_password_or_asking_is_a_problem(well: Settings) -> None:
    place = well.redis_url.partition("//")[2]
    async with Redis.from_url(well.redis_url) as redis:
        await redis.acl_setuser("blind", enabled=True, passwords=["+right"], commands=["+ping"])
        try:
            wrong = await servers.redis(changed(well, redis_url=f"redis://blind:wrong@{place}"))
            blind = await servers.redis(changed(well, redis_url=f"redis://blind:right@{place}"))
        finally:
            await redis.acl_deluser("blind")

    assert told(wrong) == (State.PROBLEM, "it refuses user or password")
    assert told(blind) == (State.PROBLEM, "the user may not ask INFO")


@pytest.mark.parametrize(
    ("limit", "state", "words"),
    [
        ("100mb", State.PROBLEM, "at 100.0 MiB it throws keys away (allkeys-lru)"),
        ("0", State.WARNING, "allkeys-lru: once it gets a limit it will throw keys away"),
    ],
    ids=["limited", "unlimited"],
)
async def test_a_redis_that_throws_keys_away_is_told(
    well: Settings, limit: str, state: State, words: str
) -> None:
    async with Redis.from_url(well.redis_url) as redis:
        await redis.config_set("maxmemory", limit)
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            finding = await servers.eviction(well)
        finally:
            await redis.config_set("maxmemory-policy", "noeviction")
            await redis.config_set("maxmemory", "0")

    assert told(finding)[0] is state
    assert words in finding.sentence
    assert "noeviction" in finding.remedy


async def test_a_redis_that_is_nearly_full_is_a_warning(well: Settings) -> None:
    async with Redis.from_url(well.redis_url) as redis:
        used = (await redis.info("memory"))["used_memory"]
        await redis.config_set("maxmemory", used)
        try:
            finding = await servers.eviction(well)
        finally:
            await redis.config_set("maxmemory", "0")

    assert told(finding)[0] is State.WARNING
    assert "when it is full, new jobs start late" in finding.sentence


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"redis_version": "5.0.14"}, "Redis 5.0.14: it must be 6.2 or newer"),
        ({"redis_version": "6.0.16"}, "Redis 6.0.16: it must be 6.2 or newer"),
        (
            {"redis_version": "7.2.4", "valkey_version": "9.1.0", "redis_mode": "cluster"},
            "Valkey 9.1.0 in cluster mode, which arq does not speak",
        ),
        ({"redis_version": "7.4.0", "role": "slave"}, "Redis 7.4.0, a replica: it takes no writes"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
async def test_a_redis_that_will_not_do_is_a_problem(
    well: Settings, facts: dict[str, str], sentence: str
) -> None:
    async with answering(facts) as url:
        assert told(await servers.redis(changed(well, redis_url=url))) == (State.PROBLEM, sentence)


async def test_a_redis_that_says_little_is_taken_with_a_warning(well: Settings) -> None:
    async with answering({"redis_version": "6.2.0", "role": "master"}) as url:
        silent = changed(well, redis_url=url)

        assert told(await servers.redis(silent)) == (State.OK, "Redis 6.2.0")
        assert told(await servers.eviction(silent))[0] is State.WARNING


# --- who works ---


async def test_a_queue_that_nobody_works_on_is_a_warning(
    well: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with VideoQueue(well) as queue:
        nobody = await servers.workers(well)
        await workers.heartbeat(connection, a_worker())
        somebody = await servers.workers(well)
        await queue.pause("sora")
        paused = await servers.workers(well)
        await queue.resume("sora")
        job = await queue.enqueue(VideoRequest(provider="sora", prompt="a tram"))
        await connection.execute(
            "UPDATE video_jobs SET due_at = now() - interval '1 hour' WHERE id = $1", job.id
        )
        late = await servers.workers(well)

    assert told(nobody) == (State.WARNING, "no worker is alive: jobs wait")
    assert told(somebody) == (State.OK, "1 alive")
    assert told(paused) == (State.WARNING, "1 alive; paused: sora")
    assert told(late) == (State.WARNING, "1 alive; the oldest job has waited for 60 min")


async def test_a_budget_whose_count_went_wrong_is_a_problem(
    well: Settings, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    none = await servers.money(well)
    await budgets.put(connection, "all", "day", 1_000_000, "test")
    await inserted(connection)
    near = await servers.money(well)
    await connection.execute("UPDATE budget_use SET spent_micros = 7")
    wrong = await servers.money(well)

    assert [each.state for each in (none, near, wrong)] == [
        State.OK,
        State.WARNING,
        State.PROBLEM,
    ]
    assert "all by day: $0.80 counted" in wrong.sentence
