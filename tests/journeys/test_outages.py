"""
What vidgen stands on goes away and comes back: everything completes, everything is paid once.

Servers are stopped, frozen and emptied for real; what lies between is cut by a proxy of the test.
"""

import asyncio
import os
import random
import shutil
import signal
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from tests.journeys.conftest import FAR_S, StartWorker, finish_all
from tests.journeys.test_crashes import has_said, until
from tests.proxy import Proxy, proxy_of
from vidgen import JobStatus, VideoJob, VideoRequest
from vidgen.dev.servers import PostgresServer, ValkeyServer
from vidgen.job import EventType
from vidgen.queue import VideoQueue
from vidgen.resources import Clock
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.control import Rule
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.s3.server import Fault
from vidgen.simulator.server import SimulatorServer

END_TIMEOUT_S = 50
HAND_OVER_S = 5.0
AWAY_S = 4.0  # longer than a lease
WAYS = ["database_url", "redis_url", "s3_endpoint_url", "openai_base_url"]
FEW_LINES = 300  # a worker that spins writes thousands


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"settle_s": 0.5})


@pytest.fixture(autouse=True)
def quick(simulator: SimulatorServer) -> None:
    clip = render("tram", seconds=1, width=320, height=180, audio=False)
    for provider in (simulator.sora, simulator.veo):
        provider.clip, provider.generation_s = clip, 1.0


def trams(count: int, provider: str = "sora") -> list[VideoRequest]:
    return [VideoRequest(provider=provider, prompt=f"tram {n}") for n in range(count)]


async def all_paid_once(
    queue: VideoQueue, simulator: SimulatorServer, jobs: list[VideoJob]
) -> None:
    done = [await queue.wait(job.id, timeout=END_TIMEOUT_S) for job in jobs]
    ends = {(job.status, job.attempt, job.error_code) for job in done}
    assert ends == {(JobStatus.COMPLETED, 1, None)}
    billed = [charge.prompt for one in simulator.simulators.values() for charge in one.bill]
    assert sorted(billed) == sorted(job.prompt for job in jobs)


# --- deploys --------------------------------------------------------------------------------------


async def test_a_worker_that_is_terminated_under_load_hands_everything_over_within_seconds(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    record_property: Callable[[str, object], None],
) -> None:
    simulator.sora.generation_s = FAR_S
    leaving = await start_worker(settings)
    jobs = await queue.enqueue_many(trams(50))
    async with asyncio.timeout(END_TIMEOUT_S):
        await simulator.sora.arrived("submit", 50)
    await start_worker(settings)
    at = Clock().now()

    assert await leaving.stop() == 0

    taken = [await claimed_after(queue, job, at) for job in jobs]
    finish_all(simulator)
    waits = sorted((moment - at).total_seconds() for moment in taken)
    record_property("hand_over_p50_s", waits[25])
    record_property("hand_over_max_s", waits[-1])
    assert waits[-1] < HAND_OVER_S
    await all_paid_once(queue, simulator, jobs)


async def claimed_after(queue: VideoQueue, job: VideoJob, at: datetime) -> datetime:
    async with asyncio.timeout(END_TIMEOUT_S):
        async for event in queue.events(job.id):
            if event.type is EventType.CLAIMED and event.at > at:
                return event.at
    pytest.fail(f"nobody took {job.id} over")


async def test_a_rolling_restart_of_all_workers_costs_no_attempt(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = FAR_S
    settings = settings.model_copy(update={"concurrency": 25})
    old = [await start_worker(settings) for _ in range(2)]
    jobs = await queue.enqueue_many(trams(50))
    async with asyncio.timeout(END_TIMEOUT_S):
        await simulator.sora.arrived("submit", 50)

    for worker in old:
        await start_worker(settings)
        assert await worker.stop() == 0

    finish_all(simulator)
    await all_paid_once(queue, simulator, jobs)


# --- Redis ----------------------------------------------------------------------------------------


async def test_nothing_is_lost_while_redis_is_emptied_again_and_again(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    for _ in range(2):
        await start_worker(settings.model_copy(update={"concurrency": 10}))
    jobs = await queue.enqueue_many(trams(60))

    async with (
        Redis.from_url(settings.redis_url) as redis,
        asyncio.timeout(END_TIMEOUT_S),
    ):
        while (await queue.stats()).completed < len(jobs):
            await redis.flushall()
            await asyncio.sleep(0.5)

    await all_paid_once(queue, simulator, jobs)


async def test_a_limit_holds_while_redis_is_emptied_again_and_again(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    await start_worker(settings.model_copy(update={"rate_limit_per_min": 10}))

    async with Redis.from_url(settings.redis_url) as redis:
        for wish in trams(40):
            job = await queue.enqueue(wish)
            async for event in queue.events(job.id):
                if event.type in {EventType.SUBMITTED, EventType.POSTPONED}:
                    break
            await redis.flushall()

    assert simulator.sora.counts["submit"] == 10


async def restart_empty(redis: ValkeyServer) -> None:
    redis.stop()
    shutil.rmtree(redis.folder)
    redis.start()


async def stay_away(redis: ValkeyServer) -> None:
    redis.stop()
    await asyncio.sleep(AWAY_S)
    redis.start()


async def hang(redis: ValkeyServer) -> None:
    pid = int((redis.folder / "valkey.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(AWAY_S)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("trouble", [restart_empty, stay_away, hang])
async def test_redis_may_come_back_empty_late_or_after_a_silence(
    settings: Settings,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    server_folder: Path,
    trouble: Callable[[ValkeyServer], Awaitable[None]],
) -> None:
    with ValkeyServer(server_folder / f"valkey-{trouble.__name__}") as redis:
        settings = settings.model_copy(update={"redis_url": redis.url, "concurrency": 10})
        worker = await start_worker(settings)
        async with VideoQueue(settings) as queue:
            jobs = await queue.enqueue_many(trams(25))
            async with asyncio.timeout(END_TIMEOUT_S):
                await simulator.sora.arrived("submit", 5)

            await trouble(redis)

            await all_paid_once(queue, simulator, jobs)
        assert await worker.stop() == 0


async def test_the_worker_outlives_a_redis_that_cuts_its_greetings(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    async with proxy_of(port_of(settings.redis_url)) as proxy:
        worker = await start_worker(through(proxy, settings, "redis_url"))
        for _ in range(20):
            proxy.truncate(3)
            proxy.drop()
            await asyncio.sleep(0.2)

        jobs = await queue.enqueue_many(trams(3))

        await all_paid_once(queue, simulator, jobs)
        assert not worker.said("the dispatch loop ended, giving jobs back")
        assert await worker.stop() == 0


# --- PostgreSQL -----------------------------------------------------------------------------------


@pytest.mark.parametrize("away_s", [1.0, AWAY_S], ids=["shorter than a lease", "longer"])
async def test_postgresql_may_restart_while_jobs_are_in_every_stage(
    settings: Settings,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    s3: S3Server,
    server_folder: Path,
    away_s: float,
) -> None:
    simulator.sora.script(Rule(deed="submit", outcome="late", argument="1s", prompt="receipt"))
    simulator.veo.script(Rule(deed="submit", outcome="late", argument="1s", prompt="receipt"))
    s3.faults.append(Fault(action="delay", method="PUT", delay_s=1.0, times=5))
    with PostgresServer(server_folder / f"postgres-{away_s}", durable=False) as postgres:
        settings = settings.model_copy(update={"database_url": postgres.url})
        worker = await start_worker(settings)
        async with VideoQueue(settings) as queue:
            jobs = await queue.enqueue_many(trams(5))
            async with asyncio.timeout(END_TIMEOUT_S):
                await s3.wait_for("PutObject", 5)
            jobs += await queue.enqueue_many(
                [VideoRequest(provider="sora", prompt=f"generating {n}") for n in range(5)]
            )
            async with asyncio.timeout(END_TIMEOUT_S):
                await simulator.sora.arrived("submit", 10)
            for name in ("sora", "veo"):
                request = VideoRequest(provider=name, prompt=f"a receipt of {name}")
                jobs.append(await queue.enqueue(request))
            async with asyncio.timeout(END_TIMEOUT_S):
                await simulator.sora.arrived("submit", 11)
                await simulator.veo.arrived("submit")

            postgres.stop()
            await asyncio.sleep(away_s)
            postgres.start()

            await all_paid_once(queue, simulator, jobs)
            receipts = [await kinds(queue, job) for job in jobs[-2:]]
        assert worker.said("receipt not stored yet")
        assert len(worker.lines) + len(worker.noise) < FEW_LINES
        assert await worker.stop() == 0
    # As if nothing had been: no look at the provider's list, no second intent.
    intent_to_receipt = [EventType.SUBMITTING, EventType.SUBMITTED]
    assert [
        [kind for kind in seen if kind in {*intent_to_receipt, EventType.ERRORED}]
        for seen in receipts
    ] == [intent_to_receipt] * 2


async def test_a_worker_whose_receipt_is_in_the_bucket_may_end_without_postgresql(
    settings: Settings,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    server_folder: Path,
) -> None:
    simulator.veo.script(Rule(deed="submit", outcome="late", argument="1s"))
    with PostgresServer(server_folder / "postgres-kept", durable=False) as postgres:
        settings = settings.model_copy(update={"database_url": postgres.url})
        worker = await start_worker(settings)
        async with VideoQueue(settings) as queue:
            job = await queue.enqueue(VideoRequest(provider="veo", prompt="a tram"))
            async with asyncio.timeout(END_TIMEOUT_S):
                await simulator.veo.arrived("submit")
            postgres.stop()
            await until(lambda: has_said(worker, "receipt kept in the bucket"))

            assert await worker.stop() == 0

            postgres.start()
            await start_worker(settings)
            await all_paid_once(queue, simulator, [job])


async def kinds(queue: VideoQueue, job: VideoJob) -> list[EventType]:
    return [event.type for event in await queue.history(job.id)]


# --- bucket, providers, and the way to all of them ------------------------------------------------


async def test_finished_videos_wait_for_a_bucket_that_is_away(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    s3: S3Server,
) -> None:
    async with proxy_of(port_of(s3.url)) as proxy:
        worker = await start_worker(through(proxy, settings, "s3_endpoint_url"))
        await proxy.cut()
        jobs = await queue.enqueue_many(trams(20))
        await until(lambda: has_said(worker, "step will be tried again", 20))

        await asyncio.sleep(AWAY_S)
        await proxy.restore()

        await all_paid_once(queue, simulator, jobs)


@pytest.mark.timeout(120)  # a pause takes 15 s, and whoever comes beside the probe waits 30 s more
async def test_a_provider_that_refuses_is_left_alone_while_its_videos_go_on(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.script(Rule(deed="submit", outcome="503", prompt="tram", times=5))
    # One at a time beside the long one: five failures in a row, and none under way behind them.
    worker = await start_worker(settings.model_copy(update={"concurrency": 2}))
    running = await queue.enqueue(
        VideoRequest(provider="sora", prompt="a long one [[sim:generate 4s]]")
    )
    async with asyncio.timeout(END_TIMEOUT_S):
        await simulator.sora.arrived("submit")

    jobs = await queue.enqueue_many(trams(4))

    await until(lambda: has_said(worker, "provider does not answer, submits pause"))
    submits = simulator.sora.counts["submit"]
    assert (await queue.wait(running.id, timeout=END_TIMEOUT_S)).status is JobStatus.COMPLETED
    assert simulator.sora.counts["submit"] == submits  # open all the while it was polled
    await all_paid_once(queue, simulator, [running, *jobs])
    assert worker.said("provider answers again, submits go on")


@pytest.mark.parametrize("setting", WAYS)
async def test_connections_may_be_cut_at_any_moment(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    setting: str,
) -> None:
    settings = settings.model_copy(update={"concurrency": 8})
    async with proxy_of(port_of(getattr(settings, setting))) as proxy:
        worker = await start_worker(through(proxy, settings, setting))
        jobs = await queue.enqueue_many(trams(30))

        await cut_at_random(proxy, random.Random(7))

        await all_paid_once(queue, simulator, jobs)
        assert await worker.stop() == 0


async def cut_at_random(proxy: Proxy, dice: random.Random) -> None:
    for _ in range(20):
        await asyncio.sleep(dice.uniform(0.05, 0.3))
        match dice.choice(["drop", "reset", "truncate"]):
            case "drop":
                proxy.drop()
            case "reset":
                proxy.reset()
            case _:
                proxy.truncate(dice.randrange(400))


async def closed(proxy: Proxy) -> None:
    await proxy.cut()
    await asyncio.sleep(AWAY_S)


async def slow(proxy: Proxy) -> None:
    proxy.delay_s = 0.2
    await asyncio.sleep(AWAY_S)


async def lossy(proxy: Proxy) -> None:
    dice = random.Random(3)
    for _ in range(20):
        proxy.truncate(dice.randrange(400))
        await asyncio.sleep(AWAY_S / 20)


@pytest.mark.timeout(120)  # after a closed way submits pause, as above
@pytest.mark.parametrize("trouble", [closed, slow, lossy])
@pytest.mark.parametrize("setting", WAYS)
async def test_a_way_may_be_closed_slow_or_lossy_for_longer_than_a_lease(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    setting: str,
    trouble: Callable[[Proxy], Awaitable[None]],
) -> None:
    simulator.sora.generation_s = 2.0  # so that some are still to be made when the trouble is over
    settings = settings.model_copy(update={"concurrency": 8})
    async with proxy_of(port_of(getattr(settings, setting))) as proxy:
        worker = await start_worker(through(proxy, settings, setting))
        jobs = await queue.enqueue_many(trams(30))
        async with asyncio.timeout(END_TIMEOUT_S):
            await simulator.sora.arrived("poll")

        await trouble(proxy)
        assert (await queue.stats()).completed < len(jobs)
        await proxy.restore()

        await all_paid_once(queue, simulator, jobs)
        assert await worker.stop() == 0


def port_of(url: object) -> int:
    port = urlsplit(str(url)).port
    assert port is not None
    return port


def through(proxy: Proxy, settings: Settings, setting: str) -> Settings:
    """*settings* with the way to one server leading through *proxy*."""
    url = str(getattr(settings, setting))
    return settings.model_copy(update={setting: url.replace(f":{port_of(url)}", f":{proxy.port}")})
