"""
Following an operation: look, sleep, look. Thousands of these sleep side by side in one process.
"""

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import assert_never

from loguru import logger

from vidgen import lifecycle
from vidgen.errors import (
    AuthError,
    DatabaseError,
    GenerationTimeoutError,
    OperationLostError,
    ProviderError,
)
from vidgen.lifecycle import Backoff, Prospect, Transition
from vidgen.pipeline import failover
from vidgen.pipeline.leases import Held
from vidgen.pipeline.lookout import MIN_WAIT_S, Follower, Lookout
from vidgen.providers.protocol import MAX_CHARGE_MICROS, Asset, Failed, Progress, Running, Succeeded
from vidgen.resources import Resources

# So many looks in a row may fail before the job shows the error and goes back for a while.
TOLERATED_ERRORS = 3


async def poll(
    resources: Resources, lookout: Lookout, held: Held, first: Progress | None
) -> tuple[Asset, ...]:
    """
    Look until there is a verdict, and write it down; the assets if it is a video, else none.

    Args:
        first: What the receipt already said, or None.

    Raises:
        GenerationTimeoutError: A round of looks ended without a verdict.
        ProviderError: Several looks in a row failed; the operation stays.
        InterruptedStageError: A hand-over, a cancel, or a lost lease.
    """
    settings = resources.settings
    errors = 0
    with lookout.following(held.job) as follower:
        looks_left = settings.poll_max_attempts
        while looks_left > 0:
            wish_s: float | None = None
            try:
                progress = first or await _look(lookout, held, follower)
                errors, held.progressed = 0, True
            except ProviderError as unseen:
                errors += 1
                if errors >= TOLERATED_ERRORS or not _is_passing(unseen):
                    raise
                progress, wish_s = Running(), unseen.retry_after_s
                logger.debug("look failed", code=unseen.code, reason=unseen.message)
                resources.tracing.note("look failed", code=unseen.code)
            except DatabaseError as away:
                # Only a stored key is read for a look. The lease tells when we have to stop.
                progress = Running()
                logger.debug("look put off", code=away.code, reason=away.message)
            first = None
            match progress:
                case Running(percent=percent, poll_after_s=poll_after_s):
                    if percent is not None:
                        lookout.board.note(held.job, percent)
                    wish_s = wish_s or poll_after_s
                    looks_left -= await _sleep(
                        resources, lookout, held, follower, wish_s, looks_left
                    )
                case Succeeded(expires_at=expires_at, cost_micros=cost_micros, assets=assets):
                    change = lifecycle.generated(
                        held.job, expires_at=expires_at, cost_micros=_charge(cost_micros)
                    )
                    await _write_in_turn(resources, held, change)
                    logger.info("video generated", attempt=held.job.attempt)
                    return assets
                case Failed():
                    await _judge(resources, held, progress)
                    return ()
                case _:
                    assert_never(progress)
    raise GenerationTimeoutError(f"no verdict after {settings.poll_max_attempts} looks")


async def _write_in_turn(resources: Resources, held: Held, change: Transition) -> None:
    async with held.interruptible(only_if_urgent=True):  # it is ready: too late to be cancelled
        await resources.verdicts.enter(0)
    try:
        await held.apply(change)
    finally:
        resources.verdicts.leave()


def _charge(told: object) -> int | None:
    """
    What the provider says it charged; None if that is no sum of money, since neither a video nor a
    verdict must be lost to a figure beside it.
    """
    if told is None:
        return None
    if isinstance(told, int) and not isinstance(told, bool) and 0 <= told <= MAX_CHARGE_MICROS:
        return told
    logger.warning("charge not believed, the price of the catalog holds", told=f"{told!r:.60}")
    return None


async def _look(lookout: Lookout, held: Held, follower: Follower) -> Progress:
    async with held.interruptible():
        return await lookout.look(follower)


def _is_passing(error: ProviderError) -> bool:
    return error.retryable or isinstance(error, AuthError | OperationLostError)


async def _judge(resources: Resources, held: Held, verdict: Failed) -> None:
    job, error = held.job, verdict.error
    provider = resources.providers.get(job.provider)
    cost_micros = _charge(verdict.cost_micros)
    # What it says of this very failure holds before what it does in general.
    charged = verdict.charged or provider.charges_failures
    if cost_micros is not None:
        charged = cost_micros > 0
    backoff = Backoff(base_s=resources.settings.backoff_s, jitter=resources.jitter())

    def decide(prospects: Sequence[Prospect]) -> Transition:
        now = resources.clock.now()
        return lifecycle.judged(
            job,
            error,
            charged=charged,
            cost_micros=cost_micros,
            backoff=backoff,
            now=now,
            prospects=prospects,
        )

    await failover.move(resources, held, decide)
    logger.info("generation failed", code=error.code, reason=error.message, attempt=job.attempt)


async def _sleep(
    resources: Resources,
    lookout: Lookout,
    held: Held,
    follower: Follower,
    wish_s: float | None,
    looks_left: int,
) -> int:
    """Wait until the next look is worth it, never past the deadline; how many looks this was."""
    wait_s, left_s = lookout.wait_s(follower, wish_s), math.inf
    deadline_at, now = held.job.deadline_at, resources.clock.now()
    if deadline_at is not None:
        if now >= deadline_at:
            raise GenerationTimeoutError("the provider gave no verdict in time")
        left_s = (deadline_at - now) / timedelta(seconds=1)
    async with held.interruptible():
        return await lookout.nap(
            follower, max(min(wait_s, left_s), MIN_WAIT_S), most=looks_left, until_s=left_s
        )
