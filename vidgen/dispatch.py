"""
Dispatches: arq's message that a job is due. Redis may lose all of them; the sweep sends them again.

A dispatch is named after the job and the epoch of its lease, so a name is used once, and sending it
twice changes nothing. Only this module and `worker.py` know arq, and clients do not even import it:
it would bring its whole worker along.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import UUID

import orjson
from loguru import logger
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import AbstractBackoff, ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from vidgen.connection import PromptPool, telling
from vidgen.errors import DispatchError
from vidgen.job import USUAL_SECONDS, Stage, VideoJob, seconds_of
from vidgen.line import (
    AHEAD,
    BATCH,
    FUNCTION,
    HEAD_START_MS,
    IN_PROGRESS_PREFIX,
    MESSAGE_PREFIX,
    share_name,
    shares_name,
    withdraw,
    withdrawal,
)

if TYPE_CHECKING:
    from arq.connections import RedisSettings

T = TypeVar("T")

EXPIRES_MS = 7 * 24 * 3600 * 1000  # arq's default of a day would lose what waits longer
CONNECT_TIMEOUT_S = 5
COMMAND_TIMEOUT_S = 5
CONNECTIONS = 32
# For what is due later than that nobody keeps a timer.
LONGEST_RING_MS = 60_000

# A release before wrote head starts into scores, and kept those that are due later and have one in
# a set of their own until then. One whose message is gone was taken, or has expired: the sweep
# looks after it. Drop with the release after next, when none of theirs is left.
_PROMOTE = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for n = 1, #due, 2 do
    local priority, id = string.match(due[n], '^(%d+):(.*)$')
    redis.call('ZREM', KEYS[1], due[n])
    if redis.call('EXISTS', ARGV[3] .. id) == 1 then
        redis.call('ZADD', KEYS[2], due[n + 1] - priority * ARGV[4], id)
    end
end
return #due / 2
"""

# arq's main loop ends at the first error that is not retried here: 150 tries of at most 4 s are
# ten minutes.
WORKER_RETRIES = 150
WORKER_RETRY_CAP_S = 4
LOUD_EVERY_S = 5.0
# What a command may take while the process ends; a few of them follow one another.
LAST_WORDS_S = 1.0
# With Sentinel a fail-over is found by asking again soon, not by insisting on the old primary.
SENTINEL_RETRIES = 4
_PASSING = (RedisConnectionError, RedisTimeoutError, OSError)
_AWAY = (RedisError, OSError, TimeoutError)


class Patience:
    """
    How long a pool waits for a Redis that is away or mute; one for all of its connections.

    For as long as it takes, until it is over: then a command gets `LAST_WORDS_S`, and so do those
    that are under way. A timeout of the socket would not do: on Python 3.11 redis-py can swallow
    with it that a task was cancelled.
    """

    def __init__(self) -> None:
        """Wait."""
        self.is_over = False
        self._limits: set[asyncio.Timeout] = set()

    def end(self) -> None:
        """Wait no more: the process ends."""
        if self.is_over:
            return
        self.is_over = True
        until = asyncio.get_running_loop().time() + LAST_WORDS_S
        for limit in self._limits:
            limit.reschedule(until)

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """
        Do something with Redis.

        Raises:
            TimeoutError: It took too long, after patience was over.
        """
        async with asyncio.timeout(LAST_WORDS_S if self.is_over else None) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    def __deepcopy__(self, _: dict[int, object]) -> "Patience":
        """Stay the same one: redis-py copies a retry, and what is in it, for each connection."""
        return self


class PatientRetry(Retry):
    """
    Says now and then that Redis is away; arq would wait for minutes without a word.

    Once its patience is over, because the process ends, the first error is the last.
    """

    def __init__(self, backoff: AbstractBackoff, retries: int) -> None:
        """Wait as *backoff* says, at most *retries* times."""
        super().__init__(backoff, retries)
        self.patience = Patience()
        self._said_at = -LOUD_EVERY_S

    async def call_with_retry(
        self, do: Callable[[], Awaitable[T]], fail: Callable[[Any], Any]
    ) -> T:
        """Do it until it works."""

        async def tell(error: Any) -> None:
            if self.patience.is_over:
                await fail(error)
                raise error
            now = asyncio.get_running_loop().time()
            if now - self._said_at >= LOUD_EVERY_S:
                self._said_at = now
                logger.warning("redis is away, waiting for it", reason=type(error).__name__)
            await fail(error)

        return await super().call_with_retry(do, tell)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """
    One message.

    Attributes:
        epoch: `lease_epoch` of the row it was sent for.
        due_at: Not before this moment; None is at once.
        looks: How often a worker has looked for the row in vain; its transaction may still be open.
        user_id: Who shares the places of workers with others; all without one are one user.
        seconds: Of video; what a place is worth when it is shared.
        ahead: Goes before all others: its video is paid for, or its turn to submit is reserved.
        known_share: What an earlier message of it said whose share it is, and of how many
            milliseconds; None is what priority, user and seconds make it.
    """

    job_id: UUID
    epoch: int
    priority: int = 0
    due_at: datetime | None = None
    looks: int = 0
    user_id: str | None = None
    seconds: int = USUAL_SECONDS
    ahead: bool = False
    known_share: tuple[str, int] | None = None

    @classmethod
    def for_job(cls, job: VideoJob) -> "Dispatch":
        """The one that *job* waits for."""
        return cls(
            job_id=job.id,
            epoch=job.lease_epoch,
            priority=job.priority,
            due_at=job.due_at,
            user_id=job.user_id,
            seconds=seconds_of(job.parameters),
            ahead=job.stage is not Stage.QUEUED or job.slot_at is not None,
        )

    @property
    def id(self) -> str:
        """Its name in Redis."""
        return f"{self.job_id}.{self.epoch}" + (f".{self.looks}" if self.looks else "")

    @classmethod
    def of(cls, id_: str) -> "Dispatch | None":
        """What *id_* names; None for what is no dispatch of ours, as arq's cron jobs."""
        job_id, *numbers = id_.split(".")
        try:
            epoch, looks = [int(number) for number in [*numbers, "0"][:2]]
            return cls(job_id=UUID(job_id), epoch=epoch, looks=looks)
        except ValueError:
            return None

    @property
    def id_apart(self) -> str:
        """Its name among those that a release before lets wait apart."""
        return f"{self.priority}:{self.id}"

    @property
    def share(self) -> tuple[str, int]:
        """Those that it lines up behind, and milliseconds of video."""
        return self.known_share or (share_name(self.user_id, self.priority), 1000 * self.seconds)


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Redis]:
    """
    Lend a client with a bounded pool that gives up soon; nothing vidgen keeps depends on Redis.

    Args:
        url: `redis://`, `rediss://`, `unix://`, or
            `redis+sentinel://[:password@]host:port,host:port/service/db`.
    """
    clients = _clients(url)
    try:
        yield clients[0]
    finally:
        for client in clients:
            await client.aclose(close_connection_pool=True)


def _clients(url: str) -> list[Redis]:
    """The one that is used, and those that it uses itself."""
    if urlsplit(url).scheme == "redis+sentinel":
        return _through_sentinels(_Sentinels.of(url))
    keywords: dict[str, object] = {}
    if urlsplit(url).scheme != "unix":
        keywords |= {"socket_keepalive": True, "socket_connect_timeout": CONNECT_TIMEOUT_S}
    pool = PromptPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=COMMAND_TIMEOUT_S,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
        retry_on_error=list(_PASSING),
        **keywords,
    )
    return [Redis(connection_pool=telling(pool))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sentinels:
    hosts: list[tuple[str, int]]
    service: str
    database: int
    username: str | None
    password: str | None = field(repr=False)

    @classmethod
    def of(cls, url: str) -> "_Sentinels":
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        service, _, database = parts.path.strip("/").partition("/")
        return cls(
            hosts=[_host_and_port(address) for address in hosts.split(",")],
            service=service or "mymaster",
            database=int(database or 0),
            username=unquote(username) or None,
            password=unquote(password) or None,
        )


def _host_and_port(address: str) -> tuple[str, int]:
    parts = urlsplit(f"//{address}")  # knows the brackets of IPv6
    return parts.hostname or "localhost", parts.port or 26379


def _through_sentinels(sentinels: _Sentinels) -> list[Redis]:
    sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis 5 has no types here
        sentinels.hosts,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        db=sentinels.database,
        username=sentinels.username,
        password=sentinels.password,
    )
    clients: list[Redis] = [sentinel.master_for(sentinels.service), *sentinel.sentinels]
    for client in clients:
        telling(client.connection_pool)
    return clients


def arq_settings(url: str) -> "RedisSettings":
    """What arq's worker needs to reach *url*, and to outlive minutes without it."""
    from arq.connections import RedisSettings

    parts = urlsplit(url)
    if parts.scheme == "redis+sentinel":
        sentinels = _Sentinels.of(url)
        settings = RedisSettings(
            host=sentinels.hosts,
            sentinel=True,
            sentinel_master=sentinels.service,
            database=sentinels.database,
            username=sentinels.username,
            password=sentinels.password,
            retry=PatientRetry(ExponentialBackoff(cap=1, base=0.05), SENTINEL_RETRIES),
        )
        return _patient(settings)
    # arq 0.28 stumbles over a slash at the end; drop when > 0.28.
    settings = RedisSettings.from_dsn(parts._replace(path=parts.path.rstrip("/")).geturl())
    query = parse_qs(parts.query)
    settings.username = unquote(settings.username) if settings.username else None
    settings.password = unquote(settings.password) if settings.password else None
    if settings.ssl:
        settings.ssl_cert_reqs = query.get("ssl_cert_reqs", ["required"])[0]
        settings.ssl_ca_certs = query.get("ssl_ca_certs", [None])[0]
        settings.ssl_check_hostname = settings.ssl_cert_reqs == "required"
    settings.retry = PatientRetry(
        ExponentialBackoff(cap=WORKER_RETRY_CAP_S, base=0.05), WORKER_RETRIES
    )
    return _patient(settings)


def _patient(settings: "RedisSettings") -> "RedisSettings":
    settings.retry_on_error = list(_PASSING)
    settings.conn_timeout = CONNECT_TIMEOUT_S
    settings.conn_retries = 60
    return settings


class Bell:
    """
    Rings in every worker when a dispatch is sent: until then none needs to ask Redis often.

    One that nobody hears costs a second: workers ask that often by themselves.
    """

    def __init__(self, queue_name: str) -> None:
        """Ring at first, so that a worker begins with a look."""
        self.channel = bell_channel(queue_name)
        self._rung = asyncio.Event()
        self._rung.set()

    def hear(self, message: bytes) -> None:
        """A dispatch was sent that is due in so many milliseconds."""
        try:
            wait_ms = int(message)
        except ValueError:  # others may write to our Redis, too
            return
        if wait_ms == 0:
            self._rung.set()
        elif 0 < wait_ms < LONGEST_RING_MS:
            asyncio.get_running_loop().call_later(wait_ms / 1000, self._ring)

    async def wait(self, patience_s: float) -> None:
        """Until it rings, or has rung since the last answer; no longer than so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._rung.wait()

    def answer(self) -> bool:
        """Whether it has rung since the last time."""
        has_rung = self._rung.is_set()
        self._rung.clear()
        return has_rung

    def _ring(self) -> None:
        self._rung.set()


def bell_channel(queue_name: str) -> str:
    """Where `Dispatcher.send` rings."""
    return f"{queue_name}:bell"


class Dispatcher:
    """Sends dispatches, and knows which ones are under way."""

    def __init__(self, redis: Redis, queue_name: str) -> None:
        """Use *redis*; *queue_name* is the key of arq's sorted set."""
        self._redis = redis
        self._queue_name = queue_name
        self._later_name = later_name(queue_name)
        self._promote = redis.register_script(_PROMOTE)
        self._withdraw = withdrawal(redis)

    async def send(self, dispatches: Iterable[Dispatch], *, now: datetime) -> None:
        """
        Send all in as few round trips as possible. One that is there already stays where it is in
        line, unless it is due sooner now.

        Raises:
            DispatchError: Redis is away; the sweep sends them later.
        """
        dispatches = list(dispatches)
        for start in range(0, len(dispatches), BATCH):
            batch = dispatches[start : start + BATCH]
            async with (
                redis_errors("send dispatches"),
                self._redis.pipeline(transaction=False) as pipe,
            ):
                for dispatch in batch:
                    pipe.psetex(MESSAGE_PREFIX + dispatch.id, EXPIRES_MS, _message(dispatch, now))
                scores = {dispatch.id: _due_ms(dispatch, now) for dispatch in batch}
                pipe.zadd(self._queue_name, scores, lt=True)
                sooner_ms = min(_due_ms(dispatch, now) for dispatch in batch)
                wait_ms = max(sooner_ms - round(now.timestamp() * 1000), 0)
                if wait_ms < LONGEST_RING_MS:
                    pipe.publish(bell_channel(self._queue_name), wait_ms)
                await pipe.execute()

    async def take_off(self, dispatch_ids: Sequence[str]) -> None:
        """
        Remove dispatches whose jobs have been claimed.

        arq keeps running ones in its sorted set and looks at each again on every poll: measured,
        1,000 of them cost 7,900 commands a second.

        Raises:
            DispatchError: Redis is away; some of them may be off.
        """
        for start in range(0, len(dispatch_ids), BATCH):
            batch = dispatch_ids[start : start + BATCH]
            async with (
                redis_errors("take dispatches off"),
                self._redis.pipeline(transaction=False) as pipe,
            ):
                pipe.zrem(self._queue_name, *batch)
                # With arq's mark: of one that is gone nobody asks whether it is under way.
                pipe.delete(
                    *(MESSAGE_PREFIX + id_ for id_ in batch),
                    *(IN_PROGRESS_PREFIX + id_ for id_ in batch),
                )
                await pipe.execute()

    async def refund(self, dispatch: Dispatch) -> None:
        """
        Charge the user of *dispatch* nothing for it: it was taken, but a place was of no use yet.

        Raises:
            DispatchError: Redis is away.
        """
        name, cost_ms = dispatch.share
        async with redis_errors("refund a dispatch"):
            await self._redis.zadd(
                shares_name(self._queue_name), {name: -cost_ms}, xx=True, incr=True
            )

    async def recollect(self, dispatch: Dispatch) -> Dispatch:
        """
        Give *dispatch* the share that its message has: who takes it knows only its name, and the
        row of its job may not be there yet.

        Raises:
            DispatchError: Redis is away.
        """
        async with redis_errors("read a dispatch"):
            message = await self._redis.get(MESSAGE_PREFIX + dispatch.id)
        try:
            told = orjson.loads(message or b"{}")
        except orjson.JSONDecodeError:  # others may write to our Redis, too
            return dispatch
        match told:
            case {"share": [str(name), int(cost_ms)]}:
                return replace(dispatch, known_share=(name, cost_ms))
            case _:
                return dispatch

    async def promote(self, now: datetime) -> int:
        """
        Move what a release before let wait apart and is due now to the others; how many it were.

        Raises:
            DispatchError: Redis is away.
        """
        async with redis_errors("promote dispatches"):
            # Nearly always there are none, and one command tells.
            now_ms = round(now.timestamp() * 1000)
            if not await self._redis.zcount(self._later_name, "-inf", now_ms):
                return 0
            keys = [self._later_name, self._queue_name]
            args: list[str | int] = [now_ms, BATCH, MESSAGE_PREFIX, HEAD_START_MS]
            return int(await self._promote(keys=keys, args=args) or 0)

    async def oldest(self, limit: int) -> list[Dispatch]:
        """
        Those *limit* dispatches that arq looks at first.

        Raises:
            DispatchError: Redis is away.
        """
        async with redis_errors("look at the oldest dispatches"):
            names: list[bytes] = await self._redis.zrange(self._queue_name, 0, limit - 1)
        found = [Dispatch.of(name.decode(errors="replace")) for name in names]
        return [dispatch for dispatch in found if dispatch is not None]

    async def in_progress(self, dispatches: Sequence[Dispatch]) -> list[Dispatch]:
        """
        Which of *dispatches* a worker has taken, or took and died with.

        Raises:
            DispatchError: Redis is away.
        """
        if not dispatches:
            return []
        async with redis_errors("look for dispatches"):
            taken = await self._redis.mget([IN_PROGRESS_PREFIX + each.id for each in dispatches])
        return [each for each, mark in zip(dispatches, taken, strict=True) if mark is not None]

    async def drop(self, dispatches: Sequence[Dispatch]) -> None:
        """
        Forget *dispatches*, what their users were charged for them, and that a worker took them:
        arq itself would keep that for days, and look at them each time before all others.

        Raises:
            DispatchError: Redis is away.
        """
        if not dispatches:
            return
        ids = [dispatch.id for dispatch in dispatches]
        async with redis_errors("drop dispatches"):
            await withdraw(self._withdraw, self._queue_name, ids)

    async def sort(self, dispatches: Sequence[Dispatch]) -> tuple[list[Dispatch], list[Dispatch]]:
        """
        Tell which of *dispatches* are not in Redis at all, and which were taken and never
        came back.

        Call it for jobs that have been due and unheld for a while. One that is merely waiting for
        a free slot is in neither list.
        """
        if not dispatches:
            return [], []
        async with (
            redis_errors("look for dispatches"),
            self._redis.pipeline(transaction=False) as pipe,
        ):
            for dispatch in dispatches:
                pipe.zscore(self._queue_name, dispatch.id)
                pipe.exists(MESSAGE_PREFIX + dispatch.id)
                pipe.exists(IN_PROGRESS_PREFIX + dispatch.id)
            pipe.zmscore(self._later_name, [dispatch.id_apart for dispatch in dispatches])
            *answers, apart = await pipe.execute()
        lost, stuck = [], []
        for dispatch, score, message, in_progress, score_apart in zip(
            dispatches, answers[::3], answers[1::3], answers[2::3], apart, strict=True
        ):
            if in_progress:
                stuck.append(dispatch)
            elif (score is None and score_apart is None) or not message:
                lost.append(dispatch)
        return lost, stuck

    async def ping(self) -> float:
        """Milliseconds Redis takes to answer."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with redis_errors("reach Redis"):
            await self._redis.ping()
        return (loop.time() - started) * 1000


@asynccontextmanager
async def redis_errors(deed: str) -> AsyncIterator[None]:
    """
    Do something with Redis within a few seconds.

    Raises:
        DispatchError: It did not answer, or not in time.
    """
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            yield
    except _AWAY as error:
        raise DispatchError(f"could not {deed}: {type(error).__name__}") from error


def later_name(queue_name: str) -> str:
    """Where a release before lets those wait that have a head start as soon as they are due."""
    return f"{queue_name}:later"


def _due_ms(dispatch: Dispatch, now: datetime) -> int:
    # Of two clocks the database's counts: who sends may be ahead of it.
    return round((dispatch.due_at or now).timestamp() * 1000)


def _message(dispatch: Dispatch, now: datetime) -> bytes:
    # What `arq.jobs.serialize_job` makes: try, function, arguments, time. And what `line` reads.
    return orjson.dumps(
        {
            "t": None,
            "f": FUNCTION,
            "a": (str(dispatch.job_id), dispatch.epoch, dispatch.looks),
            "k": {},
            "et": round(now.timestamp() * 1000),
            "share": AHEAD if dispatch.ahead else dispatch.share,
        }
    )
