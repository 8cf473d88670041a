"""
When will it be done? From how long such videos took, and where the job stands. Pure.

Nothing here promises: half of the videos are done by `p50`, nine of ten by `p90`.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from vidgen.job import Stage, VideoJob

# An estimate that has passed is none: at least so long from now.
SOON_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Videos that take about equally long. 0 and '' where the request left it to the model."""

    provider: str
    model: str
    seconds: int
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """
    How long videos of a kind took, in seconds.

    Attributes:
        samples: From how many videos that was learnt; 0 if it was not.
        generated_p50: From the receipt to the verdict, in half of all cases.
        stored_p50: From the verdict to the stored video.
    """

    samples: int
    generated_p10: float
    generated_p50: float
    generated_p90: float
    stored_p50: float
    stored_p90: float


# What vendors' documentation says of their own models: one to five minutes.
UNKNOWN = Duration(
    samples=0,
    generated_p10=30.0,
    generated_p50=90.0,
    generated_p90=300.0,
    stored_p50=5.0,
    stored_p90=20.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """
    Where a waiting job stands.

    Attributes:
        position: 1 is next, among all that are due.
        same_provider: The same among those of its provider, who share its limits.
    """

    position: int
    same_provider: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """
    How fast a line moves.

    Attributes:
        slots: Videos that all living workers together may have in flight.
        limit_per_min: Submits a minute to the job's provider.
    """

    slots: int
    limit_per_min: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Eta:
    """
    When a video will be stored.

    Attributes:
        basis: Whether such videos have been seen, or the documentation is all there is.
        samples: How many have been seen.
    """

    p50: datetime
    p90: datetime
    basis: Literal["history", "default"]
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """
    What a job that is not final may expect.

    Attributes:
        eta: None for a final one.
        queue_position: 1 is next; None if it does not wait in the line.
    """

    eta: Eta | None = None
    queue_position: int | None = None


def kind_of(job: VideoJob) -> Kind:
    """What the time of *job* depends on."""
    seconds, size = job.parameters.get("seconds"), job.parameters.get("size")
    shape = [job.parameters.get(name) for name in ("aspect_ratio", "resolution")]
    return Kind(
        provider=job.provider,
        model=job.model,
        seconds=seconds if isinstance(seconds, int) else 0,
        size=str(size) if size else " ".join(str(part) for part in shape if part),
    )


def eta(
    job: VideoJob, *, now: datetime, learnt: Duration | None, place: Place | None, line: Capacity
) -> Eta | None:
    """
    When *job* will be done, never in the past; None if it is final.

    Args:
        learnt: How long its kind takes, None if no such video has been made yet.
        place: Where it stands in the line; None if it does not wait there.
    """
    if job.is_final:
        return None
    took = learnt or UNKNOWN
    wait_s = _wait_s(job, now, took, place, line)
    p50_s, p90_s = _work_s(job, now, took)
    return Eta(
        p50=_later(now, max(wait_s + p50_s, SOON_S)),
        p90=_later(now, max(wait_s * 1.5 + p90_s, SOON_S)),
        basis="history" if learnt else "default",
        samples=took.samples,
    )


def _later(now: datetime, wait_s: float) -> datetime:
    """*now* and so many seconds, or the end of all days: somebody may wish for the year 9999."""
    try:
        return now + timedelta(seconds=wait_s)
    except OverflowError:
        return datetime.max.replace(tzinfo=now.tzinfo)


def _wait_s(
    job: VideoJob, now: datetime, took: Duration, place: Place | None, line: Capacity
) -> float:
    until_due_s = (job.due_at - now).total_seconds() if job.due_at else 0.0
    if place is None:
        return max(until_due_s, 0.0)
    turns_s = (place.same_provider - 1) * 60 / line.limit_per_min
    rounds = math.ceil(place.position / max(line.slots, 1)) - 1
    return max(until_due_s, turns_s, rounds * (took.generated_p50 + took.stored_p50), 0.0)


def _work_s(job: VideoJob, now: datetime, took: Duration) -> tuple[float, float]:
    generating_s = (
        _left(job.submitted_at, now, took.generated_p50, took.generated_p90)
        if job.stage is Stage.GENERATING
        else (0.0, 0.0)
        if job.stage is Stage.TRANSFERRING
        else (took.generated_p50, took.generated_p90)
    )
    storing_s = (
        _left(job.generated_at, now, took.stored_p50, took.stored_p90)
        if job.stage is Stage.TRANSFERRING
        else (took.stored_p50, took.stored_p90)
    )
    return generating_s[0] + storing_s[0], generating_s[1] + storing_s[1]


def _left(since: datetime | None, now: datetime, p50: float, p90: float) -> tuple[float, float]:
    """What is left of a stretch that began at *since*: the longer it takes, the longer it will."""
    gone_s = max((now - since).total_seconds(), 0.0) if since else 0.0
    if gone_s < p50:
        return p50 - gone_s, max(p90 - gone_s, 0.0)
    if gone_s < p90:
        return (p90 - gone_s) / 2, p90 - gone_s
    return gone_s * 0.1, gone_s * 0.5
