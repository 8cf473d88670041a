"""
What the ledger has to say of a job, told from its row and its timeline by other means than the
triggers'.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vidgen import lifecycle
from vidgen.job import EventType, JobEvent, JobStatus, JsonValue, Stage, VideoJob
from vidgen.store import budgets, events, ledger
from vidgen.store.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Micro-dollars of one job."""

    open: int
    charged: int
    wasted: int
    uncertain: int


def told(job: VideoJob, unknown_micros: Sequence[int] = ()) -> Books:
    """
    What the row says; *unknown_micros* are the prices of attempts that only their targets know, as
    far as the timeline tells of them.
    """
    paid, estimate = job.actual_cost_micros or 0, job.estimated_cost_micros or 0
    brought_nothing = job.status in {JobStatus.FAILED, JobStatus.CANCELLED}
    wasted = paid if brought_nothing else job.lost_cost_micros
    unknown = lifecycle.unknown_attempts(job) - len(unknown_micros)
    uncertain = unknown * estimate + sum(unknown_micros)
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
        prices = _unknown(job, await events.of_job(connection, job.id))
        assert (job.id, await entered(connection, job)) == (job.id, told(job, prices))
    assert await budgets.discrepancies(connection) == []


def _unknown(job: VideoJob, history: Sequence[JobEvent]) -> list[int]:
    """The prices of attempts that only their targets know, as far as the timeline tells."""
    targets = job.targets or (job,)
    target, found = 0, list[int | None]()
    for event in history:
        match event.type:
            case EventType.REROUTED:
                target = _number(event.detail["to"])
            case EventType.SUBMITTED if event.detail.get("returned"):
                target = _number(event.detail["target"])
            case EventType.RETRIED if event.detail["pays_again"]:
                target = 0
            case EventType.REATTEMPTED if event.detail.get("may_be_paid_twice"):
                found.append(targets[target].estimated_cost_micros)
            case EventType.OVERTAKEN:
                price = event.detail["estimated_cost_micros"]
                assert price is None or isinstance(price, int)
                found.append(price)
            case _:
                pass
    return [price or 0 for price in found]


def _number(place: JsonValue) -> int:
    assert isinstance(place, dict)  # as `lifecycle` writes it
    number = place["target"]
    assert isinstance(number, int)
    return number
