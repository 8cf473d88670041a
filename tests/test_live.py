"""Watching a job: every transition once and in order, whatever Redis does; progress when it can."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from tests.by_hand import Hand
from tests.proxy import Proxy, proxy_of
from vidgen import VideoRequest, dispatch, live
from vidgen import queue as module
from vidgen.dispatch import CONNECTIONS, open_redis
from vidgen.errors import JobNotFoundError
from vidgen.job import EventType, JobEvent, JobStatus, VideoJob
from vidgen.live import Notice
from vidgen.queue import VideoQueue
from vidgen.settings import Settings

REQUEST = VideoRequest(provider="sora", prompt="a tram in the rain")
NOBODY = UUID(int=404)
WHOLE_LIFE = ["created", "claimed", "submitting", "submitted", "generated", "completed"]


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    """Redis, as the queue sees it."""
    async with proxy_of(urlsplit(redis_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
def settings(emptied_database_url: str, proxy: Proxy) -> Settings:
    return Settings(
        database_url=emptied_database_url,
        redis_url=f"redis://127.0.0.1:{proxy.port}/0",
        openai_api_key=SecretStr("sk-x"),
        openai_base_url="http://sora.test/v1",
    )


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[VideoQueue]:
    async with VideoQueue(settings) as queue:
        yield queue


@pytest.fixture
def hand(queue: VideoQueue) -> Hand:
    return Hand(queue)


class Watcher:
    """Takes in the events of a job while the test goes on."""

    def __init__(self, queue: VideoQueue, job: VideoJob, group: asyncio.TaskGroup) -> None:
        self.seen: list[JobEvent] = []
        self._news = asyncio.Condition()
        self.task = group.create_task(self._watch(queue, job))

    @property
    def transitions(self) -> list[str]:
        return [event.type.value for event in self.seen if event.seq is not None]

    @property
    def percents(self) -> list[int]:
        return [event.progress for event in self.seen if event.type is EventType.PROGRESSED]

    async def sees(self, type_: str, progress: int | None = None) -> None:
        """Wait until an event of *type_* has come."""

        def has_come() -> bool:
            return any(
                event.type == type_ and progress in {None, event.progress} for event in self.seen
            )

        async with asyncio.timeout(15), self._news:
            await self._news.wait_for(has_come)

    async def _watch(self, queue: VideoQueue, job: VideoJob) -> None:
        async for event in queue.events(job.id):
            async with self._news:
                self.seen.append(event)
                self._news.notify_all()


# --- notices ---


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as redis:
        yield redis


async def heard(watch: live.Watch, count: int) -> list[Notice]:
    """The next *count* notices."""
    notices: list[Notice] = []
    async with asyncio.timeout(10):
        while len(notices) < count:
            if notice := await watch.next(0.5):
                notices.append(notice)
    return notices


async def test_a_watcher_hears_progress_and_that_something_happened(redis: Redis) -> None:
    async with live.watch(redis, UUID(int=1)) as watch:
        await live.tell(redis, UUID(int=1), 30)
        await live.tell(redis, UUID(int=2), 99)
        await live.tell(redis, UUID(int=1))

        assert await heard(watch, 2) == [Notice(percent=30), Notice(percent=None)]


async def test_without_a_notice_a_watcher_waits_no_longer_than_told(redis: Redis) -> None:
    loop = asyncio.get_running_loop()
    async with live.watch(redis, UUID(int=1)) as watch:
        started = loop.time()
        while loop.time() - started < 0.2:
            assert await watch.next(0.1) is None

        assert loop.time() - started < 1


async def test_nobody_minds_a_redis_that_is_away() -> None:
    loop = asyncio.get_running_loop()
    async with open_redis("redis://127.0.0.1:1/0") as redis:
        started = loop.time()
        await live.tell(redis, UUID(int=1), 30)
        async with live.watch(redis, UUID(int=1)) as watch:
            before = loop.time()
            assert await watch.next(0.05) is None
            assert 0.04 <= loop.time() - before < 1

    assert loop.time() - started < 4


@pytest.mark.parametrize("trouble", ["away from the start", "cut", "dropped", "muted"])
async def test_a_deaf_watcher_hears_again_when_redis_is_back(
    redis: Redis, proxy: Proxy, trouble: str
) -> None:
    if trouble == "away from the start":
        await proxy.cut()
    async with (
        open_redis(f"redis://127.0.0.1:{proxy.port}/0") as far,
        live.watch(far, UUID(int=1)) as watch,
    ):
        if trouble == "cut":
            await proxy.cut()
        elif trouble == "dropped":
            proxy.drop()
        elif trouble == "muted":
            proxy.mute()
        assert await watch.next(0.1) is None
        await proxy.restore()

        async with asyncio.timeout(10):
            while not (notice := await watch.next(0.05)):
                await live.tell(redis, UUID(int=1), 30)

        assert notice == Notice(percent=30)


async def test_many_watchers_do_not_take_the_connections_that_dispatches_need(
    queue: VideoQueue, redis: Redis
) -> None:
    job = await queue.enqueue(REQUEST)
    async with asyncio.TaskGroup() as group:
        watchers = [Watcher(queue, job, group) for _ in range(CONNECTIONS + 10)]
        for watcher in watchers:
            await watcher.sees("created")

        async with asyncio.timeout(3):
            other = await queue.enqueue(REQUEST)
        await queue.cancel(job.id)

    assert await redis.zscore("vidgen:queue", f"{other.id}.0") is not None
    assert {tuple(watcher.transitions) for watcher in watchers} == {("created", "cancelled")}


# --- events ---


@pytest.mark.parametrize("trouble", ["none", "away", "cut", "dropped", "muted", "emptied", "back"])
async def test_every_transition_comes_once_and_in_order(
    queue: VideoQueue,
    hand: Hand,
    proxy: Proxy,
    redis: Redis,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "COMMAND_TIMEOUT_S", 0.3)
    monkeypatch.setattr(module, "LOOK_INTERVAL_S", 0.2)
    job = await queue.enqueue(REQUEST)
    if trouble in {"away", "back"}:
        await proxy.cut()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        watcher = Watcher(queue, job, group)
        await watcher.sees("created")
        job = await hand.claim(job)
        await watcher.sees("claimed")
        match trouble:
            case "cut":
                await proxy.cut()
            case "dropped":
                proxy.drop()
            case "muted":
                proxy.mute()
            case "emptied":
                await redis.flushall()
            case "back":
                await proxy.restore()
            case _:
                pass
        await hand.complete(await hand.generate(await hand.submit(job)))

    assert watcher.transitions == WHOLE_LIFE
    numbers = [event.seq or 0 for event in watcher.seen if event.seq is not None]
    assert numbers == sorted(set(numbers))


async def test_progress_comes_in_between_at_once(queue: VideoQueue, hand: Hand) -> None:
    job = await queue.enqueue(REQUEST)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        watcher = Watcher(queue, job, group)
        await watcher.sees("created")
        job = await hand.submit(await hand.claim(job))
        await watcher.sees("submitted")
        for percent in (10, 55):
            await hand.progress(job, percent)
            await watcher.sees("progressed", percent)
        await hand.complete(await hand.generate(job))

    assert watcher.transitions == WHOLE_LIFE
    assert watcher.percents == [10, 55]
    told = next(event for event in watcher.seen if event.type is EventType.PROGRESSED)
    assert (told.seq, told.status, told.stage) == (None, JobStatus.PROCESSING, "generating")


async def test_a_stream_of_progress_does_not_hide_what_happened(
    queue: VideoQueue, hand: Hand, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_INTERVAL_S", 0.2)
    job = await hand.submit(await hand.claim(await queue.enqueue(REQUEST)))

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        watcher = Watcher(queue, job, group)
        await watcher.sees("submitted")
        chatter = group.create_task(tell_for_ever(redis, job))
        deaf = Hand(queue)
        async with open_redis("redis://127.0.0.1:1/0") as nowhere:
            deaf._redis = nowhere  # its notices are lost
            await deaf.complete(await deaf.generate(job))
        await watcher.sees("completed")
        chatter.cancel()

    assert watcher.transitions == WHOLE_LIFE


async def tell_for_ever(redis: Redis, job: VideoJob) -> None:
    while True:
        await live.tell(redis, job.id, 50)
        await asyncio.sleep(0.01)


async def test_a_watcher_goes_on_behind_the_last_event_it_saw(
    queue: VideoQueue, hand: Hand
) -> None:
    job = await hand.carry(await queue.enqueue(REQUEST))
    everything = [event async for event in queue.events(job.id)]

    rest = [event async for event in queue.events(job.id, after=everything[2].seq or 0)]

    assert rest == everything[3:]
    assert [event async for event in queue.events(job.id, after=everything[-1].seq or 0)] == []


async def test_a_job_that_was_retried_is_watched_to_its_second_end(
    queue: VideoQueue, hand: Hand
) -> None:
    job = await hand.fail(await queue.enqueue(REQUEST))
    await queue.retry(job.id)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        watcher = Watcher(queue, job, group)
        await watcher.sees("retried")
        await queue.cancel(job.id)

    assert watcher.transitions == ["created", "claimed", "failed", "retried", "cancelled"]


async def test_the_last_event_is_never_missed(
    queue: VideoQueue, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_INTERVAL_S", 0)  # look all the time
    made = await queue.enqueue_many([REQUEST] * 8)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        watchers = [Watcher(queue, job, group) for job in made]
        for job in made:
            group.create_task(hand.carry(job))

    assert [watcher.transitions for watcher in watchers] == [WHOLE_LIFE] * 8


async def test_a_watcher_may_leave_at_any_time(queue: VideoQueue) -> None:
    job = await queue.enqueue(REQUEST)

    async with aclosing(queue.events(job.id)) as events:  # type: ignore[type-var]  # a generator
        first = await anext(aiter(events))

    assert first.type is EventType.CREATED


# --- wait ---


async def test_waiting_ends_with_the_final_job(queue: VideoQueue, hand: Hand) -> None:
    job = await queue.enqueue(REQUEST)

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(queue.wait(job.id, timeout=20))
        group.create_task(hand.carry(job))

    assert waiting.result().status is JobStatus.COMPLETED
    assert waiting.result().storage_key == "videos/1/1.mp4"
    assert await queue.wait(job.id) == waiting.result()


async def test_waiting_gives_up_and_the_job_goes_on(queue: VideoQueue) -> None:
    job = await queue.enqueue(REQUEST)

    with pytest.raises(TimeoutError):
        await queue.wait(job.id, timeout=0.1)

    assert await queue.get(job.id) == job


async def test_nobody_can_watch_a_job_that_does_not_exist(queue: VideoQueue) -> None:
    with pytest.raises(JobNotFoundError, match=str(NOBODY)):
        await queue.wait(NOBODY)
    with pytest.raises(JobNotFoundError):
        _ = [event async for event in queue.events(NOBODY)]
