"""Users share the places of a real worker, however many videos one of them has sent before."""

from dataclasses import replace

import asyncpg

from tests.journeys.conftest import StartWorker
from vidgen import VideoRequest
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.server import SimulatorServer

PLACES = 2
MANY, FEW = 40, 6
END_TIMEOUT_S = 60


async def test_a_few_videos_wait_at_most_twice_as_long_beside_those_that_were_sent_before(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.clip = render("tram", seconds=1, width=320, height=180, audio=False)
    simulator.sora.generation_s = 0.1
    places = {"concurrency": PLACES, "rate_limit_per_min": 100_000}
    await start_worker(settings.model_copy(update=places))
    tram = VideoRequest(provider="sora", prompt="a tram", seconds=4)
    many = [replace(tram, prompt=f"tram {number}") for number in range(MANY)]
    first, *_ = await queue.enqueue_many(many, user_id="ada")
    await queue.wait(first.id, timeout=END_TIMEOUT_S)

    for job in await queue.enqueue_many([tram] * FEW, user_id="bob"):
        await queue.wait(job.id, timeout=END_TIMEOUT_S)

    taken = await taken_since_all_were_sent(settings)
    last_place = max(place for place, user_id in enumerate(taken, 1) if user_id == "bob")
    # What has a place, or takes one between the insert and the dispatches, is not sent back.
    assert last_place <= 2 * FEW + PLACES
    assert taken[:last_place].count("ada") >= FEW - 1, "and ada waits for bob no longer than bob"


async def taken_since_all_were_sent(settings: Settings) -> list[str]:
    """Whose videos were claimed after the last one was created, in order."""
    connection = await asyncpg.connect(settings.database_url, timeout=10)
    try:
        rows = await connection.fetch(
            """
            SELECT user_id FROM job_events JOIN video_jobs ON video_jobs.id = job_id
            WHERE type = 'claimed'
              AND seq > (SELECT max(seq) FROM job_events WHERE type = 'created')
            ORDER BY seq
            """,
            timeout=10,
        )
    finally:
        await connection.close(timeout=10)
    return [row["user_id"] for row in rows]
