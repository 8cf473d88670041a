"""
Whether a video was enqueued: read from PostgreSQL, where it either is or is not.

Every function takes a `VideoQueue`, or an asyncpg connection: what a transaction has enqueued and
not committed yet shows through its own connection only. Jobs count in whatever status they are;
`status="pending"` asks for those that nobody has begun.
"""

import asyncio
from typing import Unpack
from uuid import UUID

from vidgen.job import VideoJob
from vidgen.queue import VideoQueue
from vidgen.store import jobs
from vidgen.store.pool import Connection
from vidgen.testing.expectation import Expected, check_names, fits, told, told_jobs

PAGE = 500
LOOK_EVERY_S = 0.02

Where = VideoQueue | Connection


async def all_enqueued(where: Where, **expected: Unpack[Expected]) -> list[VideoJob]:
    """Every job that is as *expected*, in the order they were enqueued."""
    check_names(expected)
    return [job for job in await _jobs(where) if fits(job, expected)]


async def assert_enqueued(
    where: Where,
    *,
    count: int | None = None,
    within_s: float = 0.0,
    **expected: Unpack[Expected],
) -> VideoJob:
    """
    Return the job that is as *expected*; of several the one enqueued last.

    Args:
        count: Exactly so many must be; None wants at least one.
        within_s: Wait so long for it, where the service enqueues in the background.

    Raises:
        AssertionError: There is none, or another number; it tells what there is, closest first.
    """
    __tracebackhide__ = True
    assert count is None or count > 0, "count is 1 or more; for none there is refute_enqueued"
    check_names(expected)
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while True:
        found = await _jobs(where)
        fitting = [job for job in found if fits(job, expected)]
        if fitting and count in {None, len(fitting)}:
            return fitting[-1]
        if loop.time() >= until:
            raise AssertionError(_missing(found, len(fitting), expected, count))
        await asyncio.sleep(LOOK_EVERY_S)


async def refute_enqueued(where: Where, **expected: Unpack[Expected]) -> None:
    """
    Make sure that no job is as *expected*.

    Raises:
        AssertionError: It tells of those that are.
    """
    __tracebackhide__ = True
    if found := await all_enqueued(where, **expected):
        raise AssertionError(
            f"{_number(len(found))} enqueued, expected none{_like(expected)}\n"
            f"There are:\n{told_jobs(found, expected)}"
        )


async def _jobs(where: Where) -> list[VideoJob]:
    """All of them, in the order they were enqueued."""
    found: list[VideoJob] = []
    before: UUID | None = None
    while True:
        if isinstance(where, VideoQueue):
            page = await where.recent(before=before, limit=PAGE)
        else:
            page = await jobs.recent(where, before=before, limit=PAGE)
        found += page
        if len(page) < PAGE:
            return found[::-1]
        before = page[-1].id


def _missing(found: list[VideoJob], fitting: int, expected: Expected, count: int | None) -> str:
    wanted = "at least 1" if count is None else f"exactly {count}"
    first = f"{_number(fitting)} enqueued, expected {wanted}{_like(expected)}"
    if not found:
        return (
            f"{first}\nThere is no job at all. What a transaction has enqueued shows to others once"
            " it is committed, and before that through its own connection only."
        )
    return f"{first}\nThere are, closest first:\n{told_jobs(found, expected)}"


def _number(count: int) -> str:
    return {0: "no video is", 1: "1 video is"}.get(count, f"{count} videos are")


def _like(expected: Expected) -> str:
    return f" with\n{told(expected)}" if expected else "."
