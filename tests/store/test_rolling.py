"""
Two releases side by side: a deploy migrates the schema while workers of the release before go on.
"""

import re
from collections.abc import AsyncIterator

import pytest

from tests.builders import WORKER, a_job, a_new_job, a_worker, targets
from tests.store.conftest import applied, claimed, history, inserted
from vidgen import lifecycle
from vidgen.errors import DatabaseError, InvalidRequestError, InvalidStateError, LeaseLostError
from vidgen.job import EventType, Stage
from vidgen.store import jobs, workers
from vidgen.store.jobs import Unknown
from vidgen.store.migrate import migrate, migrations
from vidgen.store.pool import Database, connect
from vidgen.store.rows import request_of

# What a later release may do to each table as long as this one runs.
EXPAND = """
ALTER TABLE video_jobs ADD COLUMN tomorrow text NOT NULL DEFAULT 'x';
ALTER TABLE job_events ADD COLUMN tomorrow jsonb;
ALTER TABLE workers ADD COLUMN tomorrow integer;
CREATE TABLE tomorrow (id uuid PRIMARY KEY);
INSERT INTO vidgen_migrations (version, name, sha256) VALUES (9999, '9999_tomorrow', 'x');
"""
CONTRACTS = re.compile(
    r"\b(DROP\s+(TABLE|COLUMN|TYPE)|RENAME|ALTER\s+COLUMN\s+\w+\s+(SET\s+DATA\s+)?TYPE|SET\s+NOT\s+NULL"
    r"|CREATE\s+INDEX\s+CONCURRENTLY)\b",
    re.IGNORECASE,
)
ADDS_A_DUTY = re.compile(r"ADD COLUMN\s+\w+\s+[^,;]*NOT NULL(?![^,;]*DEFAULT)", re.IGNORECASE)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, size=2) as database:
        yield database


@pytest.mark.parametrize("migration", migrations()[1:], ids=lambda migration: migration.name)
def test_a_later_step_leaves_everything_that_the_release_before_uses(migration: object) -> None:
    sql = re.sub(r"--.*", "", getattr(migration, "sql", ""))

    assert not CONTRACTS.search(sql)
    assert not ADDS_A_DUTY.search(sql)


async def test_a_worker_goes_on_over_the_migration_of_the_next_release(
    database: Database, database_url: str
) -> None:
    async with database.connection() as connection:  # its statements are prepared from here on
        job = await claimed(connection, await inserted(connection))
        await workers.heartbeat(connection, a_worker())
        job = await applied(connection, job, lifecycle.submitting(job))
    async with connect(database_url) as deploy:
        await deploy.execute(EXPAND)

    async with database.connection() as connection:
        receipt = lifecycle.submitted(job.attempt, a_job(Stage.GENERATING).operation)  # type: ignore[arg-type]  # this stage has one
        job = await applied(connection, job, receipt)
        await workers.heartbeat(connection, a_worker())
        told = await history(connection, job)

    assert job.stage is Stage.GENERATING
    assert [event.type for event in told][-1] is EventType.SUBMITTED
    assert job.worker_id == WORKER


async def test_a_transaction_that_meets_the_migration_is_refused_as_a_passing_trouble(
    database: Database, database_url: str
) -> None:
    async with database.connection() as connection:
        await jobs.insert(connection, [a_new_job()])
    async with connect(database_url) as deploy:
        await deploy.execute(EXPAND)

    with pytest.raises(DatabaseError):
        async with database.connection() as connection, connection.transaction():
            await jobs.insert(connection, [a_new_job()])

    async with database.connection() as connection, connection.transaction():
        [job] = await jobs.insert(connection, [a_new_job()])
    assert job.stage is Stage.QUEUED


async def test_events_of_a_newer_release_are_left_out(database: Database) -> None:
    async with database.connection() as connection:
        job = await inserted(connection)
        await connection.execute(
            """
            INSERT INTO job_events (job_id, type, status, stage, attempt, progress)
            VALUES ($1, 'teleported', 'pending', 'queued', 0, 0)
            """,
            job.id,
        )

        assert [event.type for event in await history(connection, job)] == [EventType.CREATED]


async def test_a_job_in_a_state_of_a_newer_release_is_listed_as_it_is_and_not_touched(
    database: Database,
) -> None:
    async with database.connection() as connection:
        due, held_, failed = [await inserted(connection) for _ in range(3)]
        await connection.execute("ALTER TABLE video_jobs DROP CONSTRAINT video_jobs_stage_check")
        await connection.execute(
            "UPDATE video_jobs SET status = 'processing', stage = 'upscaling', attempt = 1,"
            " intent_at = now()"
        )
        await connection.execute(
            "UPDATE video_jobs SET worker_id = $2, due_at = NULL WHERE id = $1", held_.id, WORKER
        )
        await connection.execute(
            "UPDATE video_jobs SET status = 'failed', due_at = NULL, completed_at = now(),"
            " error_code = 'x', error_message = 'x' WHERE id = $1",
            failed.id,
        )

        listed = {job.id: job for job in await jobs.recent(connection)}
        assert {(job.stage, job.is_known) for job in listed.values()} == {("upscaling", False)}
        assert await jobs.orphaned(connection, 15, 10) == []
        assert await jobs.held_by(connection, WORKER) == []
        assert await jobs.due(connection, overdue_s=-1, after=None, limit=10) == []
        assert await jobs.due_now(connection, list(listed)) == []
        assert await jobs.unknown(connection) == [
            Unknown(status="processing", stage="upscaling", jobs=2)
        ]
        with pytest.raises(LeaseLostError):
            await claimed(connection, due)
        with pytest.raises(InvalidStateError, match="a newer release"):
            lifecycle.retried(listed[failed.id], max_attempts=3)
        everything = {"provider": None, "code": None, "user_id": None, "scene_id": None}
        assert await jobs.failed(connection, **everything, limit=10) == []


async def test_a_request_of_a_newer_release_is_made_unless_it_asks_for_what_we_do_not_know() -> (
    None
):
    empty = a_job(parameters={"seconds": 8, "fps": None, "images": [{"url": "x", "mask": None}]})
    wish = a_job(parameters={"seconds": 8, "fps": 60})

    assert request_of(empty).seconds == 8
    with pytest.raises(InvalidRequestError, match="too old for fps"):
        request_of(wish)


async def test_an_old_release_leaves_a_newer_schema_alone(database_url: str) -> None:
    async with connect(database_url) as deploy:
        await deploy.execute(EXPAND)

    assert await migrate(database_url) == []


async def test_a_worker_of_the_release_before_leaves_a_job_with_fallbacks_or_a_ceiling_alone(
    database: Database,
) -> None:
    claim = (
        "UPDATE video_jobs SET status = 'processing', worker_id = $2, due_at = NULL, opener_id = $2"
    )
    async with database.connection() as connection:
        plain = await inserted(connection)
        routed, capped = [
            (await jobs.insert(connection, [a_new_job(**more)]))[0]
            for more in (targets(1, 2), {"max_cost_micros": 5})
        ]

        taken = [
            await connection.execute(f"{claim} WHERE id = $1", job.id, WORKER)
            for job in (plain, routed, capped)
        ]

        assert taken == ["UPDATE 1", "UPDATE 0", "UPDATE 0"]
        assert (await claimed(connection, routed)).worker_id == WORKER


async def test_what_the_release_before_archives_keeps_no_words_of_its_fallbacks(
    database: Database,
) -> None:
    async with database.connection() as connection:
        [job] = await jobs.insert(connection, [a_new_job(**targets(1, 2))])
        await connection.execute(
            "UPDATE video_jobs SET archived_at = now(), prompt = '', parameters = '{}'"
            " WHERE id = $1",
            job.id,
        )

        archived = await jobs.get(connection, job.id)

    assert archived is not None
    assert (archived.target_parameters, len(archived.targets)) == ((), 2)
