"""
Bringing forward who waits for a turn while there are turns: jobs were told when to come back by the
length of the line at that time, and some of those before them left, or the limit was raised. And
who waits for another video of its user, as soon as that has ended.
"""

from collections import Counter, defaultdict

from loguru import logger

from vidgen.dispatch import Dispatch
from vidgen.errors import PluginBrokenError, ProviderNotConfiguredError, UnknownProviderError
from vidgen.line import HEAD_START_MS
from vidgen.resources import Resources
from vidgen.store import jobs, sharing
from vidgen.store.jobs import Told
from vidgen.store.rows import DueJob

NO_LIMIT = 2**31 - 1


async def recall(resources: Resources) -> None:
    """
    Make as many of them due as there are free turns, the first in line first.

    One costs nothing more by that: its dispatch is sent once, only sooner. What is due already and
    merely waits for a worker counts as if it had its turn, so a deep backlog is not stirred up.

    Raises:
        DatabaseError, DispatchError: PostgreSQL or Redis is away; the next sweep does it.
    """
    async with resources.database.connection() as connection:
        told = await jobs.told(connection)
    for (provider, account), lines in _by_account(resources, told).items():
        if (await resources.breakers.state(provider, account)).is_open:
            continue
        waiting: Counter[str | None] = Counter()
        for line in lines:
            waiting[line.user_id] += line.jobs
        free = await resources.rate_limit.free(provider, account, waiting=waiting)
        if not free:
            continue
        async with resources.database.connection() as connection:
            models = sorted({line.model for line in lines})
            recalled = await jobs.recall(
                connection, provider, models, limit=free, head_start_s=HEAD_START_MS / 1000
            )
        if recalled:
            await _send(resources, recalled)
            logger.info("jobs called to their turn", provider=provider, jobs=len(recalled))


async def recall_of_users(resources: Resources) -> None:
    """
    Make as many jobs due of each user as may be under way beside those that are.

    Raises:
        DatabaseError, DispatchError: PostgreSQL or Redis is away; the next sweep does it.
    """
    limit = resources.settings.user_concurrency
    async with resources.database.connection() as connection:
        # Without a limit nobody has to wait any more who was told so under one.
        recalled = await sharing.recall(connection, limit or NO_LIMIT)
    if recalled:
        await _send(resources, recalled)
        logger.info("jobs of users called", jobs=len(recalled))


async def _send(resources: Resources, due: list[DueJob]) -> None:
    await resources.dispatcher.send([dispatch_for(job) for job in due], now=resources.clock.now())


def dispatch_for(job: DueJob) -> Dispatch:
    """The one that *job* waits for."""
    return Dispatch(
        job_id=job.id,
        epoch=job.lease_epoch,
        priority=job.priority,
        due_at=job.due_at,
        user_id=job.user_id,
        seconds=job.seconds,
        ahead=job.ahead,
    )


def _by_account(resources: Resources, told: list[Told]) -> dict[tuple[str, str], list[Told]]:
    lines: dict[tuple[str, str], list[Told]] = defaultdict(list)
    for line in told:
        try:
            account = resources.providers.account(line.provider, line.model)
        except (PluginBrokenError, ProviderNotConfiguredError, UnknownProviderError):
            continue  # a worker with other settings carries them
        lines[line.provider, account].append(line)
    return lines
