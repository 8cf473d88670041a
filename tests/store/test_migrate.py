"""The schema comes once, whoever asks for it, and however often."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from vidgen.errors import DatabaseError
from vidgen.store import migrate as module
from vidgen.store.migrate import migrate, migrations
from vidgen.store.pool import connect

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


async def test_a_lock_that_is_never_let_go_is_an_error_with_a_sentence(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.05)
    async with connect(database_url) as other:
        await other.execute("SELECT pg_advisory_lock($1)", module.LOCK_KEY)

        with pytest.raises(DatabaseError, match="lock timeout"):
            await migrate(database_url)


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
