"""A cancel, wherever the job is: quick, and truthful about money."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, VEO, a_rule, quick
from vidgen import JobStatus
from vidgen.job import EventType, JobEvent, Stage, VideoJob
from vidgen.pipeline import discards, stop
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]


async def cancelled_at(
    carrier: Carrier, arrival: str, *, discard: bool = False, simulator: SimulatorServer
) -> JobStatus:
    """Carry a Sora job, cancel it once *arrival* came, and say how it ended."""
    job = await carrier.enqueue(SORA)
    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.finish(job))
        async with asyncio.timeout(5):
            await simulator.sora.arrived(arrival)  # type: ignore[arg-type]
        await carrier.queue.cancel(job.id, discard=discard)
        async with asyncio.timeout(10):
            done = await carrying
    return done.status


async def test_before_the_submit_it_is_free(carrier: Carrier, simulator: SimulatorServer) -> None:
    job = await carrier.enqueue(SORA)

    cancelled = await carrier.queue.cancel(job.id)

    assert (cancelled.status, cancelled.actual_cost_micros) == (JobStatus.CANCELLED, 0)
    assert (await carrier.carry(job)).status is JobStatus.CANCELLED
    assert not simulator.sora.received


async def test_a_running_generation_is_stopped_at_the_provider(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 30

    status = await cancelled_at(carrier, "poll", simulator=simulator)

    assert status is JobStatus.CANCELLED
    assert len(simulator.sora.of("cancel")) == 1


async def test_a_provider_that_cannot_stop_is_paid_and_the_job_says_so(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.veo.generation_s = 30
    job = await carrier.enqueue(VEO)
    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.finish(job))
        async with asyncio.timeout(5):
            await simulator.veo.arrived("poll")
        await carrier.queue.cancel(job.id)
        done = await carrying

    assert (done.status, done.actual_cost_micros) == (
        JobStatus.CANCELLED,
        done.estimated_cost_micros,
    )
    [event] = [e for e in await carrier.queue.history(job.id) if e.type is EventType.CANCELLED]
    assert event.detail["stopped_at_provider"] is False


async def test_a_job_that_nobody_holds_right_now_is_cancelled_at_the_provider_too(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll 503"))
    job = await carrier.carry(await carrier.enqueue(SORA))
    assert (job.stage, job.worker_id) == (Stage.GENERATING, None)

    done = await carrier.finish(await carrier.queue.cancel(job.id))

    assert done.status is JobStatus.CANCELLED
    assert len(simulator.sora.of("cancel")) == 1


@pytest.mark.parametrize(
    ("discard", "status"), [(False, JobStatus.COMPLETED), (True, JobStatus.CANCELLED)]
)
async def test_a_finished_video_is_stored_unless_it_is_not_wanted(
    carrier: Carrier, simulator: SimulatorServer, *, discard: bool, status: JobStatus
) -> None:
    simulator.sora.script(a_rule("content slow 8k"))

    ended = await cancelled_at(carrier, "content", discard=discard, simulator=simulator)

    assert ended is status


async def test_a_final_job_stays_as_it_is(carrier: Carrier) -> None:
    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (await carrier.queue.cancel(job.id)).status is JobStatus.COMPLETED


async def test_a_provider_that_hangs_is_asked_on_behind_the_cancelled_job(
    carrier: Carrier, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "PATIENCE_S", 0.05)
    monkeypatch.setattr(stop, "TRY_TIMEOUT_S", 0.5)
    simulator.sora.generation_s = 30
    simulator.sora.script(a_rule("cancel hang", times=1))
    job = await carrier.enqueue(SORA)

    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.finish(job))
        async with asyncio.timeout(5):
            await simulator.sora.arrived("poll")
        await carrier.queue.cancel(job.id)
        done = await carrying
    ended = await carrier.queue.history(job.id)
    late = await answered(carrier, job)
    after = await carrier.queue.get(job.id)

    assert (done.status, done.actual_cost_micros) == (JobStatus.CANCELLED, None)
    assert ended[-1].type is EventType.CANCELLED
    assert ended[-1].detail["still_asking"] is True
    assert late.detail == {"stopped_at_provider": True, "cost_micros": None}
    assert len(simulator.sora.of("cancel")) == 2
    assert (after.status, after.completed_at) == (JobStatus.CANCELLED, done.completed_at)


async def test_a_provider_that_says_no_late_makes_the_job_cost_what_it_costs(
    carrier: Carrier, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "PATIENCE_S", 0.05)
    monkeypatch.setattr(stop, "TRY_TIMEOUT_S", 0.5)
    simulator.sora.generation_s = 30
    simulator.sora.script(a_rule("cancel hang", times=1))
    simulator.sora.script(a_rule("cancel 409", nth=2))
    job = await carrier.enqueue(SORA)

    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.finish(job))
        async with asyncio.timeout(5):
            await simulator.sora.arrived("poll")
        await carrier.queue.cancel(job.id)
        await carrying
    late = await answered(carrier, job)
    after = await carrier.queue.get(job.id)

    assert late.detail["stopped_at_provider"] is False
    assert after.actual_cost_micros == after.estimated_cost_micros


async def answered(carrier: Carrier, job: VideoJob) -> JobEvent:
    """The provider's late answer to the cancel of *job*."""
    async with asyncio.timeout(15):
        while True:
            event = (await carrier.queue.history(job.id))[-1]
            if event.type is EventType.ANSWERED:
                return event
            await asyncio.sleep(0.02)


async def test_a_generation_that_is_gone_cost_what_only_the_provider_knows(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 30
    simulator.sora.script(a_rule("poll 503"))
    job = await carrier.carry(await carrier.enqueue(SORA))
    assert job.operation is not None
    providers = carrier.resources.providers
    # As a worker does that dies before it can write what came of it.
    credential = providers.credential(job.provider, job.model)
    assert await providers.get("sora").cancel(job.operation, credential)

    done = await carrier.finish(await carrier.queue.cancel(job.id))

    assert (done.status, done.actual_cost_micros) == (JobStatus.CANCELLED, None)
    [event] = [e for e in await carrier.queue.history(job.id) if e.type is EventType.CANCELLED]
    assert event.detail["stopped_at_provider"] is None


async def test_while_the_paid_request_is_under_way_the_wish_is_noted_at_once(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 30
    simulator.sora.script(a_rule("submit late 1s", times=1))
    job = await carrier.enqueue(SORA)

    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.finish(job))
        async with asyncio.timeout(5):
            await simulator.sora.arrived("submit")
        noted = await carrier.queue.cancel(job.id, by="ada")
        seen = await carrier.queue.history(job.id)
        done = await carrying

    assert (noted.status, noted.stage) == (JobStatus.PROCESSING, Stage.SUBMITTING)
    assert noted.cancel_requested_at is not None
    assert (seen[-1].type, seen[-1].stage, seen[-1].by) == (
        EventType.CANCEL_REQUESTED,
        Stage.SUBMITTING,
        "ada",
    )
    assert done.status is JobStatus.CANCELLED
    assert len(simulator.sora.of("cancel")) == 1


# --- what is not wanted leaves the bucket ---


async def discarded_at_its_picture(carrier: Carrier, simulator: SimulatorServer) -> VideoJob:
    """A job that was cancelled with its video stored already, and its thumbnail on the way."""
    job = await carrier.enqueue(SORA)
    simulator.sora.script(Rule(deed="content", outcome="slow", argument="1k", nth=2))
    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.finish(job))
        async with asyncio.timeout(10):
            await simulator.sora.arrived("content", 2)
        await carrier.queue.cancel(job.id, discard=True)
        return await carrying


async def stored(carrier: Carrier) -> list[str]:
    return await carrier.resources.storage.keys("videos/", 100)


async def test_a_discarded_video_does_not_stay_in_the_bucket(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    done = await discarded_at_its_picture(carrier, simulator)

    assert (done.status, done.storage_key) == (JobStatus.CANCELLED, None)
    assert await stored(carrier) == []


async def test_what_a_dead_worker_left_of_a_discarded_video_is_found_by_the_sweep(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    done = await discarded_at_its_picture(carrier, simulator)
    left = f"videos/{done.id}/1.mp4"
    await upload(carrier, left)
    await discards.collect(carrier.resources)
    assert await stored(carrier) == [left]  # too early: an upload may still arrive

    await at_rest_for_long(carrier)
    await discards.collect(carrier.resources)
    assert await stored(carrier) == []

    await upload(carrier, left)  # nothing of ours any more
    await discards.collect(carrier.resources)
    assert await stored(carrier) == [left]


async def test_a_video_that_is_wanted_after_all_is_never_deleted(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    was = await discarded_at_its_picture(carrier, simulator)

    done = await carrier.finish(await carrier.queue.retry(was.id))
    keys = await stored(carrier)
    await upload(carrier, f"videos/{done.id}/1.mp4")
    await discards.clear(carrier.resources, was)  # by a worker that was frozen all the time
    await at_rest_for_long(carrier)
    await discards.collect(carrier.resources)

    assert (done.status, done.attempt) == (JobStatus.COMPLETED, 1)
    assert done.storage_key == f"videos/{done.id}/1/1.mp4"
    assert {done.storage_key, done.thumbnail_key} <= set(keys)
    assert await stored(carrier) == keys


async def upload(carrier: Carrier, key: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"a video"

    await carrier.resources.storage.upload(key, chunks(), content_type="video/mp4")


async def at_rest_for_long(carrier: Carrier) -> None:
    async with carrier.resources.database.connection() as connection:
        await connection.execute(
            "UPDATE video_jobs SET completed_at = completed_at - $1::interval",
            timedelta(seconds=2 * discards.SETTLED_AFTER_S),
        )
