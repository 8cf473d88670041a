"""
What is kept no longer: users who are to be forgotten, and results that are too old.

The order makes it repeatable: jobs end, objects in the bucket go, rows go last. Whoever dies in
between leaves rows by which the next one finds the rest.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from loguru import logger

from vidgen import lifecycle, metrics
from vidgen.errors import DatabaseError, LeaseLostError, StorageError
from vidgen.job import Stage
from vidgen.pipeline import receipts
from vidgen.pipeline.leases import Leases
from vidgen.resources import Resources
from vidgen.store import erasure, jobs, upkeep
from vidgen.store.erasure import StoredFiles

RESULT_PREFIX = "videos/"
BATCH = 100
AT_ONCE = 8  # jobs whose objects are deleted side by side
MOST_OBJECTS = 1000  # of one job; there are a handful
RESULTS_EVERY_S = 1800.0
# A receipt is looked for until the deadline of its job, seven days at most.
OPERATIONS_KEPT = timedelta(days=8)


async def run(resources: Resources, leases: Leases) -> None:
    """
    Forget whom somebody asked to forget, and let old results go, until cancelled; one worker at a
    time.

    Not within the sweep: a bucket takes its time, and jobs of dead workers must not wait for it.
    """
    interval_s = resources.settings.sweep_interval_s
    while True:
        await asyncio.sleep(interval_s * (0.9 + resources.jitter() / 5))
        try:
            async with resources.database.connection() as connection:
                wanted = await erasure.asked(connection)
                turn = bool(wanted) and await upkeep.take_turn(
                    connection, "erasure", interval_s * 0.8
                )
                old = await upkeep.take_turn(connection, "results", RESULTS_EVERY_S)
            if turn:
                await erase(resources, leases, wanted)
            if old and (archived := await expire_results(resources)):
                logger.info("old results deleted", jobs=archived)
        except (DatabaseError, StorageError) as error:
            logger.warning("erasure put off", code=error.code, reason=error.message)


async def erase(resources: Resources, leases: Leases, user_ids: Sequence[str]) -> None:
    """
    Do what can be done now for each of *user_ids*: what still runs is asked to end, what has ended
    is deleted.

    Raises:
        DatabaseError, StorageError: The next round goes on there.
    """
    for user_id in user_ids:
        await _end_running(resources, leases, user_id)
        deleted = objects = 0
        while True:
            async with resources.database.connection() as connection:
                batch = await erasure.ended(connection, user_id, limit=BATCH)
            objects += await _delete_objects(resources, batch)
            async with resources.database.connection() as connection:
                gone = await erasure.delete(connection, [files.job_id for files in batch])
            deleted += gone
            if len(batch) < BATCH or not gone:
                break
        async with resources.database.connection() as connection:
            done = await erasure.finish(connection, user_id, erasure.pseudonym(user_id))
        if deleted or done:
            # Without the name, which would outlive what is forgotten.
            logger.info("user forgotten", jobs=deleted, objects=objects, done=done)


async def expire_results(resources: Resources) -> int:
    """
    Delete the files of videos that were completed too long ago, and archive their jobs; how many
    it were.

    Raises:
        DatabaseError, StorageError: The next call goes on there.
    """
    async with resources.database.connection() as connection:
        await erasure.forget_operations(connection, OPERATIONS_KEPT)
    days = resources.settings.result_retention_days
    archived = 0
    while days:
        async with resources.database.connection() as connection:
            batch = await erasure.expired(connection, timedelta(days=days), limit=BATCH)
        await _delete_objects(resources, batch)
        async with resources.database.connection() as connection:
            gone = await erasure.archive(connection, [files.job_id for files in batch])
        archived += gone
        if len(batch) < BATCH or not gone:
            break
    return archived


async def _end_running(resources: Resources, leases: Leases, user_id: str) -> None:
    """Cancel what has not ended: who asked may have died before that, or somebody retried."""
    after: UUID | None = None
    while True:
        async with resources.database.connection() as connection:
            found = await erasure.running(connection, user_id, after=after, limit=BATCH)
        for job_id in found:
            await _cancel(resources, leases, job_id)
        if len(found) < BATCH:
            return
        after = found[-1]


async def _cancel(resources: Resources, leases: Leases, job_id: UUID) -> None:
    async with resources.database.connection() as connection:
        job = await jobs.get(connection, job_id)
    if job is None or job.is_final or (job.cancel_requested_at and job.cancel_discards):
        return
    if job.worker_id is None and job.stage is Stage.QUEUED:
        change = lifecycle.cancelled(job, held=False, stopped_at_provider=False)
    else:
        change = lifecycle.cancel_requested(discard=True)
    with suppress(LeaseLostError):  # it changed hands: the next round sees to it
        async with resources.database.connection() as connection:
            after = await jobs.apply(connection, job_id, change)
        metrics.written(job, change, after)
        await leases.announce(after)


async def _delete_objects(resources: Resources, batch: Sequence[StoredFiles]) -> int:
    """Delete what there is of each job in the bucket; how many objects it were."""
    deleted: list[int] = []

    async def delete(files: StoredFiles) -> None:
        deleted.append(await _delete_files(resources, files))

    for start in range(0, len(batch), AT_ONCE):
        try:
            async with asyncio.TaskGroup() as group:
                for files in batch[start : start + AT_ONCE]:
                    group.create_task(delete(files))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
    return sum(deleted)


async def _delete_files(resources: Resources, files: StoredFiles) -> int:
    """By name and by folder: an upload whose note was lost has no row that names it."""
    storage = resources.storage
    folders = (f"{RESULT_PREFIX}{files.job_id}/", f"{receipts.PREFIX}{files.job_id}.")
    keys = set(files.keys)
    for folder in folders:
        keys |= set(await storage.keys(folder, MOST_OBJECTS))
    for key in keys:
        await storage.delete(key)
    return len(keys)
