"""
Videos that nobody wants any more, and how they leave the bucket.

A cancel that discards raises the job's `discards`, and that number is part of the next keys. So
what has a smaller number is of no use to anybody, and whoever deletes it, however late, cannot meet
a video that was stored after a retry. The row says that something may be left until a sweep has
looked again: an upload that was broken off may still arrive, and a worker may die in between.
"""

import asyncio

from loguru import logger

from vidgen.errors import StorageError
from vidgen.job import VideoJob
from vidgen.resources import Resources
from vidgen.store import jobs

PREFIX = "videos/"
MAX_KEYS = 1000
BATCH = 100
CLEAR_TIMEOUT_S = 5.0
# Later than an upload that was broken off can still become an object.
SETTLED_AFTER_S = 60.0


def folder_of(job: VideoJob) -> str:
    """Where the files of *job* are stored, if the transfer begins now."""
    return f"{PREFIX}{job.id}/" + (f"{job.discards}/" if job.discards else "")


async def clear(resources: Resources, job: VideoJob) -> None:
    """Delete what *job* has thrown away, at once if the bucket answers; else a sweep does it."""
    try:
        async with asyncio.timeout(CLEAR_TIMEOUT_S):
            await _delete(resources, job)
    except (StorageError, TimeoutError) as error:
        logger.warning("discarded video left to the sweep", reason=str(error) or "no answer")


async def collect(resources: Resources) -> None:
    """
    Delete what was thrown away and may still be in the bucket.

    Raises:
        StorageError, DatabaseError: The next sweep does it.
    """
    async with resources.database.connection() as connection:
        found = await jobs.discarding(connection, SETTLED_AFTER_S, BATCH)
    for job in found:
        await _delete(resources, job)
        async with resources.database.connection() as connection:
            await jobs.discarded(connection, job.id, job.discards)


async def _delete(resources: Resources, job: VideoJob) -> None:
    kept = {job.storage_key, job.thumbnail_key, job.spritesheet_key}
    for key in await resources.storage.keys(f"{PREFIX}{job.id}/", MAX_KEYS):
        if _number(job, key) < job.discards and key not in kept:
            await resources.storage.delete(key)
            logger.info("discarded file deleted", jobId=str(job.id), key=key)


def _number(job: VideoJob, key: str) -> int:
    """How many videos of *job* had been thrown away when *key* was written."""
    number, slash, _ = key.removeprefix(f"{PREFIX}{job.id}/").partition("/")
    return int(number) if slash and number.isdecimal() else 0
