"""
Machines whose clocks are wrong: PostgreSQL's decides, and nobody else's.

Real workers are told another time by libfaketime: their wall clock is ten minutes off, durations
pass as ever.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import orjson
import pytest
from redis.asyncio import Redis

from tests.conftest import environment_of
from tests.journeys.conftest import StartWorker, all_generating
from tests.journeys.test_crashes import until
from tests.journeys.test_outages import all_paid_once, trams
from vidgen import VideoJob, VideoRequest
from vidgen.line import MESSAGE_PREFIX, share_name
from vidgen.queue import VideoQueue
from vidgen.resources import Clock
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.server import SimulatorServer

END_TIMEOUT_S = 40
AHEAD, BEHIND = "+10m", "-10m"  # S3 allows no more than 15
PICKED_UP_S = 2.0
# The claim's guard lets a dispatch come that much early; a sweep finds it that much late.
EARLY_S, LATE_S = 1.0, 4.0
TAKEN_OVER_S = 8.0  # beside the lease, on a busy machine
DELAY_S = 5.0

Off = Callable[[str], dict[str, str]]


@pytest.fixture
def off() -> Iterator[Off]:
    """Environments in which the clock is so much off."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        missing = "libfaketime is missing; .ci/run installs it on Debian"
        assert "CI" not in os.environ, missing  # noqa: TID251  as for pgbouncer
        pytest.skip("libfaketime is not installed (apt-get install libfaketime)")
    before = _traces()

    def environment(offset: str) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME": offset,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    yield environment
    for trace in _traces() - before:  # of those that a kill kept from tidying up
        trace.unlink(missing_ok=True)


def _traces() -> set[Path]:
    return set(Path("/dev/shm").glob("*faketime*"))


@pytest.fixture(autouse=True)
def quick(simulator: SimulatorServer) -> None:
    clip = render("tram", seconds=1, width=320, height=180, audio=False)
    for provider in (simulator.sora, simulator.veo):
        provider.clip, provider.generation_s = clip, 1.0


async def test_workers_with_wrong_clocks_share_the_work_and_leave_each_other_s_leases_alone(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    off: Off,
) -> None:
    simulator.sora.generation_s = settings.lease_ttl_s * 2
    settings = settings.model_copy(update={"concurrency": 10})
    ahead = await start_worker(settings, **off(AHEAD))
    behind = await start_worker(settings, **off(BEHIND))

    jobs = await queue.enqueue_many(trams(20))

    await all_paid_once(queue, simulator, jobs)
    claims = await claims_of(settings)
    assert Counter(str(claim.worker_id) for claim in claims) == {ahead.id: 10, behind.id: 10}
    assert clock_error_s(ahead.said("worker ready")) == pytest.approx(600, abs=60)
    assert clock_error_s(behind.said("worker ready")) == pytest.approx(-600, abs=60)


@pytest.mark.parametrize(("killed", "left"), [(AHEAD, BEHIND), (BEHIND, AHEAD)])
async def test_a_peer_with_a_wrong_clock_takes_over_within_a_lease(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    off: Off,
    killed: str,
    left: str,
) -> None:
    simulator.sora.generation_s = 20  # still under way once the peer is there, however slow it is
    victim = await start_worker(settings, **off(killed))
    jobs = await queue.enqueue_many(trams(10))
    await all_generating(queue, len(jobs))
    peer = await start_worker(settings, **off(left))
    at = Clock().now()

    await victim.stop(signal.SIGKILL)

    await until(lambda: all_taken(settings, jobs, peer.id))
    last = (await claims_of(settings))[-1]
    assert (last.at - at).total_seconds() < settings.lease_ttl_s + TAKEN_OVER_S
    await all_paid_once(queue, simulator, jobs)


@pytest.mark.parametrize("offset", [AHEAD, BEHIND])
async def test_a_video_begins_when_it_is_due_by_the_clock_of_the_database(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    off: Off,
    offset: str,
) -> None:
    await start_worker(settings, **off(offset))
    now = Clock().now()  # of this machine, as PostgreSQL's
    due_at = now + timedelta(seconds=DELAY_S)

    [at_once] = await queue.enqueue_many(trams(1))
    later = await queue.enqueue(
        VideoRequest(provider="veo", prompt="a tram at dusk"), run_at=due_at
    )

    await all_paid_once(queue, simulator, [at_once, later])
    first, second = await claims_of(settings)
    assert (first.at - now).total_seconds() < PICKED_UP_S
    assert -EARLY_S <= (second.at - due_at).total_seconds() < LATE_S


@pytest.mark.parametrize("offset", [AHEAD, BEHIND])
async def test_a_service_with_a_wrong_clock_is_served_at_once(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    off: Off,
    offset: str,
) -> None:
    await start_worker(settings)

    await submit(environment_of(settings) | off(offset))

    [job] = await queue.recent(limit=1)
    await all_paid_once(queue, simulator, [job])
    [claim] = await claims_of(settings)
    assert (claim.at - job.created_at).total_seconds() < PICKED_UP_S


@pytest.mark.parametrize("offset", [AHEAD, BEHIND])
async def test_a_service_with_a_wrong_clock_keeps_the_head_start_of_a_priority(
    settings: Settings, queue: VideoQueue, off: Off, offset: str
) -> None:
    await submit(environment_of(settings) | off(offset), "--priority", "2")

    [job] = await queue.recent(limit=1)
    async with Redis.from_url(settings.redis_url) as redis:
        name = f"{job.id}.{job.lease_epoch}"
        due_ms = await redis.zscore(settings.queue_name, name)
        message = await redis.get(MESSAGE_PREFIX + name)
    assert due_ms == round(job.created_at.timestamp() * 1000)
    assert orjson.loads(message)["share"][0] == share_name(None, 2)


async def submit(environment: dict[str, str], *options: str) -> None:
    program = [sys.executable, "-m", "vidgen", "submit", "--provider", "sora", "a tram", *options]
    process = await asyncio.create_subprocess_exec(
        *program, env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(END_TIMEOUT_S):
        assert await process.wait() == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who took a job, and when by the clock of the database."""

    job_id: UUID
    worker_id: UUID
    at: datetime


async def claims_of(settings: Settings) -> list[Claim]:
    """All there were, in their order."""
    connection = await asyncpg.connect(settings.database_url, timeout=10, command_timeout=10)
    try:
        rows = await connection.fetch(
            "SELECT job_id, worker_id, at FROM job_events WHERE type = 'claimed' ORDER BY at"
        )
        return [Claim(**row) for row in rows]
    finally:
        await connection.close(timeout=10)


async def all_taken(settings: Settings, jobs: list[VideoJob], worker_id: str) -> bool:
    """Whether *worker_id* has claimed each of *jobs*."""
    taken = {
        claim.job_id for claim in await claims_of(settings) if str(claim.worker_id) == worker_id
    }
    return taken >= {job.id for job in jobs}


def clock_error_s(lines: list[dict[str, str]]) -> float:
    """How far the clock of who wrote *lines* is ahead of ours."""
    return (datetime.fromisoformat(lines[0]["timestamp"]) - Clock().now()).total_seconds()
