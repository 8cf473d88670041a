"""
The worker: `arq vidgen.worker.WorkerSettings`.

arq delivers dispatches and runs cron; everything that must survive arq, Redis or this process is in
`vidgen.pipeline`. `WorkerSettings` is made when it is asked for, so that importing this module
needs no environment.
"""

import asyncio
import gc
import logging
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from itertools import chain, islice
from typing import Any, TypeVar
from uuid import UUID

import orjson
from arq import cron, func
from arq.connections import ArqRedis, RedisSettings
from loguru import logger
from redis.asyncio import ConnectionPool
from redis.asyncio.client import Pipeline
from redis.asyncio.sentinel import Sentinel
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError, WatchError

from vidgen import live, logs, metrics
from vidgen.connection import telling
from vidgen.dispatch import (
    Bell,
    Dispatch,
    Dispatcher,
    Patience,
    PatientRetry,
    arq_settings,
    open_redis,
)
from vidgen.errors import (
    DatabaseError,
    DatabaseRefusedError,
    DispatchError,
    SettingsError,
    StorageUnavailableError,
    VidgenError,
)
from vidgen.line import (
    FUNCTION,
    IN_PROGRESS_PREFIX,
    LINE_END,
    LINE_FROM,
    MESSAGE_PREFIX,
    line_up,
    lining_up,
    shares_name,
)
from vidgen.pipeline import erasure, sweep
from vidgen.pipeline.carry import carry
from vidgen.pipeline.deliver import Deliverer
from vidgen.pipeline.leases import Leases
from vidgen.pipeline.lookout import Lookout
from vidgen.resources import Clock, Resources, open_resources
from vidgen.server.app import serving
from vidgen.settings import Settings, mask_url
from vidgen.store import budgets, keys
from vidgen.store import sealed as prompts
from vidgen.store.migrate import migrate

T = TypeVar("T")

# So often arq goes through all its tasks for those that have ended: measured with 1,000, a tenth of
# a second cost 2 % of all CPU. Nobody waits for it who sends a dispatch, since the bell ends the
# wait within a round; a place that has become free is filled with the next one.
POLL_DELAY_S = 0.25
# A worker that has nothing to do asks Redis so often: 60 commands a minute.
IDLE_LOOK_S = 1.0
# While the line is longer than one look reaches, what was sent meanwhile is lined up so often, and
# when the bell rings.
LINE_UP_EVERY_S = 1.0
# arq ends a job that runs longer, for good: far above any deadline, which is ours.
DISPATCH_TIMEOUT_S = 8 * 24 * 3600
# arq 0.28 counts a delivery cut by a deploy as a try, and stops at the last one; attempts are in
# PostgreSQL.
MAX_TRIES = 10**6
# For so long a dispatch stays marked as taken, as arq does it.
MARK_MS = (DISPATCH_TIMEOUT_S + 10) * 1000
CRON_TIMEOUT_S = 600
# Longer than any stall: with a shorter one a late worker runs the same tick a second time.
CRON_KEEP_RESULT_S = 3600
START_PATIENCE_S = 30.0
STOP_TIMEOUT_S = 10.0
LAG_INTERVAL_S = 0.5
# Python looks for circles after each 700 new objects, and thousands of jobs in flight are looked
# through again and again: measured with 1,000, 8 % of all CPU. Ours are few and hold no bytes.
OBJECTS_BETWEEN_COLLECTIONS = 20_000


class House:
    """
    What lives as long as the worker process: connections, heartbeat, sweep, progress, server.

    arq starts and stops us in different tasks, so one task of our own opens and closes it all.
    """

    def __init__(
        self, settings: Settings, main: "asyncio.Task[Any]", patience: Patience, bell: Bell
    ) -> None:
        """
        Open nothing yet; *main* is arq's loop, *patience* what it has with Redis, *bell* what it
        waits for.
        """
        self._settings = settings
        self._patience = patience
        self._main = main
        self._ready: asyncio.Future[tuple[Resources, Leases, Lookout]] = (
            asyncio.get_running_loop().create_future()
        )
        self._stop = asyncio.Event()
        self._wakes = live.Wakes()
        self._bell = bell
        self._deliverer: Deliverer
        self._life: asyncio.Task[None] | None = None

    @property
    def clock(self) -> Clock:
        """The time of the database, once we are open."""
        resources, _, _ = self._ready.result()
        return resources.clock

    def room(self) -> int:
        """How many more dispatches may be taken now, once we are open."""
        _, leases, _ = self._ready.result()
        return leases.room

    def free(self) -> int:
        """How many places no job has, once we are open."""
        _, leases, _ = self._ready.result()
        return self._settings.concurrency - leases.under_way

    async def open(self) -> None:
        """
        Be ready for dispatches.

        Raises:
            VidgenError: Something that we cannot do without is missing; the sentence says what.
        """
        self._life = asyncio.create_task(self._live())  # noqa: TID251  arq offers no task to live in; `close` awaits it
        self._life.add_done_callback(self._life_ended)
        await self._ready
        self._main.add_done_callback(self._main_ended)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled, number)

    async def close(self) -> None:
        """Close everything; arq has waited for all jobs before it calls this."""
        self._stop.set()
        if self._life is not None:
            await self._life

    async def carry(self, dispatch: Dispatch) -> bool:
        """Work on the job of *dispatch*; whether nothing of it is left in Redis."""
        resources, leases, lookout = self._ready.result()
        is_off = False
        try:
            with self._wakes.expected(dispatch.job_id):
                is_off = await carry(resources, leases, lookout, dispatch)
        except DatabaseError as error:
            logger.warning("dispatch left to the sweep", reason=error.message)
        self._deliverer.wake()  # the job may have ended
        return is_off

    async def cleanup(self) -> None:
        """Do what is due of retention and orphans."""
        resources, _, _ = self._ready.result()
        try:
            await sweep.cleanup(resources)
        except VidgenError as error:
            logger.warning("cleanup put off", code=error.code, reason=error.message)

    async def sweep(self) -> None:
        """Look for jobs that nobody carries on, should the sweep's own loop be late."""
        resources, leases, _ = self._ready.result()
        await sweep.sweep(resources, leases)

    async def _live(self) -> None:
        settings = self._settings
        await _patiently(lambda: migrate(settings.database_url))
        async with AsyncExitStack() as stack:
            resources = await _patiently(
                lambda: stack.enter_async_context(open_resources(settings))
            )
            await _patiently(lambda: _follow_budgets(resources))
            await stack.enter_async_context(serving(resources))
            await _check_bucket(resources)
            await _check_keys(resources)
            async with asyncio.TaskGroup() as group:
                leases = Leases(resources, group, self._wakes.wishes)
                await _patiently(leases.join)
                lookout = Lookout(resources, leases, self._wakes)
                loops = [
                    group.create_task(leases.run()),
                    group.create_task(lookout.run()),
                    group.create_task(sweep.run(resources, leases)),
                    group.create_task(sweep.look_after_bucket(resources, leases)),
                    group.create_task(erasure.run(resources, leases)),
                    group.create_task(
                        live.hear_calls(resources.redis, leases.id, self._wakes, self._bell)
                    ),
                    group.create_task(_measure_lag()),
                ]
                self._deliverer = Deliverer(resources)
                group.create_task(self._deliverer.run())
                self._ready.set_result((resources, leases, lookout))
                logger.info(
                    "worker ready", workerId=str(leases.id), concurrency=settings.concurrency
                )
                await self._stop.wait()
                for loop in loops:
                    loop.cancel()
                self._deliverer.stop()
            await leases.leave()
        logger.info("worker stopped")

    def _signalled(self, number: int) -> None:
        _, leases, _ = self._ready.result()
        if leases.handing_over:
            logger.warning("second signal: giving everything back now", signal=number)
            leases.hand_over(urgent=True)
            return
        logger.info("stopping: giving polls back, finishing transfers", jobs=leases.count)
        self._hand_over(leases)
        self._main.cancel()

    def _life_ended(self, life: "asyncio.Task[None]") -> None:
        error = None if life.cancelled() else life.exception()
        if not self._ready.done():
            self._ready.set_exception(_first(error) or asyncio.CancelledError())
        elif error is not None:
            _, leases, _ = self._ready.result()
            self._patience.end()
            leases.hand_over(urgent=True)
            # Without heartbeat and sweep nothing here can be trusted: end, and be started afresh.
            logger.opt(exception=error).critical("the worker's upkeep ended with a defect")
            self._main.cancel()

    def _main_ended(self, main: "asyncio.Task[Any]") -> None:
        _, leases, _ = self._ready.result()
        if leases.handing_over or main.cancelled():
            return
        # arq would stay as it is until its jobs end, and pick up nothing: let a fresh process do
        # it.
        logger.error("the dispatch loop ended, giving jobs back", reason=repr(main.exception()))
        self._hand_over(leases)

    def _hand_over(self, leases: Leases) -> None:
        self._patience.end()
        leases.hand_over(urgent=False)
        asyncio.get_running_loop().call_later(
            self._settings.shutdown_grace_s, lambda: leases.hand_over(urgent=True)
        )


# What arq does with WATCH and five commands more, in four round trips for each: take dispatches
# that nobody else has taken. Their messages come with them, for which arq would ask next. Those of
# a priority that line up later begin where these did.
_TAKE = """
local function take(id, mark, message_key)
    local score = tonumber(redis.call('ZSCORE', KEYS[1], id) or nil)
    if not score or score > tonumber(ARGV[1]) then return false end
    if not redis.call('SET', mark, ARGV[3], 'NX', 'PX', ARGV[2])
        and redis.call('GET', mark) ~= ARGV[3] then return false end
    local message = redis.call('GET', message_key) or ''
    if score >= tonumber(ARGV[4]) and score < tonumber(ARGV[5]) then
        local priority = string.match(message, '"share":%["([1-9]):')
        if priority then redis.call('ZADD', KEYS[2], 'XX', 'GT', score, priority) end
    end
    return message
end
local messages = {}
for n = 6, #ARGV do
    local at = 2 * (n - 5)
    messages[n - 5] = take(ARGV[n], KEYS[at + 1], KEYS[at + 2])
end
return messages
"""


class _SteadyPipeline(Pipeline):
    """
    Takes a dispatch in one round trip, whatever arq 0.28 asks for it, and outlives a connection
    that is cut meanwhile.

        arq                                         here
        WATCH mark, EXISTS mark, ZSCORE dispatch    nothing is asked, and answered as it should be
        MULTI, PSETEX mark, EXEC                    `_TAKE`; somebody else's is a WatchError
        GET message, INCR and EXPIRE tries          the message is there; tries are not counted
        ZREM, ZREM, DEL at its end                  nothing, if the claim has taken it off

    A cut connection lets arq's main loop end; here the dispatch looks as if somebody else had it,
    and is looked at again with the next poll. Drop when arq catches it.
    """

    redis: "_SteadyRedis"
    _mark: str | None = None
    _id = ""

    async def watch(self, *names: Any) -> None:  # type: ignore[override]  # redis 5 types it as either
        if names[0].startswith(IN_PROGRESS_PREFIX):
            (self._mark,) = names
            self.watching = True
        else:  # cron's ticks are sent that way
            await super().watch(*names)

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        if self._mark is not None:
            if args[0] == "EXISTS":
                return 0
            self._id = args[2]
            return self.redis.scores.pop(self._id, None)
        try:
            async with self.redis.patience.bounded():
                return await super().immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis 5
        except WatchError:
            return 1 if args[0] == "EXISTS" else None

    async def execute(self, raise_on_error: bool = True) -> Any:
        commands: list[Any] = [args for args, _ in self.command_stack]
        if self._mark is not None:
            await self.reset()
            _, _, keep_ms, _ = commands[0]
            if self.redis.taken.pop(self._id, None) is None and not await self.redis.take(
                [self._id], keep_ms
            ):
                raise WatchError("somebody else has it")
            return [True]
        if commands and commands[0][0] == "GET":
            message = self.redis.messages.pop(commands[0][1], None)
            if message is not None:
                await self.reset()
                return [message, 1, True]
        if len(commands) == 3 and commands[1][0] == "ZREM" and commands[1][2] in self.redis.gone:
            self.redis.gone.discard(commands[1][2])
            await self.reset()
            return []
        try:
            async with self.redis.patience.bounded():
                return await super().execute(raise_on_error)
        except (RedisError, OSError):
            if self.redis.patience.is_over:
                return []  # arq tidies up at its end; what it leaves expires
            raise

    async def reset(self) -> None:
        if self._mark is not None or self.redis.patience.is_over:
            # Nothing is watched; or no UNWATCH, for which a mute Redis would be waited.
            self.watching = False
        await super().reset()  # type: ignore[no-untyped-call]  # redis 5


class _SteadyRedis(ArqRedis):
    """
    The connections of arq's worker.

    What is due is asked for by the clock of the database, which wrote when: with its own, arq would
    leave everything lying for as long as it is behind. While there was nothing, the next look waits
    for the bell, or a second: arq's own would be ten a second. What finds no free place is lined up
    before anything is taken.

    Once its patience is over errors and silence are as good as answers: without that arq would wait
    for a Redis that is away or mute before it ends, and leave its end undone.

    Attributes:
        room: Tells how many dispatches may be taken now.
        free: How many places of the worker no job has.
        scores: Of those dispatches that the last look found, by arq's clock.
        taken: Those that are ours already, until arq begins with them, with these scores.
        messages: Of those that were taken, until arq asks for them.
        gone: Which of those that end now have been taken off.
    """

    clock: Clock
    patience: Patience
    bell: Bell
    free: Callable[[], int]
    lining_up: AsyncScript
    taking: AsyncScript
    room: Callable[[], int]
    scores: dict[str, int]
    taken: dict[str, int]
    messages: dict[str, bytes]
    gone: set[str]
    next_look_at = 0.0
    next_lining_up_at = 0.0

    async def zrangebyscore(self, name: Any, min: Any, max: Any, **options: Any) -> Any:  # type: ignore[override]  # as arq calls it
        await self._wait_for_bell()
        now, room = asyncio.get_running_loop().time(), self.room()
        if room <= 0:
            return []
        rung = self.bell.answer()
        if not rung and now < self.next_look_at:
            return []
        ahead_ms = _ahead_ms(self.clock)
        if options["num"] > room:
            options["num"] = room
        due = await self._due(name, min, max + ahead_ms, options)
        # Where all have a place nobody is before anybody: one command tells, of thousands as well.
        if (
            self._has_to_line_up(due, options["num"], now, rung=rung)
            and await super().zcard(name) > self.free()
        ):
            self.next_lining_up_at = now + LINE_UP_EVERY_S
            await line_up(self.lining_up, name, self.clock.now())
            due = await self._due(name, min, max + ahead_ms, options)
        self.next_look_at = 0.0 if due else now + IDLE_LOOK_S
        found = self.taken | {id_.decode(): score - ahead_ms for id_, score in due}
        lost = await self._take_at_once(found)
        self.scores = {id_: score for id_, score in found.items() if id_ not in lost}
        return [id_.encode() for id_ in self.scores]

    async def _take_at_once(self, found: dict[str, int]) -> set[str]:
        """
        Take those of *found* for which there are places now; which of them somebody else has.

        The others arq takes one by one as places become free, and so it does with cron's ticks.
        """
        # Each that comes first gets its place, whether or not it is taken here.
        ids = [
            id_
            for id_ in islice(found, max(self.free(), 0))
            if id_ not in self.taken and Dispatch.of(id_) is not None
        ]
        if len(ids) < 2:
            return set()
        ours = await self.take(ids, MARK_MS)
        self.taken |= {id_: found[id_] for id_ in ids if id_ in ours}
        return set(ids) - ours

    def _has_to_line_up(
        self, due: list[tuple[bytes, int]], limit: int, now: float, *, rung: bool
    ) -> bool:
        """Whether something may be due that is not in line, and there is not room for all."""
        is_all = len(due) < limit
        if is_all and len(due) <= self.free():
            return False
        _, last = due[-1]  # what is not in line comes last
        return last >= LINE_END or (not is_all and (rung or now >= self.next_lining_up_at))

    async def _due(
        self, name: Any, least: Any, most: Any, options: dict[str, Any]
    ) -> list[tuple[bytes, int]]:
        found: list[tuple[bytes, int]] | None = await super().zrangebyscore(
            name, least, most, **options, withscores=True, score_cast_func=int
        )
        return found or []  # none: patience is over

    async def _wait_for_bell(self) -> None:
        """Until the next look, but never longer than arq may be kept from what else it does."""
        left_s = self.next_look_at - asyncio.get_running_loop().time()
        if left_s > 0:
            await self.bell.wait(min(left_s, POLL_DELAY_S))

    async def take(self, ids: Sequence[str], keep_ms: int) -> set[str]:
        """Which of the dispatches *ids* are ours now; their messages are kept then."""
        message_keys = [f"{MESSAGE_PREFIX}{id_}" for id_ in ids]
        marks = [f"{IN_PROGRESS_PREFIX}{id_}" for id_ in ids]
        now_ms = round(self.clock.now().timestamp() * 1000)
        try:
            messages = await self.taking(
                keys=[
                    self.default_queue_name,
                    shares_name(self.default_queue_name),
                    *chain.from_iterable(zip(marks, message_keys, strict=True)),
                ],
                # Our own sign: asked again because the answer was lost, it is ours all the same.
                args=[now_ms, keep_ms, secrets.token_hex(8), LINE_FROM, LINE_END, *ids],
            )
        except RedisError:
            # The marks may be set: then the sweep finds that nobody works on them.
            return set()
        ours = set()
        for id_, key, message in zip(ids, message_keys, messages or [], strict=bool(messages)):
            if message is None:
                continue
            ours.add(id_)
            # Of cron's ticks arq counts the tries itself.
            if message and Dispatch.of(id_) is not None:
                self.messages[key] = message
        return ours

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            async with self.patience.bounded():
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis 5
        except (RedisError, OSError):
            if self.patience.is_over:
                return None
            raise

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        # Without MULTI and EXEC: what arq does at the begin and the end of a dispatch needs no
        # transaction, since nothing here is lost with Redis.
        pipeline = _SteadyPipeline(self.connection_pool, self.response_callbacks, False, shard_hint)
        pipeline.redis = self
        return pipeline


class _SteadyPool(ConnectionPool):
    """
    Gives a connection out once Redis has answered its greeting, however often that is cut.

    redis 5 tries again to connect, but not to greet, and that error ends arq's main loop. Drop
    when it does.
    """

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        retry: PatientRetry = self.connection_kwargs["retry"]
        return await retry.call_with_retry(super().get_connection, _tried)


async def _tried(_: Exception) -> None:
    """The pool has cleared away what was left of the connection."""


def arq_redis(settings: RedisSettings, queue_name: str) -> _SteadyRedis:
    """Connections as arq would make them, with keep-alive and a pipeline that outlives a cut."""
    redis: _SteadyRedis
    if settings.sentinel:
        assert not isinstance(settings.host, str)  # Sentinel always comes with a list
        sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis 5 has no types here
            settings.host,
            socket_connect_timeout=settings.conn_timeout,
            db=settings.database,
            username=settings.username,
            password=settings.password,
            ssl=settings.ssl,
            retry=settings.retry,
            retry_on_error=settings.retry_on_error,
        )
        redis = sentinel.master_for(settings.sentinel_master, redis_class=_SteadyRedis)
        for client in (redis, *sentinel.sentinels):
            telling(client.connection_pool)
    else:
        redis = _SteadyRedis(
            host=settings.host,
            port=settings.port,
            unix_socket_path=settings.unix_socket_path,
            db=settings.database,
            username=settings.username,
            password=settings.password,
            socket_connect_timeout=settings.conn_timeout,
            # A peer that hangs is noticed by the kernel; a socket timeout of redis-py can swallow
            # the cancellation of a shutdown on Python 3.11.
            socket_keepalive=True,
            socket_keepalive_options=_keep_alive(),
            ssl=settings.ssl,
            ssl_cert_reqs=settings.ssl_cert_reqs,
            ssl_ca_certs=settings.ssl_ca_certs,
            ssl_check_hostname=settings.ssl_check_hostname,
            retry=settings.retry,
            retry_on_error=settings.retry_on_error,
        )
        pool = telling(redis.connection_pool)
        redis.connection_pool = _SteadyPool(
            pool.connection_class, pool.max_connections, **pool.connection_kwargs
        )
    assert isinstance(settings.retry, PatientRetry)  # of `arq_settings`
    redis.clock = Clock()  # until the first heartbeat
    redis.room = lambda: sys.maxsize  # likewise
    redis.patience = settings.retry.patience
    redis.bell = Bell(queue_name)
    redis.free = lambda: 0  # until the worker knows
    redis.lining_up = lining_up(redis)
    redis.taking = redis.register_script(_TAKE)
    redis.scores, redis.taken, redis.messages, redis.gone = {}, {}, {}, set()
    redis.job_serializer = orjson.dumps
    redis.job_deserializer = orjson.loads
    redis.default_queue_name = queue_name
    return redis


def _ahead_ms(clock: Clock) -> int:
    """How far the database is ahead of us."""
    return round(clock.ahead / timedelta(milliseconds=1))


def _keep_alive() -> dict[int, int]:
    """The kernel gives a silent peer up after half a minute, also with data unacknowledged."""
    wanted = {
        "TCP_KEEPIDLE": 10,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 4,
        "TCP_USER_TIMEOUT": 30_000,  # ms
    }
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


async def generate_video(ctx: dict[str, Any], job_id: str, epoch: int, looks: int) -> None:
    """Work on one job: claim, submit, poll, transfer, as far as it goes."""
    house: House = ctx["house"]
    dispatch = Dispatch(job_id=UUID(job_id), epoch=epoch, looks=looks)
    if await house.carry(dispatch):
        redis: _SteadyRedis = ctx["redis"]
        redis.gone.add(dispatch.id)


async def cleanup(ctx: dict[str, Any]) -> None:
    """Archive what failed long ago; forget images, dead workers and unfinished uploads."""
    house: House = ctx["house"]
    await house.cleanup()


async def dispatch_due(ctx: dict[str, Any]) -> None:
    """Dispatch jobs that are due and have no dispatch; free those of dead workers."""
    house: House = ctx["house"]
    await house.sweep()


async def startup(ctx: dict[str, Any]) -> None:
    """Open everything, or end the process with a sentence that says what is missing."""
    settings: Settings = ctx["settings"]
    logs.configure(settings.log_level, settings.log_format)  # again: arq has set up its own
    # A line per dispatch costs 200 µs; our own lines tell the same with more.
    logging.getLogger("arq").setLevel(logging.WARNING)
    main = asyncio.current_task()
    assert main is not None  # arq calls this in its main task
    redis: _SteadyRedis = ctx["redis"]
    house = House(settings, main, redis.patience, redis.bell)
    try:
        await house.open()
    except VidgenError as error:
        logger.error("worker cannot start", code=error.code, reason=error.message)
        raise SystemExit(2 if isinstance(error, SettingsError) else 1) from error
    redis.clock, redis.room, redis.free = house.clock, house.room, house.free
    ctx["house"] = house
    _settle_down()


async def shutdown(ctx: dict[str, Any]) -> None:
    """Close everything that `startup` opened."""
    house: House | None = ctx.get("house")
    if house is not None:
        await house.close()


def _settle_down() -> None:
    """What has been loaded by now stays to the end: no collection has to look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, *gc.get_threshold()[1:])


def worker_settings(settings: Settings) -> type:
    """The class that arq reads: every attribute on the class itself, where arq looks for it."""

    class WorkerSettings:
        """What `arq vidgen.worker.WorkerSettings` runs."""

        functions = (
            func(
                generate_video,
                name=FUNCTION,
                timeout=DISPATCH_TIMEOUT_S,
                keep_result=0,
                max_tries=MAX_TRIES,
            ),
        )
        cron_jobs = (
            cron(
                cleanup,
                minute={7, 37},
                timeout=CRON_TIMEOUT_S,
                keep_result=CRON_KEEP_RESULT_S,
                max_tries=1,
            ),
            cron(
                dispatch_due,
                second=30,
                timeout=CRON_TIMEOUT_S,
                keep_result=CRON_KEEP_RESULT_S,
                max_tries=1,
            ),
        )
        queue_name = settings.queue_name
        redis_settings = arq_settings(settings.redis_url)  # for `arq --check`
        redis_pool = arq_redis(redis_settings, settings.queue_name)
        on_startup = startup
        on_shutdown = shutdown
        max_jobs = settings.concurrency
        poll_delay = POLL_DELAY_S
        queue_read_limit = max(200, min(settings.concurrency, 1000))
        job_timeout = DISPATCH_TIMEOUT_S
        keep_result = 0
        max_tries = MAX_TRIES
        health_check_interval = 60
        log_results = False
        job_serializer = orjson.dumps
        job_deserializer = orjson.loads
        ctx = {"settings": settings}  # noqa: RUF012  arq wants a dict

    return WorkerSettings


def _first(error: BaseException | None) -> BaseException | None:
    """Take the first error out of the groups of a TaskGroup."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _patiently(step: Callable[[], Awaitable[T]]) -> T:
    """The outcome of *step*; PostgreSQL and Redis may still be starting beside us."""
    loop = asyncio.get_running_loop()
    until, wait_s = loop.time() + START_PATIENCE_S, 0.2
    while True:
        try:
            return await step()
        except DatabaseRefusedError:
            raise  # waiting mends nothing
        except (DatabaseError, DispatchError) as error:
            if loop.time() + wait_s > until:
                raise
            logger.warning("not there yet, waiting", code=error.code, reason=error.message)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 5.0)


async def _measure_lag() -> None:
    """Keep telling how late this loop wakes a sleeper: what blocks it delays every job."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL_S
        await asyncio.sleep(LAG_INTERVAL_S)
        metrics.EVENT_LOOP_LAG.observe(max(loop.time() - due, 0.0))


async def _follow_budgets(resources: Resources) -> None:
    if resources.settings.budgets_micros:
        async with resources.database.connection() as connection:
            await budgets.follow_settings(connection, resources.settings.budgets_micros)


async def _check_bucket(resources: Resources) -> None:
    try:
        await resources.storage.check()
    except StorageUnavailableError as error:
        logger.warning("bucket not there yet, transfers will wait", reason=error.message)


async def _check_keys(resources: Resources) -> None:
    """Say at once what jobs would find out one by one."""
    with suppress(DatabaseError):
        async with resources.database.connection() as connection:
            sealed = await keys.sealed_under(connection)
            words = await prompts.under(connection)
        for each in sealed:
            if each.key_id not in resources.vault.key_ids:
                logger.warning(
                    "provider keys do not open with ENCRYPTION_KEYS",
                    keys=each.keys,
                    sealed_under=each.key_id.hex(),
                )
        for one in words:
            if one.key_id not in resources.vault.key_ids:
                logger.warning(
                    "prompts do not open with ENCRYPTION_KEYS",
                    prompts=one.prompts,
                    sealed_under=one.key_id.hex(),
                )


def prepare_loop(settings: Settings) -> None:
    """
    Give arq the fastest loop there is, once Redis has answered.

    arq asks Redis first of all, for minutes and without a word about where; so we ask before.
    """
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        return  # somebody else's program: nothing may block it, and it has chosen its loop
    with suppress(ImportError):
        import uvloop

        asyncio.set_event_loop(uvloop.new_event_loop())
    loop = asyncio.get_event_loop()
    try:
        loop.run_until_complete(_patiently(lambda: _ping(settings)))
    except DispatchError as error:
        logger.error("worker cannot start", code=error.code, reason=error.message)
        raise SystemExit(1) from error


async def _ping(settings: Settings) -> None:
    async with open_redis(settings.redis_url) as redis:
        try:
            await Dispatcher(redis, settings.queue_name).ping()
        except DispatchError as error:
            where = mask_url(settings.redis_url)
            raise DispatchError(f"REDIS_URL: {where} does not answer: {error.message}") from error


def __getattr__(name: str) -> object:
    if name == "WorkerSettings":
        settings = Settings.load_or_exit()
        logs.configure(settings.log_level, settings.log_format)
        prepare_loop(settings)
        return worker_settings(settings)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
