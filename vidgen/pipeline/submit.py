"""
The paid call: a turn under the rate limit, the intent, the call, the receipt.

What if the process dies between two of them? Before the intent: nothing was sent. Between intent
and
receipt: nobody knows, and nothing is sent again by itself. After the receipt: the operation is
polled.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from loguru import logger

from vidgen import catalog, image, lifecycle, metrics, prompts
from vidgen.breaker import Passage
from vidgen.errors import (
    AuthError,
    DispatchError,
    InvalidRequestError,
    LeaseLostError,
    OperationTakenError,
    ProviderError,
    QuotaExhaustedError,
    SubmitUnknownError,
    TransientError,
    UserLimitError,
)
from vidgen.image import MAX_IMAGE_BYTES
from vidgen.job import SERVER_CREDENTIAL, InputImage, VideoJob, VideoRequest, seconds_of
from vidgen.pipeline import credentials, failover, receipts
from vidgen.pipeline.leases import Held, Leases
from vidgen.providers.protocol import (
    Credential,
    ImageBytes,
    Progress,
    Running,
    Submission,
    Submitted,
)
from vidgen.resources import Resources
from vidgen.store import inputs, sharing
from vidgen.store.inputs import StoredInput
from vidgen.store.rows import request_of

# A turn so near is waited for with the job in hand; for a later one the job goes back, so that jobs
# of other providers get the worker's place.
HOLD_S = 1.0
# A turn that was not used in time is gone: many of them together would break the limit.
TURN_KEPT_S = 2.0
# Who waits for another video of their user, and how far behind the one before.
USER_WAIT_S = 30.0
USER_PACE_S = 5.0


async def submit(resources: Resources, leases: Leases, held: Held) -> Progress:
    """
    Pay for one generation, and return what its receipt already says of it; or give the job back
    until its turn.

    Raises:
        ProviderError: As the provider's `submit`.
        SubmitUnknownError: The request may have arrived.
        KeyUnreadableError, ProviderNotConfiguredError: As `credentials.resolve`, or the prompt does
            not open; nothing was sent.
        CostCeilingError, ModelRetiredError: As `failover.check`; nothing was sent.
        PluginBrokenError: The provider cannot be built; nothing was sent.
    """
    if await _ends_late(resources, held):
        return Running()
    job = held.job
    failover.check(resources, job)
    credential = await credentials.resolve(resources, job)
    request = request_of(prompts.opened(resources.vault, job))
    account = resources.providers.account(job.provider, job.model, credential)
    interface = resources.providers.api(job.provider, job.model)
    # Before the intent: one that cannot be built has provably sent nothing.
    resources.providers.get(job.provider)
    limit = _limit_of_user(resources, job)
    if limit is not None and not await _user_has_room(resources, held, limit, credential):
        return Running()
    passage = await _passage(resources, held, account, credential)
    if passage is None:
        return Running()
    async with held.interruptible():
        images = await _images(resources, job.id, request)
        came_at = asyncio.get_running_loop().time()
        # By interface, not by account: one that hangs does so for all who call it.
        await resources.submits.enter(interface, -job.priority)
    try:
        if await _ends_late(resources, held):  # the line may have been long
            return Running()
        if asyncio.get_running_loop().time() > came_at + TURN_KEPT_S:
            passage = await _passage(resources, held, account, credential)
            if passage is None:
                return Running()
        submission = Submission(
            job_id=job.id, attempt=job.attempt + 1, request=request, images=images
        )
        return await _pay(resources, leases, held, submission, credential, account, passage, limit)
    finally:
        resources.submits.leave(interface)


async def _ends_late(resources: Resources, held: Held) -> bool:
    """Whether the job is over, since its time has run out."""
    job = held.job
    if job.deadline_at is None or resources.clock.now() < job.deadline_at:
        return False
    job = await held.apply(lifecycle.expired(job))
    logger.info("job failed", stage=job.stage, code=job.error_code, attempt=job.attempt)
    return True


async def _pay(
    resources: Resources,
    leases: Leases,
    held: Held,
    submission: Submission,
    credential: Credential,
    account: str,
    passage: Passage,
    limit: int | None,
) -> Progress:
    """The intent, the call, the receipt."""
    job, provider = held.job, resources.providers.get(held.job.provider)
    try:
        await held.apply(lifecycle.submitting(job, credential.id, user_limit=limit))
    except UserLimitError:  # another one of theirs was faster since we asked
        await _wait_for_user(resources, held, credential)
        return Running()
    logger.info(
        "submitting video",
        attempt=held.job.attempt,
        model=job.model,
        credential_id=credential.id,
    )

    async def pay() -> Progress:
        timely = replace(submission, not_after=leases.trusted_until)
        with metrics.submit_of(job):
            try:
                receipt = await _listened(
                    resources, job.provider, account, passage, provider.submit(timely, credential)
                )
            except (AuthError, QuotaExhaustedError) as error:
                raise credentials.named(error, job, credential) from error
        change = lifecycle.submitted(submission.attempt, receipt.operation)
        told = {"operation_id": receipt.operation.id, "attempt": submission.attempt}
        kept = False

        async def keep() -> None:
            nonlocal kept
            await receipts.keep(resources, job.id, submission.attempt, receipt.operation)
            kept = True

        try:
            held.job = await leases.receive(held.job, change, keep=keep)
        except OperationTakenError as error:
            # An equal video without a receipt has adopted ours: then its own one is left for us.
            raise SubmitUnknownError("its operation was adopted by another job") from error
        except LeaseLostError:
            fate = await receipts.settle_late(
                resources, leases, job.id, submission.attempt, receipt.operation
            )
            if kept and fate is not None:
                await receipts.clear(resources, job.id, submission.attempt)
            raise
        logger.info("video submitted", **told)
        if kept:
            await receipts.clear(resources, job.id, submission.attempt)
        await leases.announce(held.job)
        await _answered(resources, job.provider, account, passage)
        return receipt.progress

    # Whoever cancels us, the call goes on and its receipt is stored: it may already be paid for.
    return await leases.shielded(pay())


async def _listened(
    resources: Resources, name: str, account: str, passage: Passage, call: Awaitable[Submitted]
) -> Submitted:
    """The outcome of *call*; what it says about the provider is told to the breaker."""
    try:
        # A receipt is stored before anything else: the breaker hears of it afterwards.
        return await call
    except (TransientError, SubmitUnknownError) as error:
        # What the breaker is not told while Redis is away, the next submit will tell it.
        with suppress(DispatchError):
            pause_s = await resources.breakers.failed(name, account)
            if pause_s:
                logger.warning(
                    "provider does not answer, submits pause", pause_s=pause_s, code=error.code
                )
        raise
    except ProviderError:
        await _answered(resources, name, account, passage)
        raise


async def _answered(resources: Resources, name: str, account: str, passage: Passage) -> None:
    if not passage.is_marked:
        return  # nothing to mend, and nearly always so
    with suppress(DispatchError):
        if await resources.breakers.answered(name, account):
            logger.info("provider answers again, submits go on")


async def _passage(
    resources: Resources, held: Held, account: str, credential: Credential
) -> Passage | None:
    """
    None if the job was put back or moved on: its provider is left alone now, or it is not its turn.
    """
    passage = await resources.breakers.ask(held.job.provider, account)
    if passage.wait_s:
        if await failover.leave_closed(resources, held):
            return None
        # Not all of them at the same moment.
        spread_s = passage.wait_s * (1 + resources.jitter() / 4)
        await held.apply(
            lifecycle.postponed(
                spread_s,
                held.job.slot_at if _same(held.job, credential) else None,
                reason="provider_down",
                credential_id=credential.id,
            )
        )
        return None
    return passage if await _has_turn(resources, held, account, credential) else None


def _limit_of_user(resources: Resources, job: VideoJob) -> int | None:
    return resources.settings.user_concurrency or None if job.user_id is not None else None


async def _user_has_room(
    resources: Resources, held: Held, limit: int, credential: Credential
) -> bool:
    """Put the job back if its user has *limit* others under way."""
    async with resources.database.connection() as connection, connection.transaction():
        has_room = await sharing.has_room(connection, held.job.id, limit)
    if not has_room:
        await _wait_for_user(resources, held, credential)
    return has_room


async def _wait_for_user(resources: Resources, held: Held, credential: Credential) -> None:
    """
    Until `recall_of_users` calls it. Should nobody, it comes back behind the others of its user,
    each a little later than the one before, so that thousands do not come at once.
    """
    user_id = held.job.user_id
    assert user_id is not None  # only users have a limit
    async with resources.database.connection() as connection:
        end_s = await sharing.line_end_s(connection, user_id)
    wait_s = max(end_s, USER_WAIT_S) + USER_PACE_S
    await held.apply(
        lifecycle.postponed(wait_s, None, reason=lifecycle.USER_LIMIT, credential_id=credential.id)
    )


async def _has_turn(resources: Resources, held: Held, account: str, credential: Credential) -> bool:
    """Wait for the turn if it is near; else put the job back until then."""
    job, now = held.job, resources.clock.now()
    kept = job.slot_at if _same(job, credential) else None
    if kept is not None and kept > now - timedelta(seconds=TURN_KEPT_S):
        wait_s = max((kept - now).total_seconds(), 0.0)
    else:
        turn = await resources.rate_limit.reserve(
            job.provider,
            account,
            job.id,
            ahead=job.failures > 0 or _came_back(job),
            priority=job.priority,
            user_id=job.user_id,
            seconds=seconds_of(job.parameters),
        )
        wait_s = turn.wait_s
        if wait_s > 0:
            metrics.RATE_LIMIT_WAITS.labels(metrics.provider_of(job)).inc()
        if not turn.reserved or wait_s > HOLD_S:
            slot_at = now + timedelta(seconds=wait_s) if turn.reserved else None
            await held.apply(
                lifecycle.postponed(
                    wait_s, slot_at, reason="rate_limit", credential_id=credential.id
                )
            )
            return False
    async with held.interruptible():
        await asyncio.sleep(wait_s)
    return True


def _same(job: VideoJob, credential: Credential) -> bool:
    """Whether the turn that *job* has is one of *credential*: its user's key may have changed."""
    return (job.credential_id or SERVER_CREDENTIAL) == credential.id


def _came_back(job: VideoJob) -> bool:
    # The first claim sets `started_at` and epoch 1; a later epoch was here before.
    return job.lease_epoch > 1


async def _images(
    resources: Resources, job_id: UUID, request: VideoRequest
) -> tuple[ImageBytes, ...]:
    if not request.images:
        return ()
    async with resources.database.connection() as connection:
        stored = await inputs.of_job(connection, job_id)
    found: list[ImageBytes] = []
    for position, wanted in enumerate(request.images):
        data = await _data(resources, wanted, stored.get(position))
        facts = image.recognise(data)
        catalog.check_image(request, wanted.role, facts)
        found.append(ImageBytes(role=wanted.role, content_type=facts.content_type, data=data))
    return tuple(found)


async def _data(resources: Resources, wanted: InputImage, stored: StoredInput | None) -> bytes:
    if stored is not None:
        return await prompts.image_bytes(resources.vault, stored)
    if wanted.key is not None:
        return await resources.storage.read(wanted.key, MAX_IMAGE_BYTES)
    if wanted.url is not None:
        return await resources.providers.http.fetch(wanted.url, max_bytes=MAX_IMAGE_BYTES)
    raise InvalidRequestError(f"the bytes of the {wanted.role} image are no longer kept")
