"""Videos from the wish to the bucket, by the front door."""

import asyncio
import hashlib

import pytest

from tests.journeys.conftest import StartWorker
from vidgen import JobStatus, VideoJob, VideoRequest
from vidgen.job import EventType
from vidgen.queue import VideoQueue
from vidgen.resources import bucket_of
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.storage import Storage

MAX_BYTES = 100_000_000


@pytest.mark.parametrize(
    "request_",
    [
        VideoRequest(provider="sora", prompt="a tram in the rain", seconds=4, size="1280x720"),
        VideoRequest(provider="veo", prompt="a tram in the sun", seconds=4, aspect_ratio="9:16"),
    ],
    ids=["sora", "veo"],
)
async def test_a_wish_becomes_a_video_in_the_bucket(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    request_: VideoRequest,
) -> None:
    bill = simulator.simulators[request_.provider].bill
    await start_worker(settings)

    job = await queue.enqueue(request_, scene_id="scene-7", metadata={"order": 1})
    done = await queue.wait(job.id, timeout=30)

    assert done.status is JobStatus.COMPLETED
    assert (done.progress, done.attempt, len(bill)) == (100, 1, 1)
    assert done.duration_s == pytest.approx(4, abs=0.1)
    assert {done.width, done.height} == {1280, 720}
    assert done.actual_cost_micros == done.estimated_cost_micros == bill[0].cost_micros
    assert await digests(settings, [done]) == [done.sha256]
    assert [event.type for event in await queue.history(job.id)] == [
        EventType.CREATED,
        EventType.CLAIMED,
        EventType.SUBMITTING,
        EventType.SUBMITTED,
        EventType.GENERATED,
        EventType.COMPLETED,
    ]


async def test_two_hundred_at_once_cost_one_submit_each(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.clip = render("tram", seconds=1, width=320, height=180, audio=False)
    await start_worker(settings.model_copy(update={"concurrency": 200, "transfer_concurrency": 8}))

    jobs = await queue.enqueue_many(
        [VideoRequest(provider="sora", prompt=f"tram {number}", seconds=4) for number in range(200)]
    )
    done = [await queue.wait(job.id, timeout=50) for job in jobs]

    assert {job.status for job in done} == {JobStatus.COMPLETED}
    assert sorted(charge.prompt for charge in simulator.sora.bill) == sorted(
        f"tram {number}" for number in range(200)
    )
    assert await digests(settings, done) == [job.sha256 for job in done]


async def digests(settings: Settings, jobs: list[VideoJob]) -> list[str]:
    """The SHA-256 of what the bucket really holds for each of *jobs*."""
    async with Storage.open(bucket_of(settings)) as storage:
        return [
            hashlib.sha256(await storage.read(job.storage_key or "", MAX_BYTES)).hexdigest()
            for job in jobs
        ]


async def test_a_cancel_does_not_wait_for_a_heartbeat_or_a_provider(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 600
    simulator.sora.script(Rule(deed="cancel", outcome="hang"))
    patient = settings.model_copy(update={"lease_ttl_s": 600.0, "poll_interval_s": 60.0})
    await start_worker(patient)
    job = await queue.enqueue(VideoRequest(provider="sora", prompt="a tram in the rain"))
    async with asyncio.timeout(20):
        async for event in queue.events(job.id):
            if event.type is EventType.SUBMITTED:
                break

    await queue.cancel(job.id, by="ada")
    done = await queue.wait(job.id, timeout=10)  # 2 s, on a machine that has time

    assert (done.status, done.actual_cost_micros) == (JobStatus.CANCELLED, None)
    assert done.worker_id is None
    [ended] = [e for e in await queue.history(job.id) if e.type is EventType.CANCELLED]
    assert ended.detail["still_asking"] is True
    assert ended.worker_id is not None
