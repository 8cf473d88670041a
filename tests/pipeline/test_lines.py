"""Where thousands of jobs of one process stand in line, and what becomes of those that do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.pipeline.conftest import Carrier, carrying
from tests.pipeline.test_failures import SORA, VEO, a_rule, quick
from vidgen import JobStatus, VideoJob
from vidgen.gate import Gate, SharedGate
from vidgen.job import Stage
from vidgen.pipeline import submit
from vidgen.ratelimit import WINDOW_S, RateLimit
from vidgen.resources import Clock, Resources
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]


class Watched(Gate):
    """Tells that somebody came to it."""

    def __init__(self, places: int) -> None:
        super().__init__(places)
        self.came = asyncio.Event()

    async def enter(self, before: float, patience_s: float | None = None) -> None:
        self.came.set()
        await super().enter(before, patience_s)


class WatchedShared(SharedGate):
    """Tells that somebody came to it."""

    def __init__(self, places: int) -> None:
        super().__init__(places)
        self.came = asyncio.Event()

    async def enter(self, sharer: str, before: float) -> None:
        self.came.set()
        await super().enter(sharer, before)


@asynccontextmanager
async def in_line(
    carrier: Carrier, job: VideoJob, line: Watched | WatchedShared
) -> AsyncIterator[asyncio.Task[VideoJob]]:
    """Work on *job* until it comes to *line*; it goes on, and has ended after the context."""
    async with asyncio.TaskGroup() as group:
        carried = group.create_task(carrier.carry(job))
        async with asyncio.timeout(5):
            await line.came.wait()
        yield carried


class Deaf(Clock):
    """No heartbeat sets it right."""

    def set(self, database_now: datetime) -> None:
        pass


async def test_a_paid_call_that_waits_for_another_has_not_been_begun(
    resources: Resources, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit late 200ms", times=1))
    async with carrying(replace(resources, submits=SharedGate(1))) as carrier:
        one, other = await carrier.enqueue(SORA), await carrier.enqueue(SORA)

        async with asyncio.TaskGroup() as group:
            first = group.create_task(carrier.carry(one))
            async with asyncio.timeout(5):
                await simulator.sora.arrived("submit")
            second = group.create_task(carrier.carry(other))

    assert second.result().intent_at > first.result().submitted_at  # type: ignore[operator]  # both are set
    assert [first.result().status, second.result().status] == [JobStatus.COMPLETED] * 2


async def test_paid_calls_that_hang_hold_up_no_other_provider(
    resources: Resources, simulator: SimulatorServer
) -> None:
    line = WatchedShared(2)
    async with carrying(replace(resources, submits=line)) as carrier:
        held_up, other = await carrier.enqueue(SORA), await carrier.enqueue(VEO)
        await line.enter("openai", 0)
        line.came.clear()
        async with in_line(carrier, held_up, line) as carried:
            async with asyncio.timeout(10):
                done = await carrier.carry(other)
            paid = len(simulator.sora.bill)
            line.leave("openai")

    assert (done.status, paid) == (JobStatus.COMPLETED, 0)
    assert carried.result().status is JobStatus.COMPLETED


async def test_a_job_that_waits_for_its_paid_call_is_handed_over_unpaid(
    resources: Resources, simulator: SimulatorServer
) -> None:
    line = WatchedShared(0)
    async with carrying(replace(resources, submits=line)) as carrier:
        job = await carrier.enqueue(SORA)
        async with in_line(carrier, job, line) as carried:
            carrier.leases.hand_over(urgent=False)

    assert (carried.result().stage, carried.result().worker_id) == (Stage.QUEUED, None)
    assert simulator.sora.bill == []


async def test_a_job_whose_time_runs_out_while_it_waits_for_its_paid_call_pays_nothing(
    resources: Resources, simulator: SimulatorServer
) -> None:
    line, clock = WatchedShared(0), Deaf()
    async with carrying(replace(resources, submits=line, clock=clock)) as carrier:
        job = await carrier.enqueue(SORA)
        async with resources.database.connection() as connection:
            await connection.execute(
                "UPDATE video_jobs SET deadline_at = now() + interval '1 hour' WHERE id = $1",
                job.id,
            )
        async with in_line(carrier, job, line) as carried:
            clock.ahead += timedelta(hours=2)
            line.leave("openai")

    failed = carried.result()
    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "generation_timeout")
    assert (failed.intent_at, simulator.sora.bill) == (None, [])


async def test_whoever_waited_too_long_for_its_paid_call_takes_a_new_turn(
    resources: Resources, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "TURN_KEPT_S", -1.0)
    limit = RateLimit(resources.redis, limit_per_min=1, window_s=WINDOW_S)
    async with carrying(replace(resources, rate_limit=limit)) as carrier:
        job = await carrier.carry(await carrier.enqueue(SORA))

    assert (job.stage, job.worker_id, simulator.sora.bill) == (Stage.QUEUED, None, [])


async def test_a_video_that_is_ready_waits_for_its_turn_and_is_handed_over_in_time(
    resources: Resources, simulator: SimulatorServer
) -> None:
    line = Watched(0)
    async with carrying(replace(resources, verdicts=line)) as carrier:
        job = await carrier.enqueue(SORA)
        async with in_line(carrier, job, line) as carried:
            carrier.leases.hand_over(urgent=True)
    assert (carried.result().stage, carried.result().worker_id) == (Stage.GENERATING, None)

    async with carrying(resources) as peer:
        job = await peer.finish(carried.result())

    assert (job.status, job.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)
