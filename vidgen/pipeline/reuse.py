"""
Videos that were handed out again: whether they are in the bucket.

Who enqueues sees rows only, so a video that somebody else took out of the bucket is handed out once
more; not a second time. Whoever got it asks again, and then it is made.
"""

from uuid import UUID

from loguru import logger

from vidgen.resources import Resources
from vidgen.store import reuses

BATCH = 50


async def look_after(resources: Resources) -> None:
    """
    See that what was handed out again lately is there.

    Raises:
        StorageError, DatabaseError: The next call does it.
    """
    async with resources.database.connection() as connection:
        found = await reuses.unseen(connection, BATCH)
    there = [each for each in found if not await is_gone(resources, each.job_id, each.storage_key)]
    if there:
        async with resources.database.connection() as connection:
            await reuses.seen(connection, there)


async def is_gone(resources: Resources, job_id: UUID, storage_key: str) -> bool:
    """
    Whether the video of a completed job is not in the bucket; then nobody is handed it again.

    Raises:
        StorageError: Nobody can tell, as where the bucket itself is not there.
        DatabaseError: PostgreSQL is away.
    """
    storage = resources.storage
    # A look alone cannot tell a missing object from a missing bucket; a list can.
    if await storage.exists(storage_key) or storage_key in await storage.keys(storage_key, 1):
        return False
    async with resources.database.connection() as connection:
        newly = await reuses.missed(connection, job_id)
    if newly:
        logger.warning("video is gone from the bucket", jobId=str(job_id), key=storage_key)
    return True
