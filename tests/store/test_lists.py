"""What sweep, retention, progress and the lists find."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.builders import WORKER, a_new_job, a_worker
from tests.store.conftest import aged, applied, claimed, completed, held, history, inserted
from vidgen import lifecycle
from vidgen.errors import InternalError, InvalidStateError, LeaseLostError, OperationTakenError
from vidgen.job import EventType, JobStatus, Stage, VideoJob
from vidgen.store import events, inputs, jobs, workers
from vidgen.store.inputs import StoredInput
from vidgen.store.jobs import Counts
from vidgen.store.pool import Connection, Database
from vidgen.store.rows import DueJob

OTHER = UUID(int=2)
DAY = timedelta(days=1)


async def failed(connection: Connection, job: VideoJob) -> VideoJob:
    return await applied(connection, job, lifecycle.failed(job, InternalError("a defect")))


# --- orphans ---


async def test_the_jobs_of_a_silent_worker_are_orphans(connection: Connection) -> None:
    job = await held(connection, Stage.GENERATING)
    await workers.heartbeat(connection, a_worker(1))
    assert await jobs.orphaned(connection, 15, 10) == []

    await connection.execute("UPDATE workers SET heartbeat_at = now() - interval '16 s'")

    assert await jobs.orphaned(connection, 15, 10) == [job]
    assert await jobs.orphaned(connection, 60, 10) == []


async def test_the_jobs_of_a_worker_that_is_not_there_are_orphans(connection: Connection) -> None:
    job = await held(connection)
    await inserted(connection)

    assert await jobs.orphaned(connection, 15, 10) == [job]
    assert await jobs.held_by(connection, WORKER) == [job]
    assert await jobs.held_by(connection, WORKER, but=[job.id]) == []
    assert await jobs.held_by(connection, OTHER) == []


async def test_a_batch_of_orphans_is_bounded(connection: Connection) -> None:
    for _ in range(3):
        await held(connection)

    assert len(await jobs.orphaned(connection, 15, 2)) == 2


# --- due ---


async def test_due_jobs_come_longest_first_page_by_page(connection: Connection) -> None:
    made = await jobs.insert(connection, [a_new_job(priority=number) for number in range(5)])
    for number, job in enumerate(made):
        await aged(connection, job, "due_at", timedelta(minutes=number))
    await held(connection)

    pages: list[list[DueJob]] = []
    after: DueJob | None = None
    while page := await jobs.due(connection, overdue_s=30, after=after, limit=2):
        pages.append(page)
        after = page[-1]

    assert [[job.priority for job in page] for page in pages] == [[4, 3], [2, 1]]


async def test_jobs_that_became_due_at_the_same_moment_are_all_found(
    connection: Connection,
) -> None:
    made = await jobs.insert(connection, [a_new_job() for _ in range(5)])
    await connection.execute("UPDATE video_jobs SET due_at = now() - interval '1 hour'")

    first = await jobs.due(connection, overdue_s=1, after=None, limit=3)
    second = await jobs.due(connection, overdue_s=1, after=first[-1], limit=3)

    assert [job.id for job in first + second] == sorted(job.id for job in made)


async def test_only_what_nobody_holds_and_is_due_is_due_now(connection: Connection) -> None:
    due = await inserted(connection)
    taken = await held(connection)
    later = await inserted(connection, run_at=datetime.now(UTC) + DAY)
    done = await completed(connection)

    found = await jobs.due_now(connection, [due.id, taken.id, later.id, done.id, UUID(int=9)])

    assert [job.id for job in found] == [due.id]


async def test_a_raised_epoch_names_a_new_dispatch_of_unheld_jobs_only(
    connection: Connection,
) -> None:
    due, taken = await inserted(connection), await held(connection)

    [raised] = await jobs.raise_epoch(connection, [due.id, taken.id])

    assert (raised.id, raised.lease_epoch) == (due.id, 1)
    assert await jobs.get(connection, taken.id) == taken
    assert (await claimed(connection, due)).lease_epoch == 2


# --- progress ---


async def test_progress_of_many_jobs_is_written_in_one_go_and_never_backwards(
    connection: Connection,
) -> None:
    forward, backward = (
        await held(connection, Stage.GENERATING),
        await held(connection, Stage.GENERATING),
    )
    await jobs.write_progress(connection, WORKER, {backward.id: 80})

    await jobs.write_progress(connection, WORKER, {forward.id: 30, backward.id: 50})

    assert await progress_of(connection, forward) == 30
    assert await progress_of(connection, backward) == 80


@pytest.mark.parametrize("stage", [Stage.QUEUED, Stage.SUBMITTING, Stage.TRANSFERRING])
async def test_progress_is_written_of_what_is_being_generated_only(
    connection: Connection, stage: Stage
) -> None:
    job = await held(connection, stage)

    await jobs.write_progress(connection, WORKER, {job.id: 30})

    assert await jobs.get(connection, job.id) == job


async def test_progress_of_a_job_that_was_lost_is_left_alone(connection: Connection) -> None:
    job = await held(connection, Stage.GENERATING)

    await jobs.write_progress(connection, OTHER, {job.id: 30})

    assert await progress_of(connection, job) == 0


async def progress_of(connection: Connection, job: VideoJob) -> int:
    now = await jobs.get(connection, job.id)
    assert now is not None
    return now.progress


# --- counts and lists ---


async def test_every_job_is_counted_where_it_is(connection: Connection) -> None:
    assert await jobs.counts(connection) == Counts(
        waiting=0, active=0, completed=0, failed=0, delayed=0, cancelled=0
    )
    assert await jobs.oldest_due_s(connection) == 0

    await inserted(connection)
    for _ in range(2):
        await inserted(connection, run_at=datetime.now(UTC) + DAY)
    released = await held(connection, Stage.GENERATING)
    await applied(connection, released, lifecycle.released(released, "left"))
    await held(connection)
    await failed(connection, await held(connection))
    await completed(connection)
    waiting = await inserted(connection)
    await jobs.apply(
        connection, waiting.id, lifecycle.cancelled(waiting, held=False, stopped_at_provider=False)
    )

    counts = await jobs.counts(connection)

    assert counts == Counts(waiting=1, active=2, completed=1, failed=1, delayed=2, cancelled=1)
    assert counts.total == 8


async def test_the_longest_wait_is_told(connection: Connection) -> None:
    await inserted(connection, run_at=datetime.now(UTC) + DAY)
    assert await jobs.oldest_due_s(connection) == 0

    await inserted(connection, run_at=datetime.now(UTC) - DAY)

    assert await jobs.oldest_due_s(connection) == pytest.approx(DAY.total_seconds(), abs=5)


async def test_the_list_is_newest_first_and_filtered(connection: Connection) -> None:
    first = await inserted(connection, user_id="ada", scene_id="one")
    second = await inserted(connection, user_id="bob", provider="veo", model="veo-3.1")
    third = await failed(connection, await held(connection, user_id="ada", scene_id="two"))

    assert await jobs.recent(connection) == [third, second, first]
    assert await jobs.recent(connection, limit=1) == [third]
    assert await jobs.recent(connection, before=third.id) == [second, first]
    assert await jobs.recent(connection, status=JobStatus.FAILED) == [third]
    assert await jobs.recent(connection, provider="veo") == [second]
    assert await jobs.recent(connection, user_id="ada") == [third, first]
    assert await jobs.recent(connection, scene_id="one") == [first]


# --- retention ---


async def test_what_ended_long_ago_is_reduced_to_a_summary(connection: Connection) -> None:
    old = await failed(connection, await held(connection, webhook_url="https://me.test/"))
    await inputs.insert(connection, [an_input(old)])
    young = await failed(connection, await held(connection))
    await aged(connection, old, "completed_at", DAY)

    archived = await jobs.archive_ended(connection, timedelta(hours=23), 10)

    assert archived == 1
    kept = await jobs.get(connection, old.id)
    assert kept is not None
    assert (kept.prompt, kept.parameters, kept.metadata, kept.webhook_url) == ("", {}, {}, None)
    assert (kept.error_code, kept.attempt, kept.created_at) == (
        old.error_code,
        old.attempt,
        old.created_at,
    )
    assert await history(connection, old) == []
    assert await inputs.of_job(connection, old.id) == {}
    assert await jobs.recent(connection) == [young]
    assert (await jobs.counts(connection)).failed == 1


async def test_the_operation_of_an_archived_job_is_nobody_elses(connection: Connection) -> None:
    old = await failed(connection, await held(connection, Stage.GENERATING))
    assert old.operation is not None
    await aged(connection, old, "completed_at", DAY)
    assert await jobs.archive_ended(connection, timedelta(hours=1), 10) == 1

    endpoint, name = old.operation.endpoint, old.operation.id
    assert await events.taken_operations(connection, endpoint, [name]) == {name}
    equal = await held(connection, Stage.SUBMITTING)
    with pytest.raises(OperationTakenError):
        await applied(connection, equal, lifecycle.submitted(equal.attempt, old.operation))
    assert [event.type for event in await history(connection, old)] == [EventType.SUBMITTED]


async def test_archiving_goes_batch_by_batch_until_nothing_is_left(connection: Connection) -> None:
    for _ in range(3):
        job = await failed(connection, await held(connection))
        await aged(connection, job, "completed_at", DAY)

    batches = [await jobs.archive_ended(connection, timedelta(hours=1), 2) for _ in range(3)]

    assert batches == [2, 1, 0]


async def test_a_job_that_is_being_retried_is_not_archived_under_its_owners_hands(
    database: Database,
) -> None:
    async with database.connection() as owner, database.connection() as retention:
        job = await failed(owner, await held(owner))
        await aged(owner, job, "completed_at", DAY)

        async with owner.transaction():
            await applied(owner, job, lifecycle.retried(job, max_attempts=3))
            async with asyncio.timeout(5):
                archived = await jobs.archive_ended(retention, timedelta(hours=1), 10)

        assert archived == 0
        now = await jobs.get(owner, job.id)
        assert now is not None
        assert (now.status, now.prompt) == (JobStatus.PENDING, job.prompt)


async def test_a_job_that_was_just_archived_stays_ended(connection: Connection) -> None:
    job = await failed(connection, await held(connection))
    await aged(connection, job, "completed_at", DAY)
    late = lifecycle.retried(job, max_attempts=3)  # decided on what was read before
    await jobs.archive_ended(connection, timedelta(hours=1), 10)

    with pytest.raises(LeaseLostError):
        await applied(connection, job, late)

    kept = await jobs.get(connection, job.id)
    assert kept is not None
    with pytest.raises(InvalidStateError, match="archived"):
        lifecycle.retried(kept, max_attempts=3)


def an_input(job: VideoJob) -> StoredInput:
    return StoredInput(job_id=job.id, position=0, content_type="image/png", data=b"\x89PNG")
