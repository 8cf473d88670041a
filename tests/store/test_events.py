"""The history of a job."""

import pytest

from tests.builders import WORKER
from tests.store.conftest import applied, held, history, inserted
from vidgen import lifecycle
from vidgen.errors import ContentBlockedError
from vidgen.job import EventType, JobStatus, Stage
from vidgen.store import events, jobs
from vidgen.store.pool import Connection


async def test_a_history_is_in_order_and_of_one_job(connection: Connection) -> None:
    job, other = await held(connection), await inserted(connection)

    told = await history(connection, job)

    assert [event.type for event in told] == [EventType.CREATED, EventType.CLAIMED]
    assert {event.job_id for event in told} == {job.id}
    assert [event.at for event in told] == sorted(event.at for event in told)
    assert [event.type for event in await history(connection, other)] == [EventType.CREATED]


async def test_only_what_comes_behind_a_number_is_told(connection: Connection) -> None:
    job = await held(connection)
    first, second = await history(connection, job)

    assert await events.of_job(connection, job.id, first.seq or 0) == [second]
    assert await events.of_job(connection, job.id, second.seq or 0) == []


async def test_an_event_keeps_the_state_it_led_to(connection: Connection) -> None:
    job = await held(connection, Stage.GENERATING)
    await jobs.write_progress(connection, WORKER, {job.id: 70})
    error = ContentBlockedError("blocked: {braces}", provider_code="moderation_blocked")

    await applied(connection, job, lifecycle.failed(job, error))

    event = (await history(connection, job))[-1]
    assert (event.type, event.status, event.stage) == (
        EventType.FAILED,
        JobStatus.FAILED,
        Stage.GENERATING,
    )
    assert (event.attempt, event.progress) == (1, 70)
    assert event.detail == {
        "code": "content_blocked",
        "message": "blocked: {braces}",
        "provider_code": "moderation_blocked",
        "cost_micros": None,
    }
    assert event.at.tzinfo is not None


@pytest.mark.parametrize("type_", sorted(set(EventType) - {EventType.PROGRESSED}))
async def test_every_type_of_event_can_be_read_back(
    connection: Connection, type_: EventType
) -> None:
    job = await inserted(connection)
    await connection.execute(
        "UPDATE job_events SET type = $2 WHERE job_id = $1", job.id, type_.value
    )

    assert [event.type for event in await history(connection, job)] == [type_]
