"""
A submit that may have arrived: find out what became of it, and spend nothing meanwhile.

    its receipt is in the bucket, where it waited for PostgreSQL: it is as good as stored
    the provider lists it       adopt it: it is ours, or an equal video somebody else did not claim
    the list lacks it for long  it never arrived; the same attempt is made again, or one at the
                                job's next target
    the provider cannot list, or its list proves nothing
                                `submit_unknown`, unless a setting says to spend again
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from loguru import logger

from vidgen import lifecycle, prompts
from vidgen.errors import (
    AuthError,
    DatabaseError,
    KeyUnreadableError,
    LeaseLostError,
    OperationTakenError,
    RequestError,
    StorageError,
    SubmitUnknownError,
    VidgenError,
)
from vidgen.job import Operation
from vidgen.lifecycle import Backoff, Prospect, Transition
from vidgen.pipeline import credentials, failover, receipts
from vidgen.pipeline.leases import Held, Leases
from vidgen.providers.protocol import Submission
from vidgen.providers.registry import FindsRecent
from vidgen.resources import Resources
from vidgen.store import events
from vidgen.store.rows import request_of

# The provider's clock and the database's may differ by so much.
CLOCK_SKEW = timedelta(seconds=60)
FIRST_LOOK_S = 1.0


async def put_off(resources: Resources, held: Held, error: SubmitUnknownError) -> None:
    """Write that a paid call just made may have arrived; whoever claims the job next settles it."""
    logger.warning("submit may have arrived", code=error.code, reason=error.message)
    try:
        finder = resources.providers.finder(held.job.provider)
    except RequestError as lacking:
        await _look_again(resources, held, lacking)
        return
    if finder is None:
        await _undecidable(resources, held, error)
    else:
        change = lifecycle.unsettled(held.job, error, wait_s=FIRST_LOOK_S, call_ended=True)
        await held.apply(change)


async def settle(resources: Resources, leases: Leases, held: Held) -> None:
    """
    Look once for the operation of an attempt whose receipt is missing, and act on what is found.

    The provider is asked with the credential of the intent: another one's list would prove nothing.

    Raises:
        KeyUnreadableError: It does not open; nothing is known and nothing decided.
        DatabaseError: PostgreSQL is away.
    """
    job = held.job
    error = SubmitUnknownError(
        "the receipt of the paid request is missing: a video may have been started and billed"
    )
    try:
        kept = await receipts.find(resources, job.id, job.attempt)
    except StorageError as unseen:  # it may be there
        await _look_again(resources, held, unseen)
        return
    if kept is not None and await _adopt(leases, held, kept):
        return
    try:
        finder = resources.providers.finder(job.provider)
    except RequestError as lacking:
        # A plug-in that is missing or broken here says nothing about the call.
        await _look_again(resources, held, lacking)
        return
    if finder is None:
        await _undecidable(resources, held, error)
        return
    try:
        found, is_proof = await _unclaimed(resources, held, finder)
    except SubmitUnknownError as refused:
        await _undecidable(resources, held, refused)
        return
    except (DatabaseError, KeyUnreadableError, LeaseLostError):
        raise
    except VidgenError as unseen:  # whatever it is, it says nothing about the paid call
        await _look_again(resources, held, unseen)
        return
    for operation in found:
        if await _adopt(leases, held, operation):
            return
    if resources.clock.now() < await _settled_at(resources, held):
        await _look_again(resources, held, error)
        return
    if not is_proof:
        unproven = SubmitUnknownError(
            "the receipt of the paid request is missing, and the provider's list of videos does not"
            " prove that no video was started"
        )
        await _undecidable(resources, held, unproven)
        return

    def decide(prospects: Sequence[Prospect]) -> Transition:
        return lifecycle.disproved(job, prospects=prospects, now=resources.clock.now())

    await failover.move(resources, held, decide)
    logger.info("submit provably never arrived", attempt=job.attempt)


async def _unclaimed(
    resources: Resources, held: Held, finder: FindsRecent
) -> tuple[list[Operation], bool]:
    """
    What the provider lists that is like ours and belongs to no attempt yet, the oldest first; and
    whether there being nothing proves that nothing was started.
    """
    job = held.job
    assert job.intent_at is not None  # CHECK promises it
    credential = await credentials.resolve(resources, job)
    request = request_of(prompts.opened(resources.vault, job))
    submission = Submission(job_id=job.id, attempt=job.attempt, request=request)
    try:
        listing = await finder.find_recent(submission, job.intent_at - CLOCK_SKEW, credential)
    except AuthError as error:
        raise credentials.named(error, job, credential) from error
    listed = (*listing.candidates, *listing.doubtful)
    if not listed:
        return [], listing.trusted
    async with resources.database.connection() as connection:
        taken = await events.taken_operations(
            connection, listed[0].endpoint, [operation.id for operation in listed]
        )
    found = [each for each in reversed(listing.candidates) if each.id not in taken]
    return found, listing.trusted and all(each.id in taken for each in listing.doubtful)


async def _adopt(leases: Leases, held: Held, operation: Operation) -> bool:
    change = lifecycle.submitted(held.job.attempt, operation, adopted=True)
    try:
        held.job = await leases.receive(held.job, change)
    except OperationTakenError:
        return False  # an equal video's receipt, or its adoption, was faster
    logger.info("operation adopted", operation_id=operation.id, attempt=held.job.attempt)
    await leases.announce(held.job)
    return True


async def _settled_at(resources: Resources, held: Held) -> datetime:
    """
    When a video that was started would be in the list by now.

    Counted from the end of the call, and never sooner than a server may hold one: a gateway that
    hung up, or was hung up on, may still pass it on.
    """
    settings, job = resources.settings, held.job
    assert job.intent_at is not None  # CHECK promises it
    longest = timedelta(seconds=settings.submit_timeout_s)
    async with resources.database.connection() as connection:
        ended_at = await events.call_ended_at(connection, job.id)
    if ended_at is None:
        # Its worker died with it, and may have sent it until its lease ran out.
        ended_at = job.intent_at + timedelta(seconds=settings.lease_ttl_s) + longest
    return max(ended_at, job.intent_at + longest) + timedelta(seconds=settings.settle_s)


async def _look_again(resources: Resources, held: Held, error: VidgenError) -> None:
    job, now = held.job, resources.clock.now()
    backoff = Backoff(base_s=resources.settings.backoff_s, jitter=resources.jitter())
    wait_s = backoff.wait_s(job.failures, error.retry_after_s)
    if job.deadline_at is not None and now + timedelta(seconds=wait_s) >= job.deadline_at:
        unknown = SubmitUnknownError(f"not settled before the deadline; last: {error.message}")
        await _undecidable(resources, held, unknown)
        return
    await held.apply(lifecycle.unsettled(job, error, wait_s=wait_s))


async def _undecidable(resources: Resources, held: Held, error: SubmitUnknownError) -> None:
    if resources.settings.on_submit_unknown == "resubmit":
        logger.warning("submitting again though the first may be paid", attempt=held.job.attempt)
        await held.apply(lifecycle.resubmitted(held.job, error))
    else:
        await held.apply(lifecycle.failed(held.job, error))
