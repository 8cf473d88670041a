"""A cancel, wherever the job is: quick, and truthful about money."""

import asyncio

import pytest

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, VEO, a_rule, quick
from vidgen import JobStatus
from vidgen.job import EventType, Stage
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
