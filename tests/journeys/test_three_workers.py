"""Three workers on one queue share work, one limit and one sweep; each is replaced in its turn."""

import asyncio
from collections import Counter
from itertools import pairwise

import asyncpg
import pytest

from tests.journeys.conftest import FAR_S, StartWorker, finish_all
from vidgen import JobStatus, VideoRequest
from vidgen.job import EventType
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.server import SimulatorServer

VIDEOS = 60
LIMIT = 24
PLACES = 10  # of a worker: two alone cannot use up the limit
END_TIMEOUT_S = 50
TURN_S = 0.8 * 0.2  # a sweep may follow another after 0.8 of the interval

NOTE_EACH_SWEEP = """
    CREATE TABLE sweeps (ran_at timestamptz NOT NULL);
    CREATE FUNCTION note_sweep() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO sweeps VALUES (NEW.ran_at); RETURN NULL; END';
    CREATE TRIGGER note_sweep AFTER INSERT OR UPDATE ON upkeep
        FOR EACH ROW WHEN (NEW.duty = 'sweep') EXECUTE FUNCTION note_sweep();
"""


@pytest.mark.timeout(150)
async def test_three_workers_share_jobs_limit_and_sweep_and_a_rolling_restart_loses_nothing(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.clip = render("tram", seconds=1, width=320, height=180, audio=False)
    simulator.sora.generation_s = FAR_S
    await execute(settings, NOTE_EACH_SWEEP)
    settings = settings.model_copy(
        update={"concurrency": PLACES, "rate_limit_per_min": LIMIT, "sweep_interval_s": 0.2}
    )
    old = [await start_worker(settings) for _ in range(3)]

    jobs = await queue.enqueue_many(
        [VideoRequest(provider="sora", prompt=f"tram {n}") for n in range(VIDEOS)]
    )
    async with asyncio.timeout(END_TIMEOUT_S):
        shares = await shared_out(queue)

    # All is within one window: everybody has asked, and the simulator has counted.
    assert simulator.sora.counts["submit"] <= LIMIT + 1
    assert shares.keys() == {worker.id for worker in old}
    assert min(shares.values()) >= LIMIT - 2 * PLACES

    simulator.sora.generation_s = 0.2
    without_limit = settings.model_copy(update={"rate_limit_per_min": 100_000})
    for worker in old:
        await start_worker(without_limit)
        assert await worker.stop() == 0
    finish_all(simulator)

    done = [await queue.wait(job.id, timeout=END_TIMEOUT_S) for job in jobs]
    assert {(job.status, job.attempt) for job in done} == {(JobStatus.COMPLETED, 1)}
    assert sorted(each.prompt for each in simulator.sora.bill) == sorted(job.prompt for job in jobs)
    sweeps = [row["ran_at"] for row in await execute(settings, "TABLE sweeps ORDER BY ran_at")]
    assert len(sweeps) > 5
    assert min((b - a).total_seconds() for a, b in pairwise(sweeps)) >= TURN_S


async def shared_out(queue: VideoQueue) -> Counter[str]:
    """Wait until each job was submitted or told to wait; how many each worker has submitted."""
    while True:
        shares: Counter[str] = Counter()
        told = 0
        for job in await queue.recent(limit=VIDEOS):
            events = {event.type: event for event in await queue.history(job.id)}
            told += EventType.POSTPONED in events or EventType.SUBMITTED in events
            if submitted := events.get(EventType.SUBMITTED):
                shares[str(submitted.worker_id)] += 1
        if told == VIDEOS and shares.total() >= LIMIT:
            return shares
        await asyncio.sleep(0.1)


async def execute(settings: Settings, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(settings.database_url, timeout=10)
    try:
        if statement.startswith("TABLE"):
            return await connection.fetch(statement, timeout=10)
        await connection.execute(statement, timeout=10)
        return []
    finally:
        await connection.close(timeout=10)
