"""Money: what was paid is not given up, and nothing is bought that nobody can use."""

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, a_rule, quick
from vidgen import JobStatus
from vidgen.job import EventType, Operation, Stage, VideoJob
from vidgen.providers.protocol import Credential, Progress, Provider, Succeeded
from vidgen.resources import Resources
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]


def without_keys(resources: Resources) -> None:
    config = resources.providers.config
    nothing = {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": "https://api.openai.com/v1"}
    object.__setattr__(config, "endpoints", config.endpoints.over(nothing))


async def test_a_key_that_is_gone_says_nothing_about_a_submit_that_may_have_arrived(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))
    job = await carrier.carry(await carrier.enqueue(SORA))
    config = carrier.resources.providers.config
    before = config.endpoints
    without_keys(carrier.resources)

    job = await carrier.carry(job)

    assert (job.stage, job.attempt, job.status) == (Stage.SUBMITTING, 1, JobStatus.PROCESSING)
    object.__setattr__(config, "endpoints", before)
    done = await carrier.finish(job)
    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)


async def test_a_retry_of_a_lost_operation_looks_at_it_first(
    carrier: Carrier, simulator: SimulatorServer
) -> None:

    simulator.sora.script(a_rule("poll 404", times=30))
    failed = await carrier.finish(await carrier.enqueue(SORA))
    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "operation_lost")
    assert failed.operation is not None
    assert failed.operation.id in (failed.error_message or "")
    simulator.sora._scripted.clear()

    done = await carrier.finish(await carrier.queue.retry(failed.id))

    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)


async def test_nothing_is_bought_after_the_deadline(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit 503", times=1))
    job = await carrier.carry(await carrier.queue.enqueue(SORA, deadline_s=60))
    async with carrier.resources.database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET deadline_at = now() - interval '1 second'")

    done = await carrier.finish(job)

    assert (done.status, done.error_code) == (JobStatus.FAILED, "provider_unavailable")
    assert done.error_message is not None
    assert done.error_message.startswith("not done within its 60 s; last: ")
    assert not simulator.sora.bill


async def test_a_cancel_that_comes_before_the_intent_costs_nothing(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    job = await carrier.enqueue(SORA)
    limit = carrier.resources.rate_limit
    reserve, asked, go = limit.reserve, asyncio.Event(), asyncio.Event()

    async def slow_reserve(*args: object, **more: object) -> object:
        asked.set()
        await go.wait()
        return await reserve(*args, **more)  # type: ignore[arg-type]

    object.__setattr__(limit, "reserve", slow_reserve)
    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.finish(job))
        async with asyncio.timeout(5):
            await asked.wait()
        await carrier.queue.cancel(job.id)
        go.set()
        done = await carrying

    assert (done.status, done.actual_cost_micros) == (JobStatus.CANCELLED, 0)
    assert not simulator.sora.bill


async def test_a_long_wish_to_wait_does_not_give_up_what_is_paid(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll 429-retry-after 3000", times=1))

    job = await carrier.finish(await carrier.queue.enqueue(SORA, deadline_s=2))

    assert job.status is JobStatus.COMPLETED  # looked at once more at the very end


async def test_an_old_turn_under_the_rate_limit_is_not_used(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    job = await carrier.enqueue(SORA)
    async with carrier.resources.database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET slot_at = now() - interval '30 seconds'")
    object.__setattr__(carrier.resources.rate_limit, "_limit_per_min", 1)
    await carrier.finish(await carrier.enqueue(SORA))

    waiting = await carrier.carry(job)

    assert (waiting.status, len(simulator.sora.bill)) == (JobStatus.PENDING, 1)
    types = [event.type for event in await carrier.queue.history(job.id)]
    assert EventType.POSTPONED in types


async def test_a_worker_without_the_provider_says_nothing_about_a_submit_that_may_have_arrived(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))
    job = await carrier.carry(await carrier.enqueue(SORA))
    job = await renamed(carrier, job, "of-a-package-that-is-not-here")

    job = await carrier.carry(job)

    assert (job.stage, job.attempt, job.status) == (Stage.SUBMITTING, 1, JobStatus.PROCESSING)
    done = await carrier.finish(await renamed(carrier, job, "sora"))
    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)


async def renamed(carrier: Carrier, job: VideoJob, provider: str) -> VideoJob:
    async with carrier.resources.database.connection() as connection:
        await connection.execute(
            "UPDATE video_jobs SET provider = $2 WHERE id = $1", job.id, provider
        )
    return replace(job, provider=provider)


@dataclass
class Odd:
    """A provider that says of every video that it cost *told*."""

    inner: Provider
    told: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        progress = await self.inner.poll(operation, credential)
        if isinstance(progress, Succeeded):
            return replace(progress, cost_micros=self.told)
        return progress


@pytest.mark.parametrize("told", [-1, 1.5, True, 2**70, 10**9 + 1, "400000"])
async def test_a_video_is_not_lost_to_a_charge_that_is_no_sum_of_money(
    carrier: Carrier, told: object
) -> None:
    providers = carrier.resources.providers
    providers.by_name["sora"] = Odd(providers.get("sora"), told)

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert job.status is JobStatus.COMPLETED
    assert job.actual_cost_micros == job.estimated_cost_micros


async def test_a_charge_that_is_one_holds_before_the_price(carrier: Carrier) -> None:
    providers = carrier.resources.providers
    providers.by_name["sora"] = Odd(providers.get("sora"), 123_456)

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.actual_cost_micros) == (JobStatus.COMPLETED, 123_456)
