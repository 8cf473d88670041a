"""
What a `Transition` means, in Python; that PostgreSQL gives it the same meaning is shown in
`tests/store/test_interleavings.py`.
"""

from dataclasses import replace
from typing import Any
from uuid import UUID

from tests.builders import NOON, WORKER
from vidgen.job import EventType, Operation, VideoJob
from vidgen.lifecycle import Hold, Holder, Transition


class GuardRefusedError(Exception):
    """Zero rows."""


def played(
    job: VideoJob, change: Transition, *, by_holder: bool = True, worker_id: UUID = WORKER
) -> VideoJob:
    """*job* after *change*, as far as no clock is concerned; *worker_id* is who takes it."""
    held = job.worker_id is not None
    allowed = {
        Holder.LEASE: held and by_holder,
        Holder.NOBODY: not held,
        Holder.ANYONE: True,
    }[change.holder]
    if (
        not allowed
        or job.status not in change.statuses
        or job.stage not in change.stages
        or change.attempt not in {None, job.attempt}
        or change.settled_attempt not in {None, job.settled_attempt or 0}
        or (change.unless_cancelled and job.cancel_requested_at is not None)
    ):
        raise GuardRefusedError
    # Columns that no job shows are PostgreSQL's own.
    values: dict[str, Any] = {
        name: value for name, value in change.changes.items() if hasattr(job, name)
    }
    if "target" in values:
        there = job.targets[values["target"]]
        values |= {
            "provider": there.provider,
            "model": there.model,
            "estimated_cost_micros": there.estimated_cost_micros,
            "parameters": job.target_parameters[values["target"]],
        }
    if values.get("operation"):
        values["operation"] = Operation(**values["operation"])
    if change.event is EventType.CANCEL_REQUESTED:
        values["cancel_requested_at"] = job.cancel_requested_at or NOON
    elif change.event is EventType.RETRIED:
        values["cancel_requested_at"] = None
        values["deadline_at"] = None
    taken = change.hold is Hold.TAKE
    kept = job.worker_id if change.hold is Hold.KEEP else None
    return replace(
        job,
        **values,
        status=change.status or job.status,
        stage=change.stage or job.stage,
        worker_id=worker_id if taken else kept,
        lease_epoch=job.lease_epoch + taken,
    )
