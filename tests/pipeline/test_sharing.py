"""No user has more videos under way than they may, and who waits for one of them is called."""

import asyncio
from dataclasses import replace

import pytest

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, quick
from vidgen import JobStatus, VideoJob
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
    soon = [job for job in waiting if job.due_at and job.due_at <= resources.clock.now()]
    assert (len(waiting), len(soon)) == (3, 2)


async def test_without_a_limit_nobody_waits_who_was_told_to_under_one(
    quick: None, carrier: Carrier, resources: Resources
) -> None:
    jobs = await asked(carrier, 5, "ada")
    await carried(carrier, jobs)
    without = resources.settings.model_copy(update={"user_concurrency": 0})

    await recall_of_users(replace(resources, settings=without))

    now = [await carrier.queue.get(job.id) for job in jobs]
    assert all(job.is_final or job.due_at <= resources.clock.now() for job in now if job.due_at)
