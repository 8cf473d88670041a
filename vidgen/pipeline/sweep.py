"""
What keeps the promise when something died: every few seconds one worker looks for jobs nobody
carries on.

Each duty may run twice, at once or late: the guards in PostgreSQL let only one of two writes
through. None keeps another from being done, and no row another row.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import asdict
from datetime import timedelta
from uuid import UUID

from loguru import logger

from vidgen import lifecycle, metrics
from vidgen.dispatch import Dispatch
from vidgen.errors import (
    DatabaseError,
    DispatchError,
    InternalError,
    LeaseLostError,
    StorageError,
    StorageUnavailableError,
)
from vidgen.job import VideoJob
from vidgen.pipeline import discards, receipts, reuse
from vidgen.pipeline.leases import Leases
from vidgen.pipeline.recall import dispatch_for, recall, recall_of_users
from vidgen.resources import Resources
from vidgen.store import budgets, history, inputs, jobs, keys, steering, upkeep, workers
from vidgen.store.rows import DueJob

BATCH = 500
LONGEST_INTERVAL = 0.2  # of the ttl at most between two sweeps
# A dispatch gets so long to be picked up before anybody asks Redis for it.
OVERDUE_S = 2.0
DEAD_WORKER_KEPT_S = 3600.0
CLEANUP_EVERY_S = 1800.0
RECEIPTS_EVERY_S = 30.0
LEARN_EVERY_S = 60.0
FORGET_KEYS_EVERY_S = 60.0
LOOK_THROUGH_EVERY_S = 60.0
# Cron ticks wait for a free place; if none came up for so long, the sweep cleans up itself.
CLEANUP_OVERDUE_S = 2 * 3600.0
# What one duty in the bucket may take of a round: the next round goes on.
BUCKET_DUTY_S = 120.0
AUDIT_KEPT = timedelta(days=90)
# Older than any transfer that is still under way: a try may outlast its deadline a little.
ORPHANED_UPLOAD_AGE = timedelta(hours=6)
RESULT_PREFIX = "videos/"


async def run(resources: Resources, leases: Leases) -> None:
    """Sweep until cancelled; over all workers one of them at a time."""
    settings = resources.settings
    # Measured: with 15 s of lease and 5 s between sweeps peers went on 20.5 s after a freeze began.
    interval_s = min(settings.sweep_interval_s, settings.lease_ttl_s * LONGEST_INTERVAL)
    while True:
        await asyncio.sleep(interval_s * (0.9 + resources.jitter() / 5))
        await _perform(resources, "sweep", _sweep_if_our_turn(resources, leases, interval_s * 0.8))
        await _perform(resources, "remind", resources.rate_limit.remind())


async def _sweep_if_our_turn(resources: Resources, leases: Leases, every_s: float) -> None:
    async with resources.database.connection() as connection:
        if not await upkeep.take_turn(connection, "sweep", every_s):
            return
    await sweep(resources, leases)
    await _perform(resources, "learn", _learn(resources))
    await _perform(resources, "forget keys", _forget_keys(resources))
    await _perform(resources, "budgets", _watch_budgets(resources))


async def look_after_bucket(resources: Resources, leases: Leases) -> None:
    """
    See to what is in the bucket until cancelled; one worker at a time, unless the bucket is slow.

    Not within the sweep: a bucket takes its time, and jobs of dead workers must not wait for it.
    """
    interval_s = resources.settings.sweep_interval_s
    put_off: dict[UUID, float] = {}
    while True:
        await asyncio.sleep(interval_s * (0.9 + resources.jitter() / 5))
        await _perform(resources, "bucket", _bucket_if_our_turn(resources, leases, put_off))


async def _bucket_if_our_turn(
    resources: Resources, leases: Leases, put_off: dict[UUID, float]
) -> None:
    async with resources.database.connection() as connection:
        if not await upkeep.take_turn(
            connection, "bucket", resources.settings.sweep_interval_s * 0.8
        ):
            return
    await _perform(resources, "receipts", _bounded(_collect_receipts(resources, leases)))
    await _perform(resources, "discards", _bounded(discards.collect(resources)))
    await _perform(resources, "reuses", _bounded(reuse.look_after(resources, put_off)))
    await _perform(resources, "cleanup", cleanup(resources, every_s=CLEANUP_OVERDUE_S))


async def _bounded(work: Coroutine[None, None, None]) -> None:
    try:
        async with asyncio.timeout(BUCKET_DUTY_S):
            await work
    except TimeoutError as error:
        raise StorageUnavailableError(f"not done within {BUCKET_DUTY_S:.0f} s.") from error


async def _perform(resources: Resources, duty: str, work: Coroutine[None, None, None]) -> None:
    """Do one duty as far as it goes; the next one is done in any case, and so is the next sweep."""
    try:
        await work
    except (DatabaseError, DispatchError, StorageError) as error:
        logger.warning("duty put off", duty=duty, code=error.code, reason=error.message)
    # Beside the stage's and the request's the third and last such boundary. A row or an answer that
    # a defect of ours stumbles over is found again by every sweep: without it, it would end every
    # worker, one after the other and again, and with them all that is well.
    except Exception as error:  # noqa: BLE001  the upkeep boundary
        if resources.complaints.is_new(f"{duty} {type(error).__name__} {error}"):
            logger.exception("duty ended with a defect", duty=duty)


async def _collect_receipts(resources: Resources, leases: Leases) -> None:
    async with resources.database.connection() as connection:
        if not await upkeep.take_turn(connection, "receipts", RECEIPTS_EVERY_S):
            return
    await receipts.collect(resources, leases)


async def _learn(resources: Resources) -> None:
    """Keep up with how long videos take: estimates live on it."""
    async with resources.database.connection() as connection:
        if await upkeep.take_turn(connection, "learn", LEARN_EVERY_S):
            await history.learn(connection)


async def _forget_keys(resources: Resources) -> None:
    """Delete removed provider keys whose last job has ended."""
    async with resources.database.connection() as connection:
        if not await upkeep.take_turn(connection, "forget_keys", FORGET_KEYS_EVERY_S):
            return
        forgotten = await keys.forget_removed(connection)
    if forgotten:
        logger.info("removed provider keys deleted", keys=forgotten)


async def _watch_budgets(resources: Resources) -> None:
    """Say once for each budget and period that most of it is used."""
    async with resources.database.connection() as connection:
        near = await budgets.warn(connection)
    for each in near:
        logger.warning("budget nearly used up", **asdict(each))


async def sweep(resources: Resources, leases: Leases) -> None:
    """
    Free the jobs of dead workers, dispatch what is due and has no dispatch, and call those who wait
    for a turn that can be had now.

    While PostgreSQL or Redis is away nothing is done, or a part; the next sweep does it.
    """
    await _perform(resources, "free orphans", _free_orphans(resources, leases))
    await _perform(resources, "dispatch due", _look_through(resources, leases))
    await _perform(resources, "recall", recall(resources))
    await _perform(resources, "recall of users", recall_of_users(resources))


async def _free_orphans(resources: Resources, leases: Leases) -> None:
    ttl_s, after = resources.settings.lease_ttl_s, None
    while True:
        async with resources.database.connection() as connection:
            orphans = await jobs.orphaned(connection, ttl_s, BATCH, after)
        for job in orphans:
            try:
                await _free(resources, leases, job)
            except LeaseLostError:
                pass  # its worker, or another sweep, was faster
            except InternalError as error:
                if resources.complaints.is_new(f"orphan {job.id}"):
                    logger.error("job not freed", jobId=str(job.id), reason=error.message)
        if len(orphans) < BATCH:
            return
        after = orphans[-1].id


async def _free(resources: Resources, leases: Leases, job: VideoJob) -> None:
    change = lifecycle.released(job, "worker_lost")
    async with resources.database.connection() as connection:
        freed = await jobs.apply(connection, job.id, change, lease=job.lease, worker_id=leases.id)
    metrics.written(job, change, freed)
    logger.warning("job freed from a lost worker", jobId=str(job.id), stage=job.stage)
    await leases.announce(freed)


async def _look_through(resources: Resources, leases: Leases) -> None:
    async with resources.database.connection() as connection:
        thorough = await upkeep.take_turn(connection, "look_through", LOOK_THROUGH_EVERY_S)
        unknown = await jobs.unknown(connection) if thorough else []
    if thorough:
        await _drop_stale(resources)
    await resources.dispatcher.promote(resources.clock.now())
    for state in unknown:
        if resources.complaints.is_new(f"state {state.status} {state.stage}"):
            logger.warning("jobs of a newer release are left alone", **asdict(state))
    await _dispatch_due(resources, leases, thorough=thorough)


async def _dispatch_due(resources: Resources, leases: Leases, *, thorough: bool) -> None:
    """
    Send what has no dispatch, longest due first, up to the first page that lacks none: a deep
    backlog only waits. Now and then a *thorough* look goes through all of it.
    """
    after: DueJob | None = None
    while True:
        async with resources.database.connection() as connection:
            due = await jobs.due(connection, overdue_s=OVERDUE_S, after=after, limit=BATCH)
        lost, stuck = await resources.dispatcher.sort([dispatch_for(job) for job in due])
        stuck = [dispatch for dispatch in stuck if not leases.is_claiming(dispatch.job_id)]
        again = await _still_due(resources, lost) + await _renamed(resources, stuck)
        if again:
            await resources.dispatcher.send(again, now=resources.clock.now())
            logger.info("due jobs dispatched again", jobs=len(again))
        if len(due) < BATCH or not (again or thorough):
            return
        after = due[-1]


async def _still_due(resources: Resources, lost: list[Dispatch]) -> list[Dispatch]:
    """Leave out whose dispatch was taken, and job claimed, between our two looks."""
    if not lost:
        return []
    async with resources.database.connection() as connection:
        due = await jobs.due_now(connection, [dispatch.job_id for dispatch in lost])
    epochs = {dispatch.job_id: dispatch.epoch for dispatch in lost}
    return [dispatch_for(job) for job in due if job.lease_epoch == epochs[job.id]]


async def _renamed(resources: Resources, stuck: list[Dispatch]) -> list[Dispatch]:
    """
    Send dispatches that a worker took and died with under a new name, and forget the old one: arq
    would keep it for days, and look at it before all others.
    """
    if not stuck:
        return []
    async with resources.database.connection() as connection:
        renamed = await jobs.raise_epoch(connection, [dispatch.job_id for dispatch in stuck])
    again = {job.id for job in renamed}  # the others were claimed meanwhile, and are carried
    await resources.dispatcher.drop([each for each in stuck if each.job_id in again])
    return [dispatch_for(job) for job in renamed]


async def _drop_stale(resources: Resources) -> None:
    """
    Forget the oldest dispatches that no job waits for.

    A worker that died between a claim and the end of its dispatch leaves one behind. arq reads
    only the first few hundred, so that many of them would starve all others.

    Redis is asked before PostgreSQL: a dispatch that was there before we looked at its job was sent
    before. One that is dropped wrongly all the same, since the job was retried by hand meanwhile,
    is missed by the next look and sent again.
    """
    while True:
        oldest = await resources.dispatcher.oldest(BATCH)
        async with resources.database.connection() as connection:
            epochs = await jobs.epochs(connection, [dispatch.job_id for dispatch in oldest])
        # The row of a job may be in a transaction that still runs; then a worker looks again and
        # again, each time by another name. One that a worker took ended long ago, or will not.
        unknown = [dispatch for dispatch in oldest if dispatch.job_id not in epochs]
        stale = await resources.dispatcher.in_progress(unknown) + [
            dispatch
            for dispatch in oldest
            if dispatch.job_id in epochs and epochs[dispatch.job_id] != dispatch.epoch
        ]
        await resources.dispatcher.drop(stale)
        if stale:
            logger.info("stale dispatches dropped", dispatches=len(stale))
        if len(stale) < BATCH / 2:
            return


async def cleanup(resources: Resources, *, every_s: float = CLEANUP_EVERY_S) -> None:
    """
    Retention, images of completed jobs, rows of dead workers, uploads that nobody finished.

    Args:
        every_s: Do nothing if somebody did it less than so many seconds ago.

    Raises:
        DatabaseError: PostgreSQL is away.
    """
    async with resources.database.connection() as connection:
        if not await upkeep.take_turn(connection, "cleanup", every_s):
            return
    await _perform(resources, "archive", _archive(resources))
    await _perform(resources, "forget", _forget(resources))
    await _perform(resources, "abort uploads", _bounded(_abort_orphans(resources)))


async def _archive(resources: Resources) -> None:
    keep = timedelta(hours=resources.settings.retention_hours)
    archived = 0
    while True:
        async with resources.database.connection() as connection:
            batch = await jobs.archive_ended(connection, keep, BATCH)
        archived += batch
        if batch < BATCH:
            break
    logger.info("old jobs archived", archived=archived)


async def _forget(resources: Resources) -> None:
    async with resources.database.connection() as connection:
        await inputs.delete_of_ended(connection)
        await workers.forget_dead(connection, DEAD_WORKER_KEPT_S)
        await steering.forget_entries(connection, AUDIT_KEPT)
        await budgets.forget_past(connection)


async def _abort_orphans(resources: Resources) -> None:
    aborted = await resources.storage.abort_uploads_older_than(
        RESULT_PREFIX,
        ORPHANED_UPLOAD_AGE + timedelta(seconds=resources.settings.deadline_s),
        resources.clock.now(),
    )
    logger.info("unfinished uploads aborted", uploads=aborted)
