"""Dispatches: what arq makes of them, how they get lost, and a Redis that is away."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import orjson
import pytest
from arq import ArqRedis, Worker, constants, create_pool, func
from arq.jobs import serialize_job
from loguru import logger
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from vidgen import dispatch as module
from vidgen.dev.child import Child
from vidgen.dev.servers import find_valkey
from vidgen.dispatch import (
    Bell,
    Dispatch,
    Dispatcher,
    PatientRetry,
    arq_settings,
    later_name,
    open_redis,
)
from vidgen.errors import DispatchError
from vidgen.line import (
    AHEAD,
    FUNCTION,
    HEAD_START_MS,
    IN_PROGRESS_PREFIX,
    MESSAGE_PREFIX,
    RETRY_PREFIX,
    hashed,
    line_up,
)
from vidgen.worker import arq_redis

# arq 0.28 closes its pool by a name that redis 5 no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")

QUEUE = "vidgen:queue"
PASSWORD = "p@ss/w:rd#1"
Taken = tuple[str, int, int]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as redis:
        yield redis


@pytest.fixture
def dispatcher(redis: Redis) -> Dispatcher:
    return Dispatcher(redis, QUEUE)


def a_dispatch(number: int = 1, **more: Any) -> Dispatch:
    return Dispatch(job_id=UUID(int=number), epoch=0, **more)


def now() -> datetime:
    return datetime.now(UTC)


class Inbox:
    """What arq's own worker got, one at a time, and when."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.taken_at: list[datetime] = []

    @property
    def numbers(self) -> list[int]:
        return [UUID(job_id).int for job_id, _, _ in self.taken]

    async def take(self, _: dict[str, Any], job_id: str, epoch: int, looks: int) -> None:
        self.taken.append((job_id, epoch, looks))
        self.taken_at.append(now())

    async def empty(self, url: str, *, as_we_do: bool = False, places: int = 0) -> None:
        """
        Let a worker run until nothing is left, over arq's own connections or over ours.

        Args:
            places: So many are taken at once, though arq begins with one after the other.
        """
        ours = arq_redis(arq_settings(url), QUEUE)
        ours.free = lambda: places
        worker = Worker(
            [func(self.take, name=FUNCTION)],  # type: ignore[arg-type]  # bound: it has no ctx
            redis_settings=arq_settings(url),
            redis_pool=ours if as_we_do else None,
            queue_name=QUEUE,
            burst=True,
            max_jobs=1,
            poll_delay=0.01,
            keep_result=0,
            handle_signals=False,
            job_serializer=orjson.dumps,
            job_deserializer=orjson.loads,
        )
        async with asyncio.timeout(20):
            await worker.main()
        pool = worker.pool
        await worker.close()
        await close_sentinels(pool)


async def close_sentinels(pool: ArqRedis) -> None:
    """Close what arq 0.28 forgets."""
    manager = getattr(pool.connection_pool, "sentinel_manager", None)
    for client in manager.sentinels if manager else []:
        await client.aclose()


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


# --- what arq makes of them ---


def test_our_words_are_the_ones_of_arq() -> None:
    assert constants.job_key_prefix == MESSAGE_PREFIX
    assert constants.in_progress_key_prefix == IN_PROGRESS_PREFIX
    assert constants.retry_key_prefix == RETRY_PREFIX


@pytest.mark.parametrize(
    ("more", "share"),
    [
        ({}, [f"0:{hashed(None)}", 8000]),
        ({"user_id": "ada", "seconds": 12, "priority": 3}, [f"3:{hashed('ada')}", 12000]),
        ({"user_id": "ada", "ahead": True}, AHEAD),
    ],
)
async def test_a_message_is_the_json_that_arq_itself_would_write_and_a_share(
    redis: Redis, dispatcher: Dispatcher, more: dict[str, Any], share: object
) -> None:
    at = now()
    dispatch = Dispatch(job_id=UUID(int=7), epoch=3, looks=2, **more)

    await dispatcher.send([dispatch], now=at)

    message = await redis.get(MESSAGE_PREFIX + dispatch.id)
    of_arq = serialize_job(
        "generate_video",
        (str(dispatch.job_id), 3, 2),
        {},
        None,
        round(at.timestamp() * 1000),
        serializer=orjson.dumps,
    )
    assert orjson.loads(message) == orjson.loads(of_arq) | {"share": share}


async def test_arqs_worker_takes_what_we_send(
    redis_url: str, redis: Redis, dispatcher: Dispatcher, inbox: Inbox
) -> None:
    sent = [Dispatch(job_id=UUID(int=n), epoch=n, looks=n % 2) for n in range(20)]

    await dispatcher.send(sent, now=now())
    await inbox.empty(redis_url)

    assert sorted(inbox.taken) == sorted((str(d.job_id), d.epoch, d.looks) for d in sent)
    assert await redis.zcard(QUEUE) == 0


async def test_higher_priorities_go_first_and_equal_ones_in_their_order(
    redis_url: str, dispatcher: Dispatcher, inbox: Inbox
) -> None:
    at = now() - timedelta(seconds=1)
    for number, priority in enumerate([0, 5, 9, 0, 5]):
        at += timedelta(milliseconds=1)
        await dispatcher.send([a_dispatch(number, priority=priority)], now=at)

    await inbox.empty(redis_url, as_we_do=True)

    assert inbox.numbers == [2, 1, 4, 0, 3]


@pytest.mark.parametrize("priority", [0, 9])
async def test_nothing_is_taken_before_it_is_due(
    redis_url: str, dispatcher: Dispatcher, inbox: Inbox, priority: int
) -> None:
    due_at = now() + timedelta(seconds=0.3)
    later, sooner = a_dispatch(1, due_at=due_at, priority=priority), a_dispatch(2)

    await dispatcher.send([later, sooner], now=now())
    await inbox.empty(redis_url)
    await due(later)
    await inbox.empty(redis_url)

    assert inbox.numbers == [2, 1]
    assert inbox.taken_at[0] < due_at
    # arq reads its clock in whole milliseconds
    assert inbox.taken_at[1] >= due_at - timedelta(milliseconds=2)


async def due(*dispatches: Dispatch) -> None:
    """Wait until all of them are due, as a worker waits that has other things to do."""
    for dispatch in dispatches:
        assert dispatch.due_at is not None
        await asyncio.sleep(max((dispatch.due_at - now()).total_seconds(), 0) + 0.002)


async def test_a_priority_counts_for_what_was_due_later_too(
    redis_url: str, dispatcher: Dispatcher, inbox: Inbox
) -> None:
    backlog = [a_dispatch(number) for number in range(3)]
    due_at = now() + timedelta(seconds=0.1)
    later = [a_dispatch(10 + p, priority=p, due_at=due_at) for p in (0, 5, 9)]

    await dispatcher.send([*backlog, *later], now=now())
    assert await dispatcher.sort([*backlog, *later]) == ([], [])
    await due(*later)
    await inbox.empty(redis_url, as_we_do=True)

    assert inbox.numbers == [19, 15, 0, 1, 2, 10]


async def sent_by_the_release_before(redis: Redis, *dispatches: Dispatch) -> None:
    """With a head start in the score, or apart until then, and without a share."""
    for each in dispatches:
        message = serialize_job(
            FUNCTION,
            (str(each.job_id), each.epoch, each.looks),
            {},
            None,
            round(now().timestamp() * 1000),
            serializer=orjson.dumps,
        )
        await redis.set(MESSAGE_PREFIX + each.id, message)
        due_ms = round((each.due_at or now()).timestamp() * 1000)
        if each.priority > 0 and each.due_at is not None:
            await redis.zadd(later_name(QUEUE), {each.id_apart: due_ms})
        else:
            await redis.zadd(QUEUE, {each.id: due_ms - each.priority * HEAD_START_MS})


async def test_what_the_release_before_sent_keeps_its_head_start(
    redis_url: str, redis: Redis, dispatcher: Dispatcher, inbox: Inbox
) -> None:
    due_at = now() + timedelta(seconds=0.05)
    later = [a_dispatch(10 + p, priority=p, due_at=due_at) for p in (0, 5, 9)]
    before = [a_dispatch(1), a_dispatch(2), a_dispatch(3, priority=7), *later]
    await sent_by_the_release_before(redis, *before)
    assert await dispatcher.sort(before) == ([], [])

    await due(*later)
    assert await dispatcher.promote(now()) == 2
    await inbox.empty(redis_url, as_we_do=True)

    assert inbox.numbers == [19, 3, 15, 1, 2, 10]
    assert await redis.exists(later_name(QUEUE)) == 0


async def test_the_release_before_takes_what_was_lined_up(
    redis_url: str, dispatcher: Dispatcher, inbox: Inbox
) -> None:
    async def lined_up() -> None:
        worker = arq_redis(arq_settings(redis_url), QUEUE)
        await line_up(worker.lining_up, QUEUE, now())
        await worker.aclose(close_connection_pool=True)

    ada = [a_dispatch(number, user_id="ada") for number in range(5)]
    await dispatcher.send(ada, now=now())
    await lined_up()
    await dispatcher.send([a_dispatch(9, user_id="bob")], now=now())
    await lined_up()

    await inbox.empty(redis_url)

    assert inbox.numbers == [0, 9, 1, 2, 3, 4]


async def test_of_what_the_release_before_has_apart_nothing_that_was_taken_comes_back(
    redis: Redis, dispatcher: Dispatcher
) -> None:
    later = a_dispatch(priority=9, due_at=now() + timedelta(seconds=0.05))
    await sent_by_the_release_before(redis, later)
    await dispatcher.take_off([later.id])

    await due(later)
    await dispatcher.promote(now())

    assert await redis.zcard(QUEUE) == 0
    assert await redis.exists(later_name(QUEUE)) == 0


async def test_a_worker_leaves_in_redis_what_it_has_no_room_for(
    redis_url: str, dispatcher: Dispatcher
) -> None:
    await dispatcher.send([a_dispatch(number) for number in range(3)], now=now())
    worker = arq_redis(arq_settings(redis_url), QUEUE)
    due_ms, found = round(now().timestamp() * 1000), []

    for room in (0, 2, 5):
        worker.room = lambda room=room: room  # type: ignore[misc]  # each its own
        found.append(
            await worker.zrangebyscore(QUEUE, min=float("-inf"), max=due_ms, start=0, num=10)
        )

    assert [len(names) for names in found] == [0, 2, 3]
    await worker.aclose(close_connection_pool=True)


async def test_a_worker_takes_what_it_has_places_for_and_leaves_the_others_to_its_peers(
    redis_url: str, redis: Redis, dispatcher: Dispatcher
) -> None:
    sent = [a_dispatch(number) for number in range(1, 11)]
    names = [each.id for each in sent]
    await dispatcher.send(sent, now=now() - timedelta(seconds=1))
    worker, peer = (arq_redis(arq_settings(redis_url), QUEUE) for _ in range(2))
    worker.free, peer.free = (lambda: 4), (lambda: 10)

    async def look(worker: ArqRedis) -> list[str]:
        due_ms = round(now().timestamp() * 1000)
        found = await worker.zrangebyscore(QUEUE, min=float("-inf"), max=due_ms, start=0, num=200)
        return [name.decode() for name in found]

    assert await look(worker) == names
    assert list(worker.taken) == names[:4]
    assert await look(peer) == names[4:]
    assert list(peer.taken) == names[4:]
    # What arq did not come to is offered again, and not taken a second time.
    assert await look(worker) == names
    assert list(worker.taken) == names[:4]

    assert await redis.exists(*(IN_PROGRESS_PREFIX + name for name in names)) == 10
    for each in (worker, peer):
        await each.aclose(close_connection_pool=True)


@pytest.mark.parametrize("places", [0, 7, 100], ids=["one by one", "some", "all at once"])
async def test_of_two_workers_only_one_takes_a_dispatch(
    redis_url: str, redis: Redis, dispatcher: Dispatcher, inbox: Inbox, places: int
) -> None:
    await dispatcher.send([a_dispatch(number) for number in range(40)], now=now())

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(inbox.empty(redis_url, as_we_do=True, places=places))

    assert sorted(inbox.numbers) == list(range(40))
    assert [key async for key in redis.scan_iter("arq:*")] == []
    assert await redis.zcard(QUEUE) == 0


async def test_what_cron_sends_over_our_connections_is_run_once(redis_url: str) -> None:
    ticks: list[str] = []

    async def tick(ctx: dict[str, Any]) -> None:
        ticks.append(ctx["job_id"])

    ours = [arq_redis(arq_settings(redis_url), QUEUE) for _ in range(2)]
    sent = [await each.enqueue_job("tick", _job_id="cron:tick:1") for each in ours]
    worker = Worker(
        [func(tick, name="tick", max_tries=1)],
        redis_pool=ours[0],
        queue_name=QUEUE,
        burst=True,
        poll_delay=0.01,
        handle_signals=False,
        job_serializer=orjson.dumps,
        job_deserializer=orjson.loads,
    )
    async with asyncio.timeout(20):
        await worker.main()

    assert [job is not None for job in sent] == [True, False]
    assert ticks == ["cron:tick:1"]
    await worker.close()
    await ours[1].aclose(close_connection_pool=True)


async def test_a_dispatch_that_somebody_took_off_is_not_taken(
    redis_url: str, redis: Redis, dispatcher: Dispatcher
) -> None:
    await dispatcher.send([a_dispatch(1), a_dispatch(2)], now=now())
    worker, peer = (arq_redis(arq_settings(redis_url), QUEUE) for _ in range(2))
    taken, gone = a_dispatch(1).id, a_dispatch(2).id
    await dispatcher.take_off([gone])

    assert await worker.take([gone, taken], 1000) == {taken}
    assert await peer.take([taken, gone], 1000) == set()

    assert not await redis.exists(IN_PROGRESS_PREFIX + gone)
    for each in (worker, peer):
        await each.aclose(close_connection_pool=True)


async def test_a_worker_hears_when_what_was_sent_is_due() -> None:
    bell = Bell(QUEUE)
    assert bell.answer()

    bell.hear(b"0")
    assert bell.answer()

    bell.hear(b"5")
    assert not bell.answer()
    await bell.wait(5)
    assert bell.answer()


@pytest.mark.parametrize(
    "message", [b"", b"x", b"-1", b"60000", b"9" * 400, b"9" * 5000, b"-" + b"9" * 400]
)
async def test_what_nobody_of_ours_says_rings_no_bell(message: bytes) -> None:
    bell = Bell(QUEUE)
    bell.answer()

    bell.hear(message)

    assert not bell.answer()


async def test_nobody_waits_for_a_bell_that_has_rung_or_longer_than_wanted() -> None:
    bell = Bell(QUEUE)

    await bell.wait(3600)
    bell.answer()
    await bell.wait(0.001)

    assert not bell.answer()


async def test_what_has_been_due_for_long_goes_at_once(
    redis_url: str, dispatcher: Dispatcher, inbox: Inbox
) -> None:
    await dispatcher.send([a_dispatch(due_at=now() - timedelta(days=3))], now=now())

    await inbox.empty(redis_url)

    assert len(inbox.taken) == 1


async def test_sending_twice_changes_nothing(
    redis_url: str, redis: Redis, dispatcher: Dispatcher, inbox: Inbox
) -> None:
    for _ in range(2):
        await dispatcher.send([a_dispatch(), a_dispatch()], now=now())

    assert await redis.zcard(QUEUE) == 1
    await inbox.empty(redis_url)
    assert len(inbox.taken) == 1


async def test_each_epoch_and_each_look_has_a_name_of_its_own() -> None:
    job_id = UUID(int=1)
    names = {
        Dispatch(job_id=job_id, epoch=epoch, looks=looks).id
        for epoch in range(3)
        for looks in range(3)
    }

    assert len(names) == 9


async def test_thousands_are_sent_in_a_few_round_trips(
    redis: Redis, dispatcher: Dispatcher
) -> None:
    before = (await redis.info("stats"))["total_commands_processed"]

    await dispatcher.send((a_dispatch(number) for number in range(2500)), now=now())

    assert await redis.zcard(QUEUE) == 2500
    after = (await redis.info("stats"))["total_commands_processed"]
    assert after - before < 2500 + 20  # a message each, and a batch of names at once


async def test_nothing_to_send_is_nothing(redis: Redis, dispatcher: Dispatcher) -> None:
    await dispatcher.send([], now=now())

    assert await redis.keys("*") == []
    assert await dispatcher.sort([]) == ([], [])


# --- taken, lost, stuck ---


async def test_a_dispatch_taken_off_leaves_nothing_behind(
    redis: Redis, dispatcher: Dispatcher
) -> None:
    await dispatcher.send([a_dispatch(1), a_dispatch(2)], now=now())

    await dispatcher.take_off([a_dispatch(1).id])

    assert await redis.zrange(QUEUE, 0, -1) == [a_dispatch(2).id.encode()]
    assert len(await redis.keys("*")) == 2  # the set and one message
    await dispatcher.take_off([a_dispatch(2).id])
    assert await redis.keys("*") == []


async def test_a_dispatch_taken_off_while_it_runs_leaves_nothing_behind(
    redis_url: str, redis: Redis, dispatcher: Dispatcher
) -> None:
    class Taker(Inbox):
        async def take(self, ctx: dict[str, Any], job_id: str, epoch: int, looks: int) -> None:
            await dispatcher.take_off([ctx["job_id"]])
            await super().take(ctx, job_id, epoch, looks)

    inbox = Taker()
    await dispatcher.send([a_dispatch()], now=now())

    await inbox.empty(redis_url)

    assert len(inbox.taken) == 1
    left = {key for key in await redis.keys("*") if not key.endswith(b":health-check")}
    assert left == set()


async def test_sorting_tells_lost_stuck_and_waiting_apart(
    redis: Redis, dispatcher: Dispatcher
) -> None:
    waiting, nameless, mute, unsent, stuck = (a_dispatch(number) for number in range(5))
    await dispatcher.send([waiting, nameless, mute, stuck], now=now())
    await redis.zrem(QUEUE, nameless.id)
    await redis.delete(MESSAGE_PREFIX + mute.id)
    await redis.set(IN_PROGRESS_PREFIX + stuck.id, b"1")

    lost, held_up = await dispatcher.sort([waiting, nameless, mute, unsent, stuck])

    assert lost == [nameless, mute, unsent]
    assert held_up == [stuck]


async def test_a_dropped_dispatch_leaves_nothing_behind(
    redis: Redis, dispatcher: Dispatcher
) -> None:
    await dispatcher.send([a_dispatch(1), a_dispatch(2)], now=now())
    for prefix in (IN_PROGRESS_PREFIX, RETRY_PREFIX):
        await redis.set(prefix + a_dispatch(1).id, b"1")
    assert await dispatcher.in_progress([a_dispatch(1), a_dispatch(2)]) == [a_dispatch(1)]

    await dispatcher.drop([a_dispatch(1)])
    await dispatcher.drop([])

    assert await redis.zrange(QUEUE, 0, -1) == [a_dispatch(2).id.encode()]
    assert len(await redis.keys("*")) == 2  # the set and one message


async def test_the_oldest_dispatches_are_told_without_what_is_none(
    redis: Redis, dispatcher: Dispatcher
) -> None:
    sent = [Dispatch(job_id=UUID(int=n), epoch=n, looks=n % 3) for n in range(5)]
    for number, dispatch in enumerate(sent):
        await dispatcher.send([dispatch], now=now() + timedelta(milliseconds=number))
    await redis.zadd(QUEUE, {b"cron:cleanup:1700000000000": 1, b"x.1.2.3": 2, b"\xff.1": 3})

    assert await dispatcher.oldest(100) == sent
    assert await dispatcher.oldest(5) == sent[:2]
    assert await dispatcher.in_progress([]) == []


async def test_after_a_flush_all_are_lost_and_can_be_sent_again(
    redis_url: str, redis: Redis, dispatcher: Dispatcher, inbox: Inbox
) -> None:
    sent = [a_dispatch(number) for number in range(3)]
    await dispatcher.send(sent, now=now())
    await redis.flushall()

    lost, stuck = await dispatcher.sort(sent)
    await dispatcher.send(lost, now=now())

    await inbox.empty(redis_url)
    assert (len(lost), stuck) == (3, [])
    assert len(inbox.taken) == 3


# --- addresses ---


@pytest.fixture
def locked_valkey(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A Redis with a password, on a port and on a socket."""
    child = Child("locked", tmp_path, pid_file=tmp_path / "pid", stop_signal=signal.SIGTERM)
    socket = tmp_path / "redis.sock"

    def command(port: int) -> list[str]:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--pidfile", str(tmp_path / "pid")]
        options += ["--unixsocket", str(socket), "--requirepass", PASSWORD, "--save", ""]
        return [str(find_valkey()), *options]

    with child.held():
        child.start(command, lambda _: socket.exists())
    yield child.port, socket
    child.stop()


async def reach(url: str) -> tuple[float, bool]:
    """Both ways to Redis: ours and the one of arq's worker."""
    async with open_redis(url) as redis:
        latency_ms = await Dispatcher(redis, QUEUE).ping()
    arq = await create_pool(arq_settings(url))
    answered = bool(await arq.ping())
    await arq.aclose(close_connection_pool=True)
    return latency_ms, answered


async def test_a_password_with_every_special_character_opens_port_and_socket(
    locked_valkey: tuple[int, Path],
) -> None:
    port, socket = locked_valkey
    word = quote(PASSWORD, safe="")

    for url in (
        f"redis://:{word}@127.0.0.1:{port}",
        f"redis://:{word}@127.0.0.1:{port}/",
        f"redis://default:{word}@127.0.0.1:{port}/3",
        f"unix://:{word}@{socket}",
        f"unix://default:{word}@{socket}?db=2",
    ):
        latency_ms, answered = await reach(url)
        assert latency_ms >= 0
        assert answered


async def test_a_wrong_password_is_our_error_and_not_repeated(
    locked_valkey: tuple[int, Path],
) -> None:
    port, _ = locked_valkey

    async with open_redis(f"redis://:a-wrong-secret@127.0.0.1:{port}") as redis:
        with pytest.raises(DispatchError) as wrong:
            await Dispatcher(redis, QUEUE).ping()

    assert "a-wrong-secret" not in str(wrong.value)


async def test_a_sentinel_leads_us_and_arq_to_the_primary(
    sentinel_url: str, redis_url: str, inbox: Inbox
) -> None:
    async with open_redis(sentinel_url) as redis:
        await Dispatcher(redis, QUEUE).send([a_dispatch()], now=now())

    await inbox.empty(sentinel_url)

    assert len(inbox.taken) == 1


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://cache:6380/4", {"host": "cache", "port": 6380, "database": 4, "ssl": False}),
        ("redis://cache", {"host": "cache", "port": 6379, "database": 0, "password": None}),
        ("redis://cache/", {"host": "cache", "port": 6379, "database": 0}),
        ("redis://cache/1/", {"database": 1}),
        ("redis://cache?db=5", {"host": "cache", "database": 5}),
        ("redis://me:p%40ss%2F@cache", {"username": "me", "password": "p@ss/"}),
        ("redis://:%25@cache", {"username": None, "password": "%"}),
        ("rediss://cache", {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True}),
        (
            "rediss://cache?ssl_cert_reqs=none&ssl_ca_certs=ca.pem",
            {"ssl_cert_reqs": "none", "ssl_check_hostname": False, "ssl_ca_certs": "ca.pem"},
        ),
        (
            "unix:///run/redis.sock?db=2",
            {"unix_socket_path": "/run/redis.sock", "database": 2, "ssl": False},
        ),
        (
            "redis+sentinel://me:p%40ss@one,two:26380,[::1]:26381/main/3",
            {
                "sentinel": True,
                "host": [("one", 26379), ("two", 26380), ("::1", 26381)],
                "sentinel_master": "main",
                "database": 3,
                "username": "me",
                "password": "p@ss",
            },
        ),
        ("redis+sentinel://one/main", {"sentinel_master": "main", "database": 0}),
    ],
)
def test_an_address_says_what_arq_needs(url: str, expected: dict[str, Any]) -> None:
    settings = arq_settings(url)

    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.retry is not None


# --- Redis is away ---


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A server that takes connections and never answers."""
    writers: list[asyncio.StreamWriter] = []

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.close()
    await server.wait_closed()


async def fails_within(url: str, seconds: float) -> None:
    async with open_redis(url) as redis:
        dispatcher = Dispatcher(redis, QUEUE)
        for deed in (
            dispatcher.ping(),
            dispatcher.send([a_dispatch()], now=now()),
            dispatcher.take_off(["x"]),
            dispatcher.sort([a_dispatch()]),
        ):
            async with asyncio.timeout(seconds):
                with pytest.raises(DispatchError):
                    await deed


async def test_a_redis_that_is_not_there_is_our_error_within_seconds() -> None:
    await fails_within("redis://127.0.0.1:1/0", 3)


async def test_a_redis_whose_name_nobody_knows_is_our_error_within_seconds() -> None:
    await fails_within("redis://no.such.host.invalid/0", 5)


async def test_a_redis_that_never_answers_is_our_error_within_seconds(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.COMMAND_TIMEOUT_S <= 5
    monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", 0.1)

    await fails_within(f"redis://127.0.0.1:{silent_port}/0", 1)


async def test_sentinels_that_never_answer_are_our_error_within_seconds(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", 0.1)

    await fails_within(f"redis+sentinel://127.0.0.1:{silent_port}/main/0", 1)


async def test_after_a_command_was_cut_off_answers_are_not_shifted(
    redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_redis(redis_url) as other:
        dispatcher = Dispatcher(other, QUEUE)
        await dispatcher.send([a_dispatch(number) for number in range(40)], now=now())
        monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", 0.05)
        await redis.client_pause(300)
        async with asyncio.TaskGroup() as group:
            cut_off = [group.create_task(failed(dispatcher)) for _ in range(5)]
        assert all(each.result() for each in cut_off)
        monkeypatch.undo()

        answers = [await other.echo(str(number)) for number in range(40)]

        assert answers == [str(number).encode() for number in range(40)]
        assert await dispatcher.sort([a_dispatch(number) for number in range(40)]) == ([], [])


async def failed(dispatcher: Dispatcher) -> bool:
    try:
        await dispatcher.sort([a_dispatch()])
    except DispatchError:
        return True
    return False


async def test_more_callers_than_connections_wait_for_their_turn(
    redis: Redis, dispatcher: Dispatcher
) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(dispatcher.send([a_dispatch(number)], now=now()))

    assert await redis.zcard(QUEUE) == 200
    assert len(await redis.client_list()) <= module.CONNECTIONS + 1


async def test_the_workers_retry_says_now_and_then_that_redis_is_away() -> None:
    left = iter([RedisConnectionError("gone")] * 5)

    async def do() -> str:
        for error in left:
            raise error
        return "back"

    async def forget(_: object) -> None:
        return None

    with said() as messages:
        answer = await PatientRetry(NoBackoff(), 10).call_with_retry(do, forget)

    assert answer == "back"
    assert messages == ["redis is away, waiting for it"]


@contextmanager
def said() -> Iterator[list[str]]:
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]))
    try:
        yield messages
    finally:
        logger.remove(sink)
