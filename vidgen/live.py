"""
What is heard at once, over Redis: watchers of a job hear its progress and that something happened,
a worker hears that a provider called about a job it holds.

The truth stays in PostgreSQL and at the provider; a lost message costs a watcher a second or two,
and a worker the rest of its wait until the next look.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass
from uuid import UUID

import orjson
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.client import PubSub

from vidgen.dispatch import Bell, redis_errors
from vidgen.errors import DispatchError

CLOSE_TIMEOUT_S = 2
# A subscription that is never used is cut by routers on the way, and without a word.
PING_INTERVAL_S = 20.0
LISTEN_TIMEOUT_S = 3.0
RECONNECT_WAIT_S = 1.0

MAX_TOLD = 1000
_PREFIX = "vidgen:job:"
_ALL = f"{_PREFIX}*"
# What the jobs of a whole process did; read by whoever watches all jobs.
_NEWS = "vidgen:jobs"
# A call that is about no job: older releases leave it alone.
_CANCEL = b"cancel"
# News of so long go out together: with many jobs at once a few commands serve all of them.
GATHER_S = 0.05
PROGRESS_INTERVAL_S = 0.5


class _Alarm:
    """
    Ends the nap of one job, or its next one.

    An `asyncio.Event` is as good, and keeps a queue for whoever waits: half a KiB for each of
    thousands of jobs.
    """

    __slots__ = ("_rang", "_sleeper")

    def __init__(self) -> None:
        self._rang = False
        self._sleeper: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rang = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def nap(self, wait_s: float) -> None:
        if not self._rang:
            loop = asyncio.get_running_loop()
            self._sleeper = loop.create_future()
            timer = loop.call_later(wait_s, self.ring)
            try:
                await self._sleeper
            finally:
                self._sleeper = None
                timer.cancel()
        self._rang = False


# What ends the nap of the job that this task works on.
_alarm: ContextVar[_Alarm | None] = ContextVar("alarm", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """
    One message about a job.

    Attributes:
        percent: Its progress; None says that there is a new event to read.
    """

    percent: int | None


def _channel(job_id: UUID) -> str:
    return f"{_PREFIX}{job_id}"


async def tell(redis: Redis, job_id: UUID, percent: int | None = None) -> None:
    """Tell whoever watches *job_id*; nobody minds if Redis is away."""
    with suppress(DispatchError):
        async with redis_errors("tell watchers"):
            await redis.publish(_channel(job_id), orjson.dumps(percent))


class Teller:
    """
    Tells watchers what the jobs of this process do, in a few commands for all of them together.

    One message for those who watch everything; a message of its own only for a job that somebody
    watches.
    """

    def __init__(self, redis: Redis) -> None:
        """Tell nothing yet; `run` does."""
        self._redis = redis
        self._changed: set[UUID] = set()
        self._percents: dict[UUID, int] = {}
        self._rung = asyncio.Event()

    def happened(self, job_id: UUID) -> None:
        """There is a new event of *job_id* to read."""
        self._changed.add(job_id)
        self._rung.set()

    def progressed(self, job_id: UUID, percent: int) -> None:
        """The provider is so far with *job_id*."""
        self._percents[job_id] = percent

    async def run(self) -> None:
        """Tell what there is to tell until cancelled, and then the rest."""
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PROGRESS_INTERVAL_S):
                        await self._rung.wait()
                        await asyncio.sleep(GATHER_S)
                await self._tell_all()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._tell_all()

    async def _tell_all(self) -> None:
        self._rung.clear()
        changed, self._changed = self._changed, set()
        percents, self._percents = self._percents, {}
        notices: list[tuple[UUID, int | None]] = [*percents.items()]
        notices += [(job_id, None) for job_id in changed]
        with suppress(DispatchError):  # nobody minds if Redis is away
            for start in range(0, len(notices), MAX_TOLD):
                await self._tell(notices[start : start + MAX_TOLD])

    async def _tell(self, notices: Sequence[tuple[UUID, int | None]]) -> None:
        channels = list(dict.fromkeys(_channel(job_id) for job_id, _ in notices))
        async with redis_errors("tell watchers"), self._redis.pipeline(transaction=False) as pipe:
            # As text: asyncpg has UUIDs of its own kind.
            pipe.publish(
                _NEWS, orjson.dumps([(str(job_id), percent) for job_id, percent in notices])
            )
            pipe.pubsub_numsub(*channels)
            _, counts = await pipe.execute()
            watched = {name.decode() for name, count in counts if count}
            for job_id, percent in notices:
                if _channel(job_id) in watched:
                    pipe.publish(_channel(job_id), orjson.dumps(percent))
            await pipe.execute()


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


class Ear:
    """Hears of many jobs, or of all of them, over one connection."""

    def __init__(self, redis: Redis) -> None:
        """Listen to nothing yet."""
        self._pubsub = PubSub(_own_pool(redis))
        self._channels: set[str] = set()
        self._hears_all = False

    async def listen(self, job_ids: Iterable[UUID], *, everything: bool) -> None:
        """
        Hear of *job_ids* from now on and of no others, or of *everything*.

        Raises:
            DispatchError: Redis is away.
        """
        wanted = {_channel(job_id) for job_id in job_ids}
        async with redis_errors("subscribe"):
            if everything and not self._hears_all:
                await self._pubsub.subscribe(_NEWS)
                await self._pubsub.psubscribe(_ALL)  # what clients tell, and older releases
            elif self._hears_all and not everything:
                await self._pubsub.unsubscribe(_NEWS)
                await self._pubsub.punsubscribe(_ALL)
            self._hears_all = everything
            if more := wanted - self._channels:
                await self._pubsub.subscribe(*more)
            if over := self._channels - wanted:
                await self._pubsub.unsubscribe(*over)
            self._channels = wanted

    async def next(self, timeout_s: float) -> list[tuple[UUID, int | None]]:
        """
        What was told meanwhile: jobs with their progress, or None where something happened.

        Raises:
            DispatchError: Redis is away.
        """
        if not self._channels and not self._hears_all:
            await asyncio.sleep(timeout_s)
            return []
        told: list[tuple[UUID, int | None]] = []
        async with redis_errors("listen"):
            while len(told) < MAX_TOLD:
                message = await self._pubsub.get_message(
                    ignore_subscribe_messages=True, timeout=0 if told else timeout_s
                )
                if message is None:
                    break
                told += _notices(message["channel"].decode(), message["data"])
        return told

    async def aclose(self) -> None:
        """Close the connection."""
        await _close(self._pubsub)


def _notices(channel: str, data: bytes) -> list[tuple[UUID, int | None]]:
    """What one message tells."""
    if channel == _NEWS:
        return [(UUID(job_id), percent) for job_id, percent in orjson.loads(data)]
    return [(UUID(channel.removeprefix(_PREFIX)), orjson.loads(data))]


class Wakes:
    """
    Which jobs of this process sleep between two looks, and may be woken.

    Attributes:
        wishes: Set when somebody wants a job of this process cancelled.
    """

    def __init__(self) -> None:
        """Nobody sleeps yet, and nothing is wished."""
        self._alarms: dict[UUID, _Alarm] = {}
        self.wishes = asyncio.Event()

    def expected(self, job_id: UUID) -> "_Expected":
        """Let `wake` end the `nap` of whoever works on *job_id* in the context."""
        return _Expected(self._alarms, job_id)

    def hear(self, message: bytes) -> None:
        """Somebody called about the job that *message* names, or wants one cancelled."""
        if message == _CANCEL:
            self.wishes.set()
            return
        with suppress(ValueError):  # others may write to our Redis, too
            self.wake(UUID(message.decode()))

    def wake(self, job_id: UUID) -> None:
        """End the nap of *job_id*, or the next one if it looks just now."""
        if alarm := self._alarms.get(job_id):
            alarm.ring()


class _Expected:
    """The context of `Wakes.expected`: one for each job, and a generator would be larger."""

    __slots__ = ("_alarms", "_job_id", "_token")

    def __init__(self, alarms: dict[UUID, _Alarm], job_id: UUID) -> None:
        self._alarms = alarms
        self._job_id = job_id
        self._token: Token[_Alarm | None] | None = None

    def __enter__(self) -> None:
        if self._job_id in self._alarms:
            return  # by a dispatch that came twice; the other one has the job
        alarm = self._alarms[self._job_id] = _Alarm()
        self._token = _alarm.set(alarm)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _alarm.reset(self._token)
            del self._alarms[self._job_id]


async def nap(wait_s: float) -> None:
    """Sleep for *wait_s* seconds, or until the job is woken that this task works on."""
    alarm = _alarm.get()
    if alarm is None:
        await asyncio.sleep(wait_s)
        return
    await alarm.nap(wait_s)


async def call(redis: Redis, worker_id: UUID, job_id: UUID) -> bool:
    """
    Have *worker_id* look at *job_id* now; whether it heard.

    Raises:
        DispatchError: Redis is away.
    """
    async with redis_errors("call a worker"):
        return bool(await redis.publish(_calls(worker_id), str(job_id)))


async def call_off(redis: Redis, worker_id: UUID) -> None:
    """Have *worker_id* look now which jobs it is to cancel; without Redis it does that later."""
    with suppress(DispatchError):
        async with redis_errors("call a worker"):
            await redis.publish(_calls(worker_id), _CANCEL)


async def hear_calls(redis: Redis, worker_id: UUID, wakes: Wakes, bell: Bell) -> None:
    """
    Wake the jobs that *worker_id* is called about, and hear the *bell* of dispatches, with one
    subscription, until cancelled.
    """
    hearers = {_calls(worker_id): wakes.hear, bell.channel: bell.hear}
    while True:
        async with AsyncExitStack() as stack:
            pubsub = PubSub(_own_pool(redis))
            stack.push_async_callback(_close, pubsub)
            with suppress(DispatchError):
                async with redis_errors("subscribe to calls"):
                    await pubsub.subscribe(*hearers)
                while await _hear(pubsub, hearers):
                    pass
        await asyncio.sleep(RECONNECT_WAIT_S)


async def _hear(pubsub: PubSub, hearers: Mapping[str, Callable[[bytes], None]]) -> bool:
    """Listen for a while; False if not even the answer to our ping came."""
    loop = asyncio.get_running_loop()
    until, alive = loop.time() + PING_INTERVAL_S, False
    async with redis_errors("ping"):
        await pubsub.ping()
    while (left_s := until - loop.time()) > 0:
        async with redis_errors("listen to calls"):
            message = await pubsub.get_message(timeout=min(left_s, LISTEN_TIMEOUT_S))
        alive = alive or message is not None
        if message is not None and message["type"] == "message":
            hearers[message["channel"].decode()](message["data"])
    return alive


def _calls(worker_id: UUID) -> str:
    return f"vidgen:calls:{worker_id}"


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
