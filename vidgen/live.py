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
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
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
    """A subscription to one job, which is deaf for as long as Redis is away."""

    def __init__(self, pubsub: PubSub, job_id: UUID) -> None:
        """Subscribe with the first `listen` that succeeds."""
        self._pubsub = pubsub
        self._job_id = job_id
        self._subscribed = False

    async def listen(self) -> None:
        """
        Subscribe, unless that has been done: *pubsub* itself does it again after a lost connection.

        Raises:
            DispatchError: Redis is away.
        """
        if not self._subscribed:
            async with redis_errors("subscribe"):
                await self._pubsub.subscribe(_channel(self._job_id))
            self._subscribed = True

    async def next(self, timeout_s: float) -> Notice | None:
        """The next message, or None after *timeout_s* seconds without one."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(until):
                return await self._next(timeout_s)
        except (DispatchError, TimeoutError):
            await asyncio.sleep(max(until - loop.time(), 0))
            return None

    async def _next(self, timeout_s: float) -> Notice | None:
        await self.listen()
        async with redis_errors("listen"):
            message = await self._pubsub.get_message(
                ignore_subscribe_messages=True, timeout=timeout_s
            )
        return None if message is None else Notice(percent=orjson.loads(message["data"]))


@asynccontextmanager
async def watch(redis: Redis, job_id: UUID) -> AsyncIterator[Watch]:
    """Subscribe to *job_id* before reading its events, so that none falls in between."""
    async with AsyncExitStack() as stack:
        pubsub = PubSub(_own_pool(redis))
        stack.push_async_callback(_close, pubsub)
        heard = Watch(pubsub, job_id)
        with suppress(DispatchError):  # a deaf one tries again with each `next`
            await heard.listen()
        yield heard


def _own_pool(redis: Redis) -> ConnectionPool:
    """
    Where a watcher gets its connection: it keeps it for minutes, and many of them must not take
    the ones that dispatches need.
    """
    pool = redis.connection_pool
    if not isinstance(pool, BlockingConnectionPool):
        return pool  # Sentinel's has no bound
    return ConnectionPool(
        connection_class=pool.connection_class, max_connections=1, **pool.connection_kwargs
    )


async def _close(pubsub: PubSub) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis 5 has no types here
