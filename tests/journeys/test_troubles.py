"""Whole lives with something breaking: nothing is lost, nothing is paid twice."""

import asyncio
import signal
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from tests.journeys.conftest import FAR_S, StartWorker, all_generating, finish_all
from vidgen import JobStatus, VideoRequest
from vidgen.dev.servers import ValkeyServer
from vidgen.job import EventType, Stage
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.server import SimulatorServer

SORA = VideoRequest(provider="sora", prompt="a tram in the rain", seconds=4)
AWAY_S = 4.0  # longer than arq itself would survive


@pytest.fixture(autouse=True)
def quick(simulator: SimulatorServer) -> None:
    simulator.sora.clip = render("tram", seconds=1, width=320, height=180, audio=False)
    simulator.sora.generation_s = 0.5


async def all_completed(queue: VideoQueue, count: int) -> None:
    for job in await queue.recent(limit=count):
        done = await queue.wait(job.id, timeout=40)
        assert (done.status, done.attempt) == (JobStatus.COMPLETED, 1), done


async def test_a_terminated_worker_hands_its_polls_over_at_once(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = FAR_S
    first = await start_worker(settings)
    job = await queue.enqueue(SORA)
    await all_generating(queue, 1)
    await start_worker(settings)

    code = await first.stop()

    finish_all(simulator)
    done = await queue.wait(job.id, timeout=20)
    assert code == 0
    assert (done.status, done.attempt) == (JobStatus.COMPLETED, 1)
    assert len(simulator.sora.bill) == 1
    released = [e for e in await queue.history(job.id) if e.type is EventType.RELEASED]
    assert [event.detail["reason"] for event in released] == ["hand_over"]


async def test_a_killed_worker_s_videos_go_on_without_a_second_submit(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = FAR_S
    first = await start_worker(settings)
    await queue.enqueue_many([SORA] * 20)
    await all_generating(queue, 20)
    await start_worker(settings)

    await first.stop(signal.SIGKILL)

    finish_all(simulator)
    await all_completed(queue, 20)
    assert len(simulator.sora.bill) == 20


async def test_a_job_goes_on_while_redis_is_emptied(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 1
    await start_worker(settings.model_copy(update={"concurrency": 5}))
    await queue.enqueue_many([SORA] * 15)

    async with Redis.from_url(settings.redis_url) as redis, asyncio.timeout(40):
        while (await queue.stats()).completed < 15:
            await redis.flushall()
            await asyncio.sleep(0.5)

    await all_completed(queue, 15)
    assert len(simulator.sora.bill) == 15


async def test_a_worker_ends_in_good_order_while_redis_is_away(
    settings: Settings, start_worker: StartWorker, simulator: SimulatorServer, server_folder: Path
) -> None:
    simulator.sora.generation_s = 60
    with ValkeyServer(server_folder / "valkey-gone") as redis:
        settings = settings.model_copy(update={"redis_url": redis.url})
        worker = await start_worker(settings)
        async with VideoQueue(settings) as queue:
            job = await queue.enqueue(SORA)
            async with asyncio.timeout(10):
                await simulator.sora.arrived("poll")
            redis.stop()

            code = await worker.stop()

            job = await queue.get(job.id)
        assert code == 0
        assert worker.said("worker stopped")
        assert (job.stage, job.worker_id, job.attempt) == (Stage.GENERATING, None, 1)


# Those that end while Redis is mute leave arq with an end to write.
@pytest.mark.parametrize("ended", [0, 3])
async def test_a_worker_ends_in_good_order_while_redis_is_mute(
    settings: Settings,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    server_folder: Path,
    ended: int,
) -> None:
    simulator.sora.generation_s = 60
    with ValkeyServer(server_folder / "valkey-mute") as redis:
        settings = settings.model_copy(
            update={"redis_url": redis.url, "concurrency": 40, "poll_interval_s": 1}
        )
        worker = await start_worker(settings)
        async with VideoQueue(settings) as queue:
            jobs = await queue.enqueue_many([SORA] * 40)
            await all_generating(queue, 40)
            server = psutil.Process(int((redis.folder / "valkey.pid").read_text()))
            server.suspend()
            try:
                async with asyncio.TaskGroup() as group:
                    for job in jobs[:ended]:
                        group.create_task(queue.cancel(job.id))
                async with asyncio.timeout(20):
                    while (await queue.stats()).cancelled < ended:  # noqa: ASYNC110  without Redis nobody tells
                        await asyncio.sleep(0.1)

                code = await worker.stop()
            finally:
                server.resume()
            left = [await queue.get(job.id) for job in jobs[ended:]]
        assert code == 0
        assert worker.said("worker stopped")
        assert {(job.stage, job.worker_id, job.attempt) for job in left} == {
            (Stage.GENERATING, None, 1)
        }


async def test_the_worker_outlives_a_redis_that_is_away(
    settings: Settings, start_worker: StartWorker, simulator: SimulatorServer, server_folder: Path
) -> None:
    simulator.sora.generation_s = AWAY_S / 2
    with ValkeyServer(server_folder / "valkey-away") as redis:
        settings = settings.model_copy(update={"redis_url": redis.url})
        worker = await start_worker(settings)
        async with VideoQueue(settings) as queue:
            first = await queue.enqueue(SORA)
            async with asyncio.timeout(10):
                await simulator.sora.arrived("poll")

            redis.stop()
            done = await queue.wait(first.id, timeout=AWAY_S * 3)  # in flight: it goes on
            second = await queue.enqueue(SORA)  # accepted all the same
            await asyncio.sleep(AWAY_S)
            redis.start()
            later = await queue.wait(second.id, timeout=30)

        assert (done.status, later.status) == (JobStatus.COMPLETED, JobStatus.COMPLETED)
        assert len(simulator.sora.bill) == 2
        assert await worker.stop() == 0
