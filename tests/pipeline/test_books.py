"""Whatever becomes of jobs: what vidgen says they cost is what their providers billed."""

import asyncio

import pytest

from tests.ledger import assert_kept
from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import a_rule, quick
from vidgen import JobStatus, VideoJob, VideoRequest, lifecycle, metrics
from vidgen.cli import tables
from vidgen.simulator.server import SimulatorServer
from vidgen.store import history, ledger

__all__ = ["quick"]


class Books:
    """What a job cost by the bill of its provider, and what the money of this process came to."""

    def __init__(self, carrier: Carrier, simulator: SimulatorServer) -> None:
        self.carrier = carrier
        self.simulator = simulator
        self._before = (_total("vidgen_spend_dollars"), _total("vidgen_waste_dollars"))

    async def ask(self, provider: str, prompt: str) -> VideoJob:
        request = VideoRequest(provider=provider, prompt=prompt, seconds=4)
        return await self.carrier.enqueue(request)

    def billed(self, job: VideoJob) -> list[int]:
        """What each accepted submit of *job* costs."""
        bill = self.simulator.simulators[job.provider].bill
        return [charge.cost_micros for charge in bill if charge.prompt == job.prompt]

    def grown(self) -> tuple[int, int]:
        """Spent and wasted micro-dollars by the metrics."""
        spent, wasted = self._before
        return (
            _total("vidgen_spend_dollars") - spent,
            _total("vidgen_waste_dollars") - wasted,
        )

    async def cancel_at(self, job: VideoJob, deed: str, *, discard: bool = False) -> VideoJob:
        provider = self.simulator.simulators[job.provider]
        seen = len(provider.of(deed))  # type: ignore[arg-type]  # a deed
        async with asyncio.TaskGroup() as group:
            carrying = group.create_task(self.carrier.finish(job))
            async with asyncio.timeout(10):
                await provider.arrived(deed, seen + 1)  # type: ignore[arg-type]  # a deed
            await self.carrier.queue.cancel(job.id, discard=discard)
            return await carrying


def _total(family: str) -> int:
    return round(
        1_000_000
        * sum(
            sample.value
            for found in metrics.REGISTRY.collect()
            if found.name == family
            for sample in found.samples
            if sample.name == f"{family}_total"
        )
    )


@pytest.fixture
def books(carrier: Carrier, simulator: SimulatorServer) -> Books:
    changed = carrier.resources.settings.model_copy(update={"on_submit_unknown": "resubmit"})
    object.__setattr__(carrier.resources, "settings", changed)
    return Books(carrier, simulator)


async def test_the_books_agree_with_the_bills(
    books: Books, carrier: Carrier, simulator: SimulatorServer
) -> None:
    finish, queue = carrier.finish, carrier.queue
    sora, veo = simulator.sora, simulator.veo

    completed = await finish(await books.ask("sora", "completed"))

    sora.script(a_rule("poll cancelled", times=1))  # a failure that may be billed
    charged = await finish(await books.ask("sora", "failed charged"))
    sora.script(a_rule("poll moderation", times=1))
    uncharged = await finish(await books.ask("sora", "failed uncharged"))
    sora.script(a_rule("submit 400", times=1))
    refused = await finish(await books.ask("sora", "refused"))
    sora.script(a_rule("poll failed", times=1))
    second_try = await finish(await books.ask("sora", "failed uncharged, then made"))

    before = await queue.cancel((await books.ask("sora", "cancelled before")).id)
    sora.generation_s = veo.generation_s = 30
    stopped = await books.cancel_at(await books.ask("sora", "cancelled at"), "poll")
    unstoppable = await books.cancel_at(await books.ask("veo", "cannot be stopped"), "poll")
    sora.generation_s = veo.generation_s = 0.1
    sora.script(a_rule("content slow 8k", times=1))
    after = await books.cancel_at(
        await books.ask("sora", "cancelled after"), "content", discard=True
    )

    sora.script(a_rule("poll cancelled", times=1))
    failed = await finish(await books.ask("sora", "made anew"))
    made_anew = await finish(await queue.retry(failed.id, anew=True))
    sora.script(a_rule("poll cancelled", times=1))
    failed = await finish(await books.ask("sora", "retried and cancelled"))
    retried = await queue.cancel((await queue.retry(failed.id)).id)

    veo.script(a_rule("submit accept-then-disconnect", times=1))
    resubmitted = await finish(await books.ask("veo", "resubmitted"))
    veo.script(a_rule("submit accept-then-disconnect", times=1))
    job = await carrier.carry(await books.ask("veo", "resubmitted and cancelled"))
    unknown = await queue.cancel(job.id)

    async with carrier.resources.database.connection() as connection:
        today = await history.spend_today(connection)
        sums = await ledger.balance(connection)
        charts = await history.buckets(connection, hours=1, bucket_s=60)

    [price] = books.billed(completed)
    [veo_price] = books.billed(unstoppable)
    costs = [
        (completed, JobStatus.COMPLETED, price, 0, 1),
        (charged, JobStatus.FAILED, price, 0, 1),
        (uncharged, JobStatus.FAILED, 0, 0, 1),
        (refused, JobStatus.FAILED, 0, 0, 0),
        (second_try, JobStatus.COMPLETED, price, 0, 2),
        (before, JobStatus.CANCELLED, 0, 0, 0),
        (stopped, JobStatus.CANCELLED, None, 1, 1),
        (unstoppable, JobStatus.CANCELLED, veo_price, 0, 1),
        (after, JobStatus.CANCELLED, price, 0, 1),
        (made_anew, JobStatus.COMPLETED, 2 * price, 0, 2),
        (retried, JobStatus.CANCELLED, price, 0, 1),
        (resubmitted, JobStatus.COMPLETED, veo_price, 1, 2),
        (unknown, JobStatus.CANCELLED, None, 1, 1),
    ]
    for job, status, cost, unknowns, bills in costs:
        assert (job.prompt, job.status) == (job.prompt, status)
        assert (job.prompt, job.actual_cost_micros) == (job.prompt, cost)
        assert (job.prompt, lifecycle.unknown_attempts(job)) == (job.prompt, unknowns)
        assert (job.prompt, len(books.billed(job))) == (job.prompt, bills)
    # Of all that was billed, two failures are not charged, and three attempts nobody can tell.
    billed = sum(sum(books.billed(job)) for job, *_ in costs)
    doubtful = price + 2 * veo_price
    spend = billed - 2 * price - doubtful
    waste = doubtful + veo_price + 4 * price
    assert (today.spend_micros, today.unknown_micros) == (spend, doubtful)
    assert today.waste_micros == waste
    assert sum(bucket.spend_micros for bucket in charts) == spend
    assert books.grown() == (spend, waste)
    # Two failures that are not charged are all that the ledger has not of the bills.
    assert sums.charged_micros + sums.wasted_micros == billed - 2 * price
    assert (sums.open_micros, sums.uncertain_micros, sums.wasted_micros) == (0, doubtful, waste)
    async with carrier.resources.database.connection() as connection:
        await assert_kept(connection, *[job for job, *_ in costs])
    told = [tables.cost(job) for job in (made_anew, before, stopped, resubmitted)]
    dollars = [f"${micros / 1_000_000:.2f}" for micros in (2 * price, 0, veo_price)]
    assert told == [dollars[0], dollars[1], "?", f"{dollars[2]} + ?"]
