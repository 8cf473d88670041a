"""
Carrying one job as far as it goes: from its dispatch through the stages, until it is final or
given back.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from loguru import logger

from vidgen import lifecycle, metrics
from vidgen.dispatch import Dispatch
from vidgen.errors import (
    DatabaseError,
    DispatchError,
    InternalError,
    KeyUnreadableError,
    LeaseLostError,
    SubmitUnknownError,
    VidgenError,
)
from vidgen.job import EventType, Stage, VideoJob
from vidgen.lifecycle import Backoff, Prospect, Transition
from vidgen.pipeline import discards, failover
from vidgen.pipeline.leases import Held, InterruptedStageError, Interruption, Leases
from vidgen.pipeline.lookout import Lookout
from vidgen.pipeline.poll import poll
from vidgen.pipeline.settle import put_off, settle
from vidgen.pipeline.stop import follow, stop
from vidgen.pipeline.submit import submit
from vidgen.pipeline.transfer import transfer
from vidgen.providers.protocol import Asset, Progress
from vidgen.resources import Resources
from vidgen.store import jobs
from vidgen.tracing import Value

# A dispatch may overtake the commit of its row: 0.25, 0.5, 1, … 16 s later it is looked for again.
MAX_LOOKS = 8
FIRST_LOOK_S = 0.25
# Until a person mends the key ring nothing helps: often enough to go on soon after.
PARKED_S = 300.0

_SPANS = {
    Stage.QUEUED: "vidgen.submit",
    Stage.SUBMITTING: "vidgen.settle",
    Stage.GENERATING: "vidgen.poll",
    Stage.TRANSFERRING: "vidgen.transfer",
}


async def carry(resources: Resources, leases: Leases, lookout: Lookout, dispatch: Dispatch) -> bool:
    """
    Claim the job of *dispatch* and work on it; return at once if it is stale.

    Returns:
        Whether *dispatch* was taken off Redis: nothing is left there to tidy up.

    Raises:
        DatabaseError: PostgreSQL stays away; the sweep sends the dispatch again.
    """
    async with leases.claim(dispatch.job_id) as held:
        if held is None:
            await _look_again_if_missing(resources, dispatch)
            return False
        before = held.job
        traceparent = await _traceparent(resources, held.job)
        with logger.contextualize(**_context(held.job)), resources.tracing.within(traceparent):
            leases.departures.begin(dispatch.id)
            try:
                await _stages(resources, leases, lookout, held)
            except LeaseLostError:
                metrics.LEASE_LOSSES.inc()
                logger.warning("lease lost, stopping", stage=held.job.stage)
            finally:
                is_off = leases.departures.end(dispatch.id)
                lookout.forget(dispatch.job_id)
            await _refund_if_in_vain(resources, before, held.job)
        return is_off


async def _refund_if_in_vain(resources: Resources, before: VideoJob, after: VideoJob) -> None:
    """
    A job that was told to come back had no use for its place, and will ask for one again. One with
    a turn has not: then it goes ahead of all, at no charge.
    """
    came_back = before.stage is after.stage is Stage.QUEUED and after.due_at is not None
    if came_back and after.attempt == before.attempt and after.slot_at is None:
        with suppress(DispatchError):
            await resources.dispatcher.refund(Dispatch.for_job(before))


async def _stages(resources: Resources, leases: Leases, lookout: Lookout, held: Held) -> None:
    known = _Known()
    try:
        while held.is_ours:
            if held.cancel_wanted and await _heed_cancel(resources, leases, held):
                return
            with resources.tracing.span(_SPANS[held.job.stage], **_traced(held.job)) as spot:
                try:
                    await _stage(resources, leases, lookout, held, known)
                except InterruptedStageError as interrupted:
                    spot.tell(interrupted=interrupted.why)
                    if interrupted.why is not Interruption.CANCEL:
                        await _leave(held, interrupted.why)
                        return
                # The attempt is counted with the intent, the operation known by the receipt.
                spot.tell(status=held.job.status, stage=held.job.stage, **_traced(held.job))
    except SubmitUnknownError as error:
        await put_off(resources, held, error)
    except KeyUnreadableError as error:
        await _park(resources, held, error)
    except (LeaseLostError, DatabaseError):
        raise
    except VidgenError as error:
        await _give_up_for_now(resources, held, error)
    except Exception as error:  # noqa: BLE001  the stage boundary: a defect of ours must not lose a job
        logger.exception("stage ended with a defect")
        reason = f"a defect of vidgen: {type(error).__name__}"
        if held.job.stage is Stage.SUBMITTING:
            await put_off(resources, held, SubmitUnknownError(reason))
        else:
            await _give_up_for_now(resources, held, InternalError(reason))


@dataclass(slots=True)
class _Known:
    """What one stage learnt and the next can use, as long as the same worker goes on."""

    progress: Progress | None = None
    assets: tuple[Asset, ...] = ()


async def _stage(
    resources: Resources, leases: Leases, lookout: Lookout, held: Held, known: _Known
) -> None:
    match held.job.stage:
        case Stage.QUEUED:
            known.progress = await submit(resources, leases, held)
        case Stage.SUBMITTING:
            await settle(resources, leases, held)
        case Stage.GENERATING:
            progress, known.progress = known.progress, None
            known.assets = await poll(resources, lookout, held, progress)
        case Stage.TRANSFERRING:
            await transfer(resources, held, known.assets)


async def _heed_cancel(resources: Resources, leases: Leases, held: Held) -> bool:
    """
    End the job if that is still possible; whether it is over.

    Not while nobody knows whether it was paid; and a finished video is kept, unless whoever
    cancelled does not want it either.
    """
    if held.job.stage is Stage.SUBMITTING:
        return False
    async with resources.database.connection() as connection:
        job = await jobs.get(connection, held.job.id)
    discard = job is not None and job.cancel_discards
    if held.job.stage is Stage.TRANSFERRING and not discard:
        held.ignore_cancel()
        return False
    stopping = await stop(resources, leases, held.job)
    ended = await held.apply(
        lifecycle.cancelled(
            held.job,
            held=True,
            stopped_at_provider=stopping.stopped,
            still_asking=stopping.late is not None,
            discard=discard,
        )
    )
    logger.info("job cancelled", stage=ended.stage, stopped_at_provider=stopping.stopped)
    if stopping.late is not None:
        follow(leases, ended, stopping.late)
    if discard and ended.stage is Stage.TRANSFERRING:
        await discards.clear(resources, ended)
    return True


async def _leave(held: Held, why: Interruption) -> None:
    if why is Interruption.LEASE_LOST:
        raise LeaseLostError(f"job {held.job.id}: the lease could not be renewed")
    await held.apply(lifecycle.released(held.job, "hand_over"))
    logger.info("job handed over", stage=held.job.stage)


async def _park(resources: Resources, held: Held, error: KeyUnreadableError) -> None:
    """Put the job aside as it is, until its key opens."""
    job, wait_s = held.job, PARKED_S * (1 + resources.jitter() / 4)
    logger.warning(
        "job parked: its provider key or prompt does not open",
        code=error.code,
        reason=error.message,
        stage=job.stage,
        wait_s=round(wait_s, 3),
    )
    await held.apply(lifecycle.parked(job, error, wait_s=wait_s))


async def _give_up_for_now(resources: Resources, held: Held, error: VidgenError) -> None:
    """Write what an error of the current stage means: later again, or the end."""
    backoff = Backoff(base_s=resources.settings.backoff_s, jitter=resources.jitter())
    job = replace(held.job, failures=0) if held.progressed else held.job

    def decide(prospects: Sequence[Prospect]) -> Transition:
        now = resources.clock.now()
        return lifecycle.errored(job, error, backoff=backoff, now=now, prospects=prospects)

    told: dict[str, object] = {
        "stage": held.job.stage,
        "code": error.code,
        "reason": error.message,
    }
    if job.stage in {Stage.QUEUED, Stage.SUBMITTING}:
        change = await failover.move(resources, held, decide)
    else:
        change = decide(())
        await held.apply(change)
    if held.job.is_final:
        logger.info("job failed", **told, attempt=held.job.attempt)
    elif change.event is EventType.ERRORED:
        told |= {"failures": held.job.failures, "wait_s": change.detail["wait_s"]}
        logger.info("step will be tried again", **told)


async def _look_again_if_missing(resources: Resources, dispatch: Dispatch) -> None:
    """
    A row that is not there may be in a transaction that still runs; one that is there is not due.
    """
    if dispatch.looks >= MAX_LOOKS:
        return
    async with resources.database.connection() as connection:
        job = await jobs.get(connection, dispatch.job_id)
    if job is not None:
        return
    now = resources.clock.now()
    due_at = now + timedelta(seconds=FIRST_LOOK_S * 2**dispatch.looks)
    with suppress(DispatchError):
        known = await resources.dispatcher.recollect(dispatch)
        again = replace(known, due_at=due_at, looks=dispatch.looks + 1)
        await resources.dispatcher.send([again], now=now)
        if known.known_share is not None:  # it had no use for its place
            await resources.dispatcher.refund(known)


async def _traceparent(resources: Resources, job: VideoJob) -> str | None:
    """
    Where the trace of *job* goes on; whoever carries a job first that was enqueued without one
    begins it.
    """
    tracing = resources.tracing
    if not tracing.is_on:
        return None
    with suppress(DatabaseError):  # a trace is worth no job
        async with resources.database.connection() as connection:
            if found := await jobs.traceparent(connection, job.id):
                return found
            with tracing.span("vidgen.carry", **_traced(job)):
                return await jobs.begin_trace(connection, job.id, tracing.traceparent())
    return None


def _traced(job: VideoJob) -> dict[str, Value]:
    return {
        "job_id": job.id,
        "provider": job.provider,
        "model": job.model,
        "attempt": job.attempt,
        "operation_id": job.operation.id if job.operation else None,
    }


def _context(job: VideoJob) -> dict[str, str]:
    known = {
        "jobId": str(job.id),
        "provider": job.provider,
        "sceneId": job.scene_id,
        "userId": job.user_id,
    }
    return {name: value for name, value in known.items() if value is not None}
