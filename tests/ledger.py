"""
What the ledger has to say of a job, told from its row and its timeline by other means than the
triggers'.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vidgen import lifecycle
from vidgen.job import EventType, JobStatus, Stage, VideoJob
from vidgen.store import budgets, events, ledger
from vidgen.store.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Micro-dollars of one job."""

    open: int
    charged: int
    wasted: int
    uncertain: int


def told(job: VideoJob, overtaken: Sequence[int] = ()) -> Books:
    """What the row says; *overtaken* are the prices of targets whose receipts came too late."""
    paid, estimate = job.actual_cost_micros or 0, job.estimated_cost_micros or 0
    brought_nothing = job.status in {JobStatus.FAILED, JobStatus.CANCELLED}
    wasted = paid if brought_nothing else job.lost_cost_micros
    unknown = lifecycle.unknown_attempts(job) - len(overtaken)
    uncertain = unknown * estimate + sum(overtaken)
    waits = job.stage is Stage.QUEUED or lifecycle.outstanding(job)
    return Books(
        open=estimate if waits and not job.is_final else 0,
        charged=paid - wasted,
        wasted=wasted + uncertain,
        uncertain=uncertain,
    )


async def entered(connection: Connection, job: VideoJob) -> Books:
    """What the ledger says."""
    sums = await ledger.balance(connection, [job.id])
    return Books(
        open=sums.open_micros,
        charged=sums.charged_micros,
        wasted=sums.wasted_micros,
        uncertain=sums.uncertain_micros,
    )


async def assert_kept(connection: Connection, *jobs: VideoJob) -> None:
    """The ledger agrees with each row, and the counts of the budgets with the ledger."""
    for job in jobs:
        overtaken = [
            int(str(event.detail["estimated_cost_micros"] or 0))
            for event in await events.of_job(connection, job.id)
            if event.type is EventType.OVERTAKEN
        ]
        assert (job.id, await entered(connection, job)) == (job.id, told(job, overtaken))
    assert await budgets.discrepancies(connection) == []
