"""
Videos that were handed out again: whether they are in the bucket.

Who enqueues sees rows only, so a video that somebody else took out of the bucket is handed out once
more; not a second time. Whoever got it asks again, and then it is made.

A bucket that may not be listed answers 403 to a look at what is not there, and one whose objects
may not be read answers 403 to a look at what is. So 403 says nothing: the list decides, and where
that is refused, too, the video is handed out on, and asked for again later.
"""

import asyncio
from contextlib import suppress
from uuid import UUID

from loguru import logger

from vidgen.errors import StorageDeniedError, StorageError
from vidgen.resources import Resources
from vidgen.store import reuses
from vidgen.store.reuses import Unseen

BATCH = 50
AT_ONCE = 8
LOOK_TIMEOUT_S = 15.0
# What nobody could tell of is asked for again then, and others meanwhile.
PUT_OFF_S = 120.0


async def look_after(resources: Resources, put_off: dict[UUID, float]) -> None:
    """
    See that what was handed out again lately is there, each video by itself.

    Args:
        put_off: Jobs of whose videos nobody could tell, and until when on the loop's clock they are
            left alone; the caller keeps it for the next call.

    Raises:
        DatabaseError: The next call goes on there.
    """
    now = asyncio.get_running_loop().time()
    for job_id in [job_id for job_id, until in put_off.items() if until <= now]:
        del put_off[job_id]
    async with resources.database.connection() as connection:
        found = await reuses.unseen(connection, BATCH, without=list(put_off))
    for start in range(0, len(found), AT_ONCE):
        some = found[start : start + AT_ONCE]
        untold = await _look_for(resources, some)
        nothing_told = len(untold) == AT_ONCE
        if nothing_told:  # as little as of those behind them
            untold = [each.job_id for each in found[start:]]
        put_off |= dict.fromkeys(untold, asyncio.get_running_loop().time() + PUT_OFF_S)
        if nothing_told:
            return


async def _look_for(resources: Resources, some: list[Unseen]) -> list[UUID]:
    """Look for the videos of *some*, side by side; the jobs of which nobody could tell."""
    there: list[Unseen] = []
    untold: list[UUID] = []

    async def look(each: Unseen) -> None:
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                if not await is_gone(resources, each.job_id, each.storage_key):
                    there.append(each)
        except (StorageError, TimeoutError) as error:
            untold.append(each.job_id)
            code = error.code if isinstance(error, StorageError) else "timeout"
            if resources.complaints.is_new(f"reuse {code}"):
                logger.warning(
                    "nobody can tell whether a video is in the bucket",
                    jobId=str(each.job_id),
                    code=code,
                    reason=str(error) or "no answer",
                )

    try:
        async with asyncio.TaskGroup() as group:
            for each in some:
                group.create_task(look(each))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    if there:
        async with resources.database.connection() as connection:
            await reuses.seen(connection, there)
    return untold


async def is_gone(resources: Resources, job_id: UUID, storage_key: str) -> bool:
    """
    Whether the video of a completed job is not in the bucket; then nobody is handed it again.

    Raises:
        StorageError: Nobody can tell, as where the bucket itself is not there, or may not be
            listed.
        DatabaseError: PostgreSQL is away.
    """
    if await _is_there(resources, storage_key):
        return False
    async with resources.database.connection() as connection:
        newly = await reuses.missed(connection, job_id)
    if newly:
        logger.warning("video is gone from the bucket", jobId=str(job_id), key=storage_key)
    return True


async def _is_there(resources: Resources, storage_key: str) -> bool:
    with suppress(StorageDeniedError):
        if await resources.storage.exists(storage_key):
            return True
    # A look alone cannot tell a missing object from a missing bucket; a list can.
    return storage_key in await resources.storage.keys(storage_key, 1)
