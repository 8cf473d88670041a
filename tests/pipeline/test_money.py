"""Money: what was paid is not given up, and nothing is bought that nobody can use."""

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.ledger import assert_kept
from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, a_rule, quick
from vidgen import Fallback, JobStatus
from vidgen.job import EventType, Operation, Stage, VideoJob
from vidgen.providers.protocol import Credential, Progress, Provider, Running
from vidgen.resources import Resources
from vidgen.simulator.server import SimulatorServer
from vidgen.store import budgets, ledger

__all__ = ["quick"]

PAID = {"charged", "wasted"}


def without_keys(resources: Resources) -> None:
    """As a worker has it whose settings name no key."""
    config = resources.providers.config
    nothing = {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": "https://api.openai.com/v1"}
    keyless = replace(config, endpoints=config.endpoints.over(nothing))
    object.__setattr__(resources, "providers", replace(resources.providers, config=keyless))


async def test_a_key_that_is_gone_says_nothing_about_a_submit_that_may_have_arrived(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))
    job = await carrier.carry(await carrier.enqueue(SORA))
    before = carrier.resources.providers
    without_keys(carrier.resources)

    job = await carrier.carry(job)

    assert (job.stage, job.attempt, job.status) == (Stage.SUBMITTING, 1, JobStatus.PROCESSING)
    object.__setattr__(carrier.resources, "providers", before)
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
    """A provider that says of every video, and of every failure, that it cost *told*."""

    inner: Provider
    told: Any
    charges_failures: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        progress = await self.inner.poll(operation, credential)
        if isinstance(progress, Running):
            return progress
        return replace(progress, cost_micros=self.told)


def told(carrier: Carrier, cost: object, *, charges_failures: bool = False) -> None:
    providers = carrier.resources.providers
    providers.by_name["sora"] = Odd(providers.get("sora"), cost, charges_failures)


@pytest.mark.parametrize("cost", [-1, 1.5, True, 2**70, 10**9 + 1, "400000"])
async def test_a_video_is_not_lost_to_a_charge_that_is_no_sum_of_money(
    carrier: Carrier, cost: object
) -> None:
    told(carrier, cost)

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert job.status is JobStatus.COMPLETED
    assert job.actual_cost_micros == job.estimated_cost_micros


async def test_a_charge_that_is_one_holds_before_the_price(carrier: Carrier) -> None:
    told(carrier, 123_456)

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.actual_cost_micros) == (JobStatus.COMPLETED, 123_456)


@pytest.mark.parametrize("cost", [123_456, 400_000, 700_000])
async def test_a_failure_wastes_what_its_provider_says_it_cost(
    carrier: Carrier, simulator: SimulatorServer, cost: int
) -> None:
    async with carrier.resources.database.connection() as connection:
        await budgets.put(connection, "all", "day", 1_000_000, "ops")
    simulator.sora.script(a_rule("poll moderation"))
    told(carrier, cost)

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.error_code) == (JobStatus.FAILED, "content_blocked")
    assert (job.estimated_cost_micros, job.actual_cost_micros) == (400_000, cost)
    async with carrier.resources.database.connection() as connection:
        entries = await ledger.of_job(connection, job.id)
        [used] = await budgets.listed(connection)
        await assert_kept(connection, job)
    sums = Counter[str]()
    for entry in entries:
        sums[entry.kind] += entry.micros
    assert (sums["wasted"], sums["charged"]) == (cost, 0)
    assert sums["reserved"] == max(cost, 400_000)
    assert sums["released"] == max(400_000 - cost, 0)
    assert (used.spent_micros, used.reserved_micros) == (cost, 0)
    [*_, end] = await carrier.queue.history(job.id)
    assert (end.type, end.detail["cost_micros"]) == (EventType.FAILED, cost)


async def test_a_failure_that_is_said_to_cost_nothing_is_tried_again_whatever_is_usual(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll failed"))
    told(carrier, 0, charges_failures=True)

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.attempt, job.actual_cost_micros) == (JobStatus.FAILED, 3, 0)
    async with carrier.resources.database.connection() as connection:
        sums = await ledger.balance(connection)
        await assert_kept(connection, job)
    assert (sums.wasted_micros, sums.open_micros) == (0, 0)
    assert sums.released_micros == sums.reserved_micros == 400_000


@pytest.mark.parametrize("cost", [None, -1, "90000"])
async def test_a_failure_without_a_sum_of_money_is_charged_as_is_usual(
    carrier: Carrier, simulator: SimulatorServer, cost: object
) -> None:
    simulator.sora.script(a_rule("poll failed"))
    told(carrier, cost, charges_failures=True)

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.attempt, job.actual_cost_micros) == (JobStatus.FAILED, 1, 400_000)


async def test_a_job_leaves_a_failure_with_what_that_cost(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll failed"))
    told(carrier, 50_000)
    request = replace(
        SORA,
        size="1280x720",
        fallbacks=[Fallback(provider="veo", model="veo-3.1-lite-generate-preview")],
        reroute_on=["charged"],
        max_cost_micros=450_000,
    )

    job = await carrier.finish(await carrier.enqueue(request))

    assert (job.status, job.provider, job.attempt) == (JobStatus.COMPLETED, "veo", 2)
    assert job.actual_cost_micros == 50_000 + simulator.veo.bill[0].cost_micros
    async with carrier.resources.database.connection() as connection:
        entries = await ledger.of_job(connection, job.id)
        await assert_kept(connection, job)
    paid = [(one.kind, one.provider, one.micros) for one in entries if one.kind in PAID]
    assert paid == [
        ("wasted", "sora", 50_000),
        ("charged", "veo", simulator.veo.bill[0].cost_micros),
    ]
