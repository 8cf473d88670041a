"""The schema comes once, whoever asks for it, and however often."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.builders import a_worker
from vidgen.errors import DatabaseError
from vidgen.store import migrate as module
from vidgen.store import workers
from vidgen.store.migrate import Migration, migrate, migrations
from vidgen.store.pool import Connection, connect

LEASE_TTL_S = 15  # by default; a heartbeat gives up after a third of it
NAMES = [migration.name for migration in migrations()]


async def tables(dsn: str) -> set[str]:
    async with connect(dsn) as connection:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row["tablename"] for row in rows}


async def execute(dsn: str, statement: str) -> None:
    async with connect(dsn) as connection:
        await connection.execute(statement)


def test_migrations_are_numbered_upwards_and_each_number_is_used_once() -> None:
    versions = [migration.version for migration in migrations()]

    assert versions[0] == 1
    assert versions == sorted(set(versions))


async def test_a_step_that_comes_with_a_smaller_number_later_is_applied_all_the_same(
    empty_database_url: str,
) -> None:
    """Two branches of work number their steps beforehand; whichever is released first."""
    await migrate(empty_database_url)
    await execute(empty_database_url, "ALTER TABLE video_jobs DROP COLUMN traceparent")
    await execute(empty_database_url, "DELETE FROM vidgen_migrations WHERE version = 3")

    assert await migrate(empty_database_url) == ["0003_trace"]


async def test_a_fresh_database_gets_every_step(empty_database_url: str) -> None:
    assert await migrate(empty_database_url) == NAMES
    assert {"video_jobs", "job_events", "job_inputs", "workers", "upkeep"} <= await tables(
        empty_database_url
    )


async def test_a_second_run_finds_nothing_to_do(empty_database_url: str) -> None:
    await migrate(empty_database_url)

    assert await migrate(empty_database_url) == []


async def test_of_ten_at_once_one_does_the_work(empty_database_url: str) -> None:
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(migrate(empty_database_url)) for _ in range(10)]

    assert sorted(run.result() for run in runs) == [[]] * 9 + [NAMES]


async def test_an_edited_file_is_refused_and_changes_nothing(database_url: str) -> None:
    await execute(database_url, "UPDATE vidgen_migrations SET sha256 = 'other' WHERE version = 1")
    await execute(database_url, "DROP TABLE upkeep")

    with pytest.raises(DatabaseError, match="0001_initial was applied with another content"):
        await migrate(database_url)

    assert "upkeep" not in await tables(database_url)


async def test_a_newer_schema_is_left_alone(database_url: str) -> None:
    await execute(
        database_url,
        "INSERT INTO vidgen_migrations (version, name, sha256) VALUES (9999, '9999_new', 'x')",
    )

    assert await migrate(database_url) == []


async def test_a_step_that_fails_leaves_nothing_behind(empty_database_url: str) -> None:
    await execute(empty_database_url, "CREATE TABLE upkeep (duty text)")  # in the way of 0001

    with pytest.raises(asyncpg.DuplicateTableError):
        await migrate(empty_database_url)

    assert await tables(empty_database_url) == {"upkeep"}


async def test_another_process_that_never_ends_is_an_error_with_a_sentence(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    async with connect(empty_database_url) as other:
        await other.execute("SELECT pg_advisory_lock($1)", module.LOCK_KEY)

        with pytest.raises(DatabaseError, match="another process has been migrating"):
            await migrate(empty_database_url)


# --- beside a release that works ---


@contextmanager
def of_release(steps: int) -> Iterator[None]:
    """Know the first *steps* migrations only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "migrations", lambda: migrations()[:steps])
        yield


@asynccontextmanager
async def dumping(dsn: str) -> AsyncIterator[None]:
    """Somebody reads all tables in one long transaction, as pg_dump does."""
    async with connect(dsn) as dump, dump.transaction(isolation="repeatable_read"):
        await dump.fetch("SELECT * FROM video_jobs")
        yield


async def test_an_index_is_dropped_after_the_one_that_replaces_it_was_built(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    better = """
        CREATE INDEX video_jobs_better ON video_jobs (completed_at DESC, id);
        DROP INDEX video_jobs_ended;
    """
    steps = [*migrations()[:4], Migration(version=5, name="0005_better", sql=better)]
    monkeypatch.setattr(module, "migrations", lambda: steps)

    async with asyncio.timeout(20):
        assert await migrate(empty_database_url) == [step.name for step in steps]

    assert await indexes(empty_database_url) == {"video_jobs_better": True}


# As an older release writes it.
NEW_JOB = """
    INSERT INTO video_jobs (id, provider, model, prompt, fingerprint, max_attempts, deadline_s)
    VALUES (gen_random_uuid(), 'sora', 'sora-2', 'a tram', 'f', 3, 1800)
"""
BLOCKED = """
    SELECT count(*) > 0 FROM pg_locks WHERE relation = 'video_jobs'::regclass AND NOT granted
"""
BUILDING = """
    SELECT count(*) > 0 FROM pg_stat_progress_create_index
    WHERE datname = current_database() AND phase LIKE 'waiting for%'
"""


async def until(connection: Connection, fact: str) -> None:
    async with asyncio.timeout(20):
        while True:
            if await connection.fetchval(fact):
                return
            await asyncio.sleep(0.005)


async def test_workers_go_on_while_a_step_waits_for_a_table(empty_database_url: str) -> None:
    with of_release(2):
        await migrate(empty_database_url)
    with of_release(3):
        async with (
            asyncio.TaskGroup() as group,
            connect(empty_database_url) as worker,
            dumping(empty_database_url),
        ):
            step = group.create_task(migrate(empty_database_url))
            for _ in range(2):
                await until(worker, BLOCKED)
                async with asyncio.timeout(LEASE_TTL_S / 3):
                    await workers.heartbeat(worker, a_worker())
                assert not step.done()

    assert step.result() == ["0003_trace"]


async def test_a_table_that_is_never_let_go_is_an_error_with_a_sentence(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    with of_release(2):
        await migrate(empty_database_url)

    with of_release(4):
        async with dumping(empty_database_url):
            with pytest.raises(DatabaseError, match="0003_trace got no lock on a table"):
                await migrate(empty_database_url)

        assert await migrate(empty_database_url) == ["0003_trace", "0004_steering"]


async def test_workers_go_on_while_an_index_on_an_older_table_is_built(
    empty_database_url: str,
) -> None:
    with of_release(3):
        await migrate(empty_database_url)
    with of_release(4):
        async with (
            asyncio.TaskGroup() as group,
            connect(empty_database_url) as worker,
            connect(empty_database_url) as slow,
            slow.transaction(),
        ):
            await slow.execute(NEW_JOB)  # the index waits for this one
            step = group.create_task(migrate(empty_database_url))
            await until(worker, BUILDING)
            async with asyncio.timeout(LEASE_TTL_S / 3):
                await worker.execute(NEW_JOB)
            assert not step.done()

    assert step.result() == ["0004_steering"]
    assert await indexes(empty_database_url) == {"video_jobs_ended": True}


async def test_an_index_that_was_not_finished_is_built_anew_by_the_next_start(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with of_release(3):
        await migrate(empty_database_url)
    with of_release(4):
        async with connect(empty_database_url) as slow, slow.transaction():
            await slow.execute(NEW_JOB)
            with monkeypatch.context() as patch:
                patch.setattr(module, "BUILD_TIMEOUT_S", 0.2)
                assert await migrate(empty_database_url) == ["0004_steering"]
        assert await indexes(empty_database_url) == {"video_jobs_ended": False}

        assert await migrate(empty_database_url) == []

    assert await indexes(empty_database_url) == {"video_jobs_ended": True}
    async with connect(empty_database_url) as connection:
        assert not await connection.fetch("SELECT FROM vidgen_pending_indexes")


async def indexes(dsn: str) -> dict[str, bool]:
    """Those that are built beside a release that works, and whether they are whole."""
    async with connect(dsn) as connection:
        rows = await connection.fetch(
            """
            SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
            WHERE relname IN ('video_jobs_ended', 'video_jobs_better')
            """
        )
    return {row["relname"]: row["indisvalid"] for row in rows}


def test_no_statement_of_a_step_is_lost_when_its_indexes_are_built_apart() -> None:
    for migration in migrations():
        known = re.findall(r"INDEX (?:CONCURRENTLY )?(\w+) ON", migration.transaction)
        whole = re.findall(r"INDEX (\w+) ON", migration.sql)
        built = [name for name, statement in migration.indexes if statement.startswith("CREATE")]
        assert sorted([*known, *built]) == sorted(whole)
        assert "DROP INDEX" not in migration.transaction
        # Comments and statements are found by their signs: these would look like some.
        texts = re.findall(r"'[^']*'", re.sub(r"--.*", "", migration.sql))
        assert not [text for text in texts if ";" in text]
        bodies = re.findall(r"\$\$.*?\$\$", migration.sql, re.DOTALL)
        assert not [body for body in bodies if "INDEX" in body or "--" in body]


async def test_it_works_through_a_transaction_pooler(pgbouncer_url: str) -> None:
    assert await migrate(pgbouncer_url) == []


async def test_a_database_that_is_not_there_is_named() -> None:
    with pytest.raises(DatabaseError, match=r"PostgreSQL at 127\.0\.0\.1:1\b"):
        await migrate("postgresql://me:secret@127.0.0.1:1/videos")


def test_every_step_of_the_package_is_plain_sql() -> None:
    folder = Path(module.__file__).parent / "migrations"

    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == [
        f"{name}.sql" for name in NAMES
    ]
