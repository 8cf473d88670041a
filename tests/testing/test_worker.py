"""`drain` brings every due video to its end, in the test's own loop, and nothing runs beside it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from vidgen import JobStatus, VideoRequest
from vidgen.job import EventType
from vidgen.queue import VideoQueue
from vidgen.simulator.server import SimulatorServer
from vidgen.testing import InlineWorker, Rule

SORA = VideoRequest(provider="sora", prompt="a tram in the rain", seconds=4)
VEO = VideoRequest(provider="veo", prompt="a tram in the sun", seconds=4)


async def test_everything_due_comes_to_its_end_in_the_order_it_was_enqueued(
    queue: VideoQueue, worker: InlineWorker, simulator: SimulatorServer
) -> None:
    made = [await queue.enqueue(request) for request in (SORA, VEO, SORA)]

    done = await worker.drain()

    assert [job.id for job in done] == [job.id for job in made]
    assert {job.status for job in done} == {JobStatus.COMPLETED}
    assert (len(simulator.sora.bill), len(simulator.veo.bill)) == (2, 1)
    assert await worker.drain() == []


async def test_a_failed_attempt_is_followed_by_the_next_within_one_drain(
    queue: VideoQueue, worker: InlineWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.script(Rule(deed="poll", outcome="failed", times=1))
    await queue.enqueue(SORA)

    [job] = await worker.drain()

    assert (job.status, job.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 2, 2)


async def test_failures_in_a_row_make_no_test_wait_for_a_breaker(
    queue: VideoQueue, worker: InlineWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.script(Rule(deed="submit", outcome="503", times=6))
    await queue.enqueue(SORA)

    [job] = await worker.drain(timeout_s=12)

    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 1)


async def test_what_is_for_later_is_left_alone_unless_it_is_wanted(
    queue: VideoQueue, worker: InlineWorker
) -> None:
    later = await queue.enqueue(SORA, run_at=datetime.now(UTC) + timedelta(days=1))

    assert await worker.drain() == []
    [job] = await worker.drain(scheduled=True)

    assert (job.id, job.status) == (later.id, JobStatus.COMPLETED)


async def test_a_video_without_an_end_is_told_of_and_given_back(
    queue: VideoQueue, worker: InlineWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.script(Rule(deed="poll", outcome="never", prompt="rain"))
    endless, short = await queue.enqueue(SORA), await queue.enqueue(VEO)

    with pytest.raises(AssertionError, match=f"(?s)1 not at their end .*{endless.id}.*generating"):
        await worker.drain(timeout_s=3)

    given_back, done = await queue.get(endless.id), await queue.get(short.id)
    assert given_back.worker_id is None
    assert done.status is JobStatus.COMPLETED


async def test_a_video_can_be_cancelled_while_it_is_drained(
    queue: VideoQueue, worker: InlineWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 60
    made = await queue.enqueue(SORA)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        drained = group.create_task(worker.drain())
        await simulator.sora.arrived("poll")
        await queue.cancel(made.id)

    [job] = drained.result()
    assert job.status is JobStatus.CANCELLED


async def test_two_drains_at_once_share_the_work_and_pay_once(
    queue: VideoQueue, worker: InlineWorker, simulator: SimulatorServer
) -> None:
    await queue.enqueue_many([SORA] * 6)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        both = [group.create_task(worker.drain()) for _ in range(2)]

    assert len(simulator.sora.bill) == 6
    assert (await queue.stats()).completed == 6
    assert {job.id for drain in both for job in drain.result()} == {
        job.id for job in await queue.recent()
    }


async def test_a_drain_that_is_cut_loses_nothing(
    queue: VideoQueue, worker: InlineWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 0.5
    made = await queue.enqueue(SORA)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        cut = group.create_task(worker.drain())
        await simulator.sora.arrived("poll")
        cut.cancel()
    [job] = await worker.drain()

    assert (job.id, job.status, job.attempt) == (made.id, JobStatus.COMPLETED, 1)
    assert len(simulator.sora.bill) == 1
    assert [event.type for event in await queue.history(job.id)].count(EventType.SUBMITTED) == 1
