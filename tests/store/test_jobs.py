"""The one statement that writes a job: what it writes, what it refuses, and that it tells it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.builders import NOON, WORKER, a_new_job, a_video, an_operation
from tests.store.conftest import (
    aged,
    an_operation_of,
    applied,
    claimed,
    completed,
    held,
    history,
    inserted,
)
from vidgen import lifecycle
from vidgen.errors import (
    GenerationFailedError,
    LeaseLostError,
    OperationTakenError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import EventType, JobStatus, Lease, Stage, VideoJob
from vidgen.lifecycle import Backoff, Transition
from vidgen.store import jobs, reuses
from vidgen.store.pool import Connection, Database
from vidgen.store.reuses import FirstUse

OTHER = UUID(int=2)
BACKOFF = Backoff(base_s=2)
SOON_S = 2.0  # what a slow machine may take between two statements


def near(at: datetime | None, expected: datetime) -> bool:
    return at is not None and abs((at - expected).total_seconds()) < SOON_S


async def database_now(connection: Connection) -> datetime:
    now: datetime = await connection.fetchval("SELECT now()")
    return now


# --- insert ---


async def test_a_new_job_is_pending_and_due_at_once(connection: Connection) -> None:
    new = a_new_job(scene_id="scene-7", user_id="ada", metadata={"order": [1, None]}, priority=4)

    [job] = await jobs.insert(connection, [new])

    assert (job.status, job.stage) == (JobStatus.PENDING, Stage.QUEUED)
    assert (job.attempt, job.failures, job.progress, job.lease_epoch) == (0, 0, 0, 0)
    assert (job.scene_id, job.user_id, job.priority) == ("scene-7", "ada", 4)
    assert (job.metadata, job.parameters) == ({"order": [1, None]}, new.parameters)
    assert near(job.due_at, await database_now(connection))
    assert job.deadline_at is None
    assert await jobs.get(connection, new.id) == job
    assert [event.type for event in await history(connection, job)] == [EventType.CREATED]


async def test_a_job_for_later_is_due_then(connection: Connection) -> None:
    later = datetime.now(UTC) + timedelta(days=3)

    job = await inserted(connection, run_at=later)

    assert job.due_at == later


async def test_many_jobs_come_in_the_order_they_were_given(connection: Connection) -> None:
    new = [a_new_job(prompt=f"tram {number}") for number in range(500)]
    new.reverse()

    made = await jobs.insert(connection, new)

    assert [job.id for job in made] == [job.id for job in new]
    assert await connection.fetchval("SELECT count(*) FROM job_events") == 500


async def test_a_key_is_taken_once_per_user(connection: Connection) -> None:
    first, other = a_new_job(idempotency_key="k", user_id="ada"), a_new_job(idempotency_key="k")

    made = await jobs.insert(connection, [first, other])
    again = await jobs.insert(
        connection, [replace(first, id=a_new_job().id), replace(other, id=a_new_job().id)]
    )

    assert [job.id for job in made] == [first.id, other.id]
    assert again == []
    found = [await reuses.first_use(connection, user, "k") for user in ("ada", None)]
    assert found == [
        FirstUse(job=made[0], fingerprint=first.fingerprint, wish=None),
        FirstUse(job=made[1], fingerprint=other.fingerprint, wish=None),
    ]
    assert await reuses.first_use(connection, "bob", "k") is None
    assert await connection.fetchval("SELECT count(*) FROM job_events") == 2


async def test_jobs_without_a_key_never_stand_in_each_others_way(connection: Connection) -> None:
    assert len(await jobs.insert(connection, [a_new_job(), a_new_job()])) == 2


# --- a whole life ---


async def test_each_step_of_a_life_writes_its_columns_and_its_event(connection: Connection) -> None:
    job = await inserted(connection, estimated_cost_micros=800)

    job = await claimed(connection, job)
    assert (job.status, job.worker_id, job.lease_epoch) == (JobStatus.PROCESSING, WORKER, 1)
    assert job.due_at is None
    assert job.started_at is not None
    assert job.deadline_at is None  # waiting for a turn is no stage

    job = await applied(connection, job, lifecycle.submitting(job))
    assert (job.stage, job.attempt) == (Stage.SUBMITTING, 1)
    assert job.started_at is not None
    assert near(job.deadline_at, job.started_at + timedelta(seconds=job.deadline_s))

    job = await applied(connection, job, lifecycle.submitted(1, an_operation()))
    assert (job.stage, job.operation) == (Stage.GENERATING, an_operation())
    assert job.submitted_at is not None

    change = lifecycle.generated(job, expires_at=NOON, cost_micros=None)
    job = await applied(connection, job, change)
    assert (job.stage, job.result_expires_at) == (Stage.TRANSFERRING, NOON)
    assert job.generated_at is not None

    job = await applied(connection, job, lifecycle.completed(job, a_video()))
    assert (job.status, job.stage) == (JobStatus.COMPLETED, Stage.TRANSFERRING)
    assert (job.worker_id, job.due_at, job.progress) == (None, None, 100)
    assert (job.storage_key, job.duration_s, job.width) == ("videos/1/1.mp4", 8.0, 1280)
    assert (job.actual_cost_micros, job.attempt, job.failures) == (800, 1, 0)
    assert job.completed_at is not None

    told = await history(connection, job)
    assert [event.type.value for event in told] == [
        *("created", "claimed", "submitting", "submitted", "generated", "completed")
    ]
    assert [event.attempt for event in told] == [0, 0, 1, 1, 1, 1]
    assert told[3].detail == {"operation_id": "video_1", "endpoint": "https://sora.test/v1"}
    assert told[-1].detail == {"storage_key": "videos/1/1.mp4", "size_bytes": 1_000_000}
    assert [event.seq for event in told] == sorted({event.seq or 0 for event in told})


async def test_an_error_waits_unheld_until_its_time(connection: Connection) -> None:
    job = await held(connection, Stage.GENERATING)
    now = await database_now(connection)
    change = lifecycle.errored(
        job, TransientError("busy", retry_after_s=40), backoff=BACKOFF, now=now
    )

    job = await applied(connection, job, change)

    assert (job.status, job.stage, job.worker_id) == (JobStatus.PROCESSING, Stage.GENERATING, None)
    assert near(job.due_at, now + timedelta(seconds=40))
    assert (job.failures, job.error_code, job.error_message) == (1, "provider_unavailable", "busy")
    assert job.operation == an_operation_of(job)


async def test_a_refused_submit_is_pending_again_and_costs_no_attempt(
    connection: Connection,
) -> None:
    job = await held(connection, Stage.SUBMITTING)
    deadline_at = job.deadline_at
    change = lifecycle.errored(
        job, TransientError("busy"), backoff=BACKOFF, now=await database_now(connection)
    )

    job = await applied(connection, job, change)

    assert (job.status, job.stage, job.attempt) == (JobStatus.PENDING, Stage.QUEUED, 0)
    assert job.deadline_at == deadline_at  # one for all stages, from the first of them


async def test_a_verdict_begins_a_new_attempt(connection: Connection) -> None:
    job = await held(connection, Stage.GENERATING)
    change = lifecycle.judged(
        job, GenerationFailedError("no"), charged=False, backoff=BACKOFF, now=NOON
    )

    job = await applied(connection, job, change)

    assert (job.status, job.stage, job.attempt) == (JobStatus.PENDING, Stage.QUEUED, 1)
    assert (job.operation, job.failures) == (None, 0)
    assert [event.type for event in await history(connection, job)][-1] is EventType.REATTEMPTED


async def test_a_postponed_job_keeps_its_turn(connection: Connection) -> None:
    job = await held(connection)

    job = await applied(connection, job, lifecycle.postponed(20, NOON))

    assert (job.status, job.slot_at) == (JobStatus.PENDING, NOON)
    assert near(job.due_at, await database_now(connection) + timedelta(seconds=20))


async def test_a_wish_to_cancel_is_noted_once_and_the_holder_stays(connection: Connection) -> None:
    job = await held(connection, Stage.GENERATING)

    first = await jobs.apply(connection, job.id, lifecycle.cancel_requested(discard=False))
    again = await jobs.apply(connection, job.id, lifecycle.cancel_requested(discard=False))

    assert first.cancel_requested_at == again.cancel_requested_at is not None
    assert (again.worker_id, again.due_at) == (WORKER, None)


async def test_no_money_is_spent_once_a_cancel_is_wished(connection: Connection) -> None:
    job = await held(connection)
    await jobs.apply(connection, job.id, lifecycle.cancel_requested(discard=True))

    with pytest.raises(LeaseLostError):
        await applied(connection, job, lifecycle.submitting(job))

    now = await jobs.get(connection, job.id)
    assert now is not None
    assert (now.stage, now.attempt, now.cancel_discards) == (Stage.QUEUED, 0, True)


async def test_a_wish_that_meets_an_unheld_job_makes_it_due(connection: Connection) -> None:
    job = await held(connection, Stage.GENERATING)
    later = TransientError("busy", retry_after_s=40)
    now = await database_now(connection)
    job = await applied(connection, job, lifecycle.errored(job, later, backoff=BACKOFF, now=now))

    job = await jobs.apply(connection, job.id, lifecycle.cancel_requested(discard=False))

    assert near(job.due_at, now)


@pytest.mark.parametrize(
    "given_up",
    [
        lambda job: lifecycle.errored(job, TransientError("no"), backoff=BACKOFF, now=NOON),
        lambda job: lifecycle.released(job, "worker_lost"),
    ],
    ids=["by an error", "by a worker that died"],
)
async def test_the_deadline_starts_with_the_first_trouble_and_waiting_puts_it_off(
    connection: Connection, given_up: Callable[[VideoJob], Transition]
) -> None:
    job = await held(connection)
    job = await applied(connection, job, given_up(job))
    first = job.deadline_at
    assert near(first, await database_now(connection) + timedelta(seconds=job.deadline_s))
    assert first is not None

    await aged(connection, job, "due_at", timedelta(hours=2))  # paused, or all workers busy
    job = await claimed(connection, job)
    assert near(job.deadline_at, first + timedelta(hours=2))
    job = await applied(connection, job, lifecycle.postponed(3600, None))
    assert near(job.deadline_at, first + timedelta(hours=3))

    await aged(connection, job, "due_at", timedelta(0))
    job = await claimed(connection, job)
    job = await applied(connection, job, lifecycle.submitting(job))
    assert near(job.deadline_at, first + timedelta(hours=3))  # it has begun already


async def test_a_job_retried_by_hand_gets_a_fresh_deadline(connection: Connection) -> None:
    job = await held(connection, Stage.GENERATING)
    first_deadline = job.deadline_at
    job = await jobs.apply(connection, job.id, lifecycle.cancel_requested(discard=False))
    job = await applied(connection, job, lifecycle.failed(job, TransientError("late")))
    assert (job.status, job.due_at, job.worker_id) == (JobStatus.FAILED, None, None)

    job = await applied(connection, job, lifecycle.retried(job, max_attempts=3))
    assert (job.status, job.stage) == (JobStatus.PROCESSING, Stage.GENERATING)
    assert (job.completed_at, job.deadline_at, job.cancel_requested_at) == (None, None, None)
    assert (job.error_code, job.operation) == (None, an_operation_of(job))

    job = await claimed(connection, job)
    assert job.deadline_at is not None
    assert first_deadline is not None
    assert job.deadline_at > first_deadline


async def test_a_job_retried_anew_starts_over(connection: Connection) -> None:
    job = await held(connection, Stage.SUBMITTING)
    job = await applied(connection, job, lifecycle.failed(job, SubmitUnknownError("?")))

    job = await applied(connection, job, lifecycle.retried(job, max_attempts=2))

    assert (job.status, job.stage) == (JobStatus.PENDING, Stage.QUEUED)
    assert (job.attempt, job.max_attempts) == (1, 3)


# --- fences ---


def every_transition_of_a_holder(job: VideoJob) -> list[Transition]:
    error = TransientError("no")
    return [
        lifecycle.postponed(1, None),
        lifecycle.submitting(job),
        lifecycle.generated(job, expires_at=None, cost_micros=None),
        lifecycle.completed(job, a_video()),
        lifecycle.released(job, "left"),
        lifecycle.cancelled(job, held=True, stopped_at_provider=False),
        lifecycle.errored(job, error, backoff=BACKOFF, now=NOON - timedelta(days=365)),
        lifecycle.failed(job, error),
        lifecycle.judged(
            job, GenerationFailedError("no"), charged=False, backoff=BACKOFF, now=NOON
        ),
    ]


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize(
    "lease",
    [
        lambda job: Lease(worker_id=job.worker_id, epoch=job.lease_epoch - 1),
        lambda job: Lease(worker_id=job.worker_id, epoch=job.lease_epoch + 1),
        lambda job: Lease(worker_id=OTHER, epoch=job.lease_epoch),
        lambda _: None,
    ],
    ids=["old epoch", "new epoch", "other worker", "no lease"],
)
async def test_nobody_but_the_holder_writes(
    connection: Connection, stage: Stage, lease: Callable[[VideoJob], Lease | None]
) -> None:
    job = await held(connection, stage)
    before = await history(connection, job)

    for change in every_transition_of_a_holder(job):
        with pytest.raises(LeaseLostError, match=f"{job.id} cannot be {change.event}"):
            await jobs.apply(connection, job.id, change, lease=lease(job))

    assert await jobs.get(connection, job.id) == job
    assert await history(connection, job) == before


@pytest.mark.parametrize("stage", Stage)
async def test_a_step_that_belongs_to_another_stage_is_refused(
    connection: Connection, stage: Stage
) -> None:
    job = await held(connection, stage)
    before = await history(connection, job)
    elsewhere = [
        change
        for other in Stage
        for change in every_transition_of_a_holder(replace(job, stage=other))
        if stage not in change.stages
    ]

    for change in elsewhere:
        with pytest.raises(LeaseLostError):
            await applied(connection, job, change)

    assert len(elsewhere) > 20
    assert await jobs.get(connection, job.id) == job
    assert await history(connection, job) == before


async def test_a_final_job_refuses_its_former_holder(connection: Connection) -> None:
    job = await held(connection, Stage.TRANSFERRING)
    done = await applied(connection, job, lifecycle.completed(job, a_video()))

    for change in every_transition_of_a_holder(job):
        with pytest.raises(LeaseLostError):
            await jobs.apply(connection, job.id, change, lease=job.lease)

    assert await jobs.get(connection, job.id) == done


async def test_a_job_that_is_not_due_cannot_be_claimed(connection: Connection) -> None:
    job = await inserted(connection, run_at=datetime.now(UTC) + timedelta(minutes=1))

    with pytest.raises(LeaseLostError):
        await claimed(connection, job)


async def test_a_dispatch_may_come_a_little_early(connection: Connection) -> None:
    soon = await database_now(connection) + timedelta(seconds=0.9)
    job = await inserted(connection, run_at=soon)

    assert (await claimed(connection, job)).worker_id == WORKER


@pytest.mark.parametrize("stage", Stage)
async def test_a_held_job_cannot_be_claimed(connection: Connection, stage: Stage) -> None:
    job = await held(connection, stage)

    with pytest.raises(LeaseLostError):
        await claimed(connection, job, OTHER)


async def test_a_job_that_does_not_exist_cannot_be_claimed(connection: Connection) -> None:
    with pytest.raises(LeaseLostError):
        await jobs.apply(connection, UUID(int=9), lifecycle.claimed(), worker_id=WORKER)


async def test_of_twenty_claims_at_once_one_succeeds(database: Database) -> None:
    async with database.connection() as connection:
        job = await inserted(connection)

    async def claim(number: int) -> UUID | None:
        async with database.connection() as connection:
            try:
                return (await claimed(connection, job, UUID(int=number))).worker_id
            except LeaseLostError:
                return None

    async with asyncio.TaskGroup() as group:
        claims = [group.create_task(claim(number)) for number in range(1, 21)]

    [winner] = [claim.result() for claim in claims if claim.result()]
    async with database.connection() as connection:
        now = await jobs.get(connection, job.id)
        told = [event.type for event in await history(connection, job)]
    assert now is not None
    assert (now.worker_id, now.lease_epoch) == (winner, 1)
    assert told == [EventType.CREATED, EventType.CLAIMED]


async def test_whoever_comes_back_from_a_long_pause_finds_the_door_closed(
    connection: Connection,
) -> None:
    slow = await held(connection, Stage.GENERATING)
    await applied(connection, slow, lifecycle.released(slow, "worker_lost"))
    again = await claimed(connection, slow)  # even by the very same worker

    with pytest.raises(LeaseLostError):
        await applied(
            connection, slow, lifecycle.generated(slow, expires_at=None, cost_micros=None)
        )

    assert again.lease_epoch == slow.lease_epoch + 1


# --- receipts ---


async def test_a_receipt_is_stored_after_the_lease_was_lost(connection: Connection) -> None:
    slow = await held(connection, Stage.SUBMITTING)
    await applied(connection, slow, lifecycle.released(slow, "worker_lost"))
    receipt = lifecycle.submitted(1, an_operation("video_paid"))

    unheld = await jobs.apply(connection, slow.id, receipt, lease=slow.lease)

    assert unheld.stage is Stage.GENERATING
    assert (unheld.worker_id, unheld.operation) == (None, an_operation("video_paid"))
    assert near(unheld.due_at, await database_now(connection))


async def test_a_receipt_is_stored_while_a_peer_holds_the_job(connection: Connection) -> None:
    slow = await held(connection, Stage.SUBMITTING)
    await applied(connection, slow, lifecycle.released(slow, "worker_lost"))
    peers = await claimed(connection, slow, OTHER)

    job = await jobs.apply(connection, slow.id, lifecycle.submitted(1, an_operation()))

    assert (job.stage, job.worker_id, job.due_at) == (Stage.GENERATING, OTHER, None)
    with pytest.raises(LeaseLostError):  # the peer was about to give it up as unknown
        await applied(connection, peers, lifecycle.failed(peers, SubmitUnknownError("?")))


async def test_a_receipt_revives_a_job_that_was_given_up_as_unknown(
    connection: Connection,
) -> None:
    job = await held(connection, Stage.SUBMITTING)
    parked = await applied(connection, job, lifecycle.failed(job, SubmitUnknownError("?")))
    assert parked.status is JobStatus.FAILED

    job = await jobs.apply(connection, job.id, lifecycle.submitted(1, an_operation()))

    assert (job.status, job.stage) == (JobStatus.PROCESSING, Stage.GENERATING)
    assert (job.completed_at, job.error_code, job.error_message) == (None, None, None)
    assert near(job.due_at, await database_now(connection))


@pytest.mark.parametrize("claimed_again", [False, True])
async def test_a_receipt_of_an_attempt_given_up_by_hand_is_refused(
    connection: Connection, claimed_again: bool
) -> None:
    job = await held(connection, Stage.SUBMITTING)
    job = await applied(connection, job, lifecycle.failed(job, SubmitUnknownError("?")))
    job = await applied(connection, job, lifecycle.retried(job, max_attempts=3))
    if claimed_again:
        job = await claimed(connection, job)
        job = await applied(connection, job, lifecycle.submitting(job))

    with pytest.raises(LeaseLostError):
        await jobs.apply(connection, job.id, lifecycle.submitted(1, an_operation()))

    assert await jobs.get(connection, job.id) == job


async def test_an_operation_belongs_to_one_attempt_of_one_job(connection: Connection) -> None:
    first, second = (
        await held(connection, Stage.GENERATING),
        await held(connection, Stage.SUBMITTING),
    )
    adopted = lifecycle.submitted(1, an_operation_of(first), adopted=True)

    with pytest.raises(OperationTakenError, match=str(second.id)):
        await applied(connection, second, adopted)

    assert await jobs.get(connection, second.id) == second
    assert (await history(connection, second))[-1].type is EventType.SUBMITTING


async def test_an_unsettled_submit_waits_in_its_stage_and_takes_its_receipt(
    connection: Connection,
) -> None:
    job = await held(connection, Stage.SUBMITTING)
    change = lifecycle.unsettled(job, SubmitUnknownError("?"), wait_s=40)

    waiting = await applied(connection, job, change)

    assert (waiting.status, waiting.stage) == (JobStatus.PROCESSING, Stage.SUBMITTING)
    assert (waiting.worker_id, waiting.attempt, waiting.failures) == (None, 1, 1)
    job = await applied(connection, waiting, lifecycle.submitted(1, an_operation()))
    assert (job.stage, job.failures, job.error_code) == (Stage.GENERATING, 0, None)


async def test_a_disproved_submit_costs_no_attempt(connection: Connection) -> None:
    job = await held(connection, Stage.SUBMITTING)

    job = await applied(connection, job, lifecycle.disproved(job))

    assert (job.status, job.stage, job.attempt) == (JobStatus.PENDING, Stage.QUEUED, 0)


async def test_the_latest_intent_is_noted(connection: Connection) -> None:
    job = await held(connection, Stage.SUBMITTING)
    first = job.intent_at
    job = await applied(connection, job, lifecycle.disproved(job))
    job = await claimed(connection, job)

    job = await applied(connection, job, lifecycle.submitting(job))

    assert first is not None
    assert job.intent_at is not None
    assert job.intent_at > first


async def test_a_receipt_is_stored_once(connection: Connection) -> None:
    job = await held(connection, Stage.GENERATING)

    with pytest.raises(LeaseLostError):
        await jobs.apply(connection, job.id, lifecycle.submitted(1, an_operation("video_2")))


# --- the event belongs to the statement ---


async def test_a_transition_that_is_rolled_back_was_never_told(connection: Connection) -> None:
    job = await held(connection)

    transaction = connection.transaction()
    await transaction.start()
    await applied(connection, job, lifecycle.submitting(job))
    await transaction.rollback()

    assert await jobs.get(connection, job.id) == job
    assert [event.type for event in await history(connection, job)] == [
        EventType.CREATED,
        EventType.CLAIMED,
    ]


async def test_a_row_that_promises_would_be_broken_by_is_neither_written_nor_told(
    connection: Connection,
) -> None:
    job = await held(connection, Stage.TRANSFERRING)
    wrong = lifecycle.completed(job, a_video(sha256="not a digest"))

    with pytest.raises(Exception, match="video_jobs_sha256_check"):
        await applied(connection, job, wrong)

    assert await jobs.get(connection, job.id) == job
    assert (await history(connection, job))[-1].type is EventType.GENERATED


async def test_an_event_names_the_worker_that_wrote_it(connection: Connection) -> None:
    job = await held(connection)
    change = lifecycle.released(job, "worker_lost")

    await jobs.apply(connection, job.id, change, lease=job.lease, worker_id=OTHER)

    rows = await connection.fetch("SELECT worker_id FROM job_events ORDER BY seq")
    assert [row["worker_id"] for row in rows] == [None, WORKER, OTHER]


async def test_completed_jobs_are_what_they_were(connection: Connection) -> None:
    job = await completed(connection)
    await aged(connection, job, "completed_at", timedelta(days=400))

    assert await jobs.archive_ended(connection, timedelta(hours=1), 10) == 0
