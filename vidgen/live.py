"""
What watchers of a job hear at once, over Redis: progress, and that something happened.

The truth of what happened stays in `job_events`; a lost message costs a watcher a second or two.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import orjson
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from vidgen.dispatch import redis_errors
from vidgen.errors import DispatchError

CLOSE_TIMEOUT_S = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """
    One message about a job.

    Attributes:
        percent: Its progress; None says that there is a new event to read.
    """

    percent: int | None


def _channel(job_id: UUID) -> str:
    return f"vidgen:job:{job_id}"


async def tell(redis: Redis, job_id: UUID, percent: int | None = None) -> None:
    """Tell whoever watches *job_id*; nobody minds if Redis is away."""
    with suppress(DispatchError):
        async with redis_errors("tell watchers"):
            await redis.publish(_channel(job_id), orjson.dumps(percent))


class Watch:
    """A subscription to one job, which may be deaf for a while when Redis is away."""

    def __init__(self, pubsub: PubSub | None) -> None:
        """Listen to *pubsub*; None is deaf from the start."""
        self._pubsub = pubsub

    async def next(self, timeout_s: float) -> Notice | None:
        """The next message, or None after *timeout_s* seconds without one."""
        if self._pubsub is None:
            await asyncio.sleep(timeout_s)
            return None
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        try:
            async with redis_errors("listen"):
                message = await self._pubsub.get_message(
                    ignore_subscribe_messages=True, timeout=timeout_s
                )
        except DispatchError:
            self._pubsub = None
            await asyncio.sleep(max(until - loop.time(), 0))
            return None
        return None if message is None else Notice(percent=orjson.loads(message["data"]))


@asynccontextmanager
async def watch(redis: Redis, job_id: UUID) -> AsyncIterator[Watch]:
    """Subscribe to *job_id* before reading its events, so that none falls in between."""
    async with AsyncExitStack() as stack:
        pubsub = redis.pubsub()
        stack.push_async_callback(_close, pubsub)
        try:
            async with redis_errors("subscribe"):
                await pubsub.subscribe(_channel(job_id))
        except DispatchError:
            yield Watch(None)
        else:
            yield Watch(pubsub)


async def _close(pubsub: PubSub) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis 5 has no types here
