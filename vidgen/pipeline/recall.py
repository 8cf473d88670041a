"""
Bringing forward who waits for a turn while there are turns: jobs were told when to come back by the
length of the line at that time, and some of those before them left, or the limit was raised.
"""

from collections import Counter, defaultdict

from loguru import logger

from vidgen.dispatch import HEAD_START_MS, Dispatch
from vidgen.errors import ProviderNotConfiguredError, UnknownProviderError
from vidgen.resources import Resources
from vidgen.store import jobs
from vidgen.store.jobs import Told


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
            await resources.dispatcher.send(
                [
                    Dispatch(job_id=job.id, epoch=job.lease_epoch, priority=job.priority)
                    for job in recalled
                ],
                now=resources.clock.now(),
            )
            logger.info("jobs called to their turn", provider=provider, jobs=len(recalled))


def _by_account(resources: Resources, told: list[Told]) -> dict[tuple[str, str], list[Told]]:
    lines: dict[tuple[str, str], list[Told]] = defaultdict(list)
    for line in told:
        try:
            account = resources.providers.account(line.provider, line.model)
        except (ProviderNotConfiguredError, UnknownProviderError):
            continue  # a worker with other settings carries them
        lines[line.provider, account].append(line)
    return lines
