"""
No user has more videos under way than they may, who waits for one of them is called, and what a
user is charged for in the line for places is what they had.
"""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import orjson
import pytest

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, quick
from vidgen import JobStatus, VideoJob
from vidgen.dispatch import Dispatch
from vidgen.line import AHEAD, LINE_BEGIN, MESSAGE_PREFIX, share_name, shares_name
from vidgen.pipeline.recall import recall_of_users
from vidgen.resources import Resources
from vidgen.settings import Settings
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"user_concurrency": 2, "rate_limit_per_min": 1000})


async def asked(carrier: Carrier, count: int, user_id: str | None) -> list[VideoJob]:
    return [
        await carrier.queue.enqueue(replace(SORA, prompt=f"kite {number}"), user_id=user_id)
        for number in range(count)
    ]


async def carried(carrier: Carrier, jobs: list[VideoJob]) -> None:
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(carrier.carry(job))


async def test_only_so_many_videos_of_a_user_are_under_way(
    quick: None, carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 1.0
    jobs = await asked(carrier, 6, "ada") + await asked(carrier, 3, "bob")
    alone = await asked(carrier, 3, None)

    await carried(carrier, jobs + alone)

    now = [await carrier.queue.get(job.id) for job in jobs]
    assert [job.status for job in now].count(JobStatus.COMPLETED) == 2 + 2
    assert [job.status for job in now].count(JobStatus.PENDING) == 4 + 1
    assert len(simulator.sora.bill) == 4 + 3, "who has no user has no limit"


async def test_who_waits_is_called_when_another_one_has_ended(
    quick: None, carrier: Carrier, resources: Resources, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 1.0
    jobs = await asked(carrier, 5, "ada")
    await carried(carrier, jobs)

    await carrier.sweep()

    waiting = [job for job in [await carrier.queue.get(job.id) for job in jobs] if not job.is_final]
    soon = [job for job in waiting if job.due_at and job.due_at <= soon_after(resources)]
    assert (len(waiting), len(soon)) == (3, 2)


async def test_without_a_limit_nobody_waits_who_was_told_to_under_one(
    quick: None, carrier: Carrier, resources: Resources
) -> None:
    jobs = await asked(carrier, 5, "ada")
    await carried(carrier, jobs)
    without = resources.settings.model_copy(update={"user_concurrency": 0})

    await recall_of_users(replace(resources, settings=without))

    now = [await carrier.queue.get(job.id) for job in jobs]
    assert all(job.is_final or job.due_at <= soon_after(resources) for job in now if job.due_at)


def soon_after(resources: Resources) -> datetime:
    """The worker's clock is not just PostgreSQL's; who was not called waits for half a minute."""
    return resources.clock.now() + timedelta(seconds=5)


async def share_of(resources: Resources, user_id: str) -> float | None:
    shares = shares_name(resources.settings.queue_name)
    score: float | None = await resources.redis.zscore(shares, share_name(user_id, 0))
    return score


async def in_line(resources: Resources, user_id: str) -> None:
    """As if dispatches of this user had been lined up."""
    shares = shares_name(resources.settings.queue_name)
    await resources.redis.zadd(shares, {share_name(user_id, 0): LINE_BEGIN})


async def test_who_is_told_to_come_back_is_not_charged_for_a_place_and_who_submits_is(
    quick: None, carrier: Carrier, resources: Resources, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 1.0
    jobs = await asked(carrier, 3, "ada")
    await in_line(resources, "ada")

    await carried(carrier, jobs)

    seconds = sum(Dispatch.for_job(job).seconds for job in jobs) / len(jobs)
    assert await share_of(resources, "ada") == LINE_BEGIN - seconds * 1000


async def test_a_cancelled_job_leaves_the_line(carrier: Carrier, resources: Resources) -> None:
    job, other = await asked(carrier, 2, "ada")

    await carrier.queue.cancel(job.id)

    names = await resources.redis.zrange(resources.settings.queue_name, 0, -1)
    assert names == [Dispatch.for_job(other).id.encode()]
    assert not await resources.redis.exists(MESSAGE_PREFIX + Dispatch.for_job(job).id)


async def test_what_is_sent_again_lines_up_as_before(
    carrier: Carrier, resources: Resources
) -> None:
    job = await carrier.queue.enqueue(replace(SORA, seconds=12), user_id="ada", priority=3)
    key = MESSAGE_PREFIX + Dispatch.for_job(job).id
    sent = orjson.loads(await resources.redis.get(key))["share"]
    await overdue(resources, job)
    await resources.redis.flushall()

    await carrier.sweep()

    assert orjson.loads(await resources.redis.get(key))["share"] == sent
    assert sent == [share_name("ada", 3), 12_000]


async def test_what_is_paid_for_goes_ahead_of_all_handed_over_or_sent_again(
    quick: None, carrier: Carrier, resources: Resources, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 60
    [job] = await asked(carrier, 1, "ada")
    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.carry(job))
        async with asyncio.timeout(10):
            await simulator.sora.arrived("poll")
        carrier.leases.hand_over(urgent=False)
    job = carrying.result()
    key = MESSAGE_PREFIX + Dispatch.for_job(job).id
    handed_over = orjson.loads(await resources.redis.get(key))["share"]
    await overdue(resources, job)
    await resources.redis.flushall()

    await carrier.sweep()

    sent_again = orjson.loads(await resources.redis.get(key))["share"]
    assert handed_over == sent_again == AHEAD


async def overdue(resources: Resources, job: VideoJob) -> None:
    async with resources.database.connection() as connection:
        await connection.execute(
            "UPDATE video_jobs SET due_at = now() - interval '1 minute' WHERE id = $1", job.id
        )
