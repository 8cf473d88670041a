"""
How soon peers go on: `python -m tests.bench.recovery --jobs 200`.

One of two workers that holds so many running videos is killed, terminated, or frozen for longer
than its lease and thawed again, with the timings of the defaults. What counts is the time from the
blow to the peer's claim, for each video, and the bill.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.scorecard import judged, percentile
from tests.bench.world import Crew, open_world
from vidgen import VideoRequest
from vidgen.job import EventType
from vidgen.queue import VideoQueue
from vidgen.settings import Settings

DEFAULTS = {
    name: Settings.model_fields[name].default
    for name in ("lease_ttl_s", "settle_s", "sweep_interval_s", "shutdown_grace_s")
}
FROZEN_S = 75.0
# Longer than the blow, so that the videos are still under way when peers take them over.
GENERATION_S = {"kill": 30.0, "terminate": 15.0, "freeze": 90.0}
TIMEOUT_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--only", choices=sorted(BLOWS))
    arguments = parser.parse_args()
    measured: list[dict[str, Any]] = []
    for blow in [arguments.only] if arguments.only else list(BLOWS):
        with tempfile.TemporaryDirectory(prefix="vidgen-recovery-") as name:
            folder = Path(name)
            folder.chmod(0o755)  # PostgreSQL may run as somebody else
            figures = asyncio.run(_measure(folder, blow, arguments.jobs))
        measured.append(figures)
        sys.stdout.write(orjson.dumps(figures).decode() + "\n")
        sys.stdout.flush()
    _show(measured)


def _show(measured: list[dict[str, Any]]) -> None:
    table = Table("figure", *[figures["blow"] for figures in measured], title="recovery")
    for name in list(measured[0])[1:]:
        table.add_row(name, *[str(figures[name]) for figures in measured])
    Console(stderr=True).print(table)


async def _measure(folder: Path, blow: str, jobs: int) -> dict[str, Any]:
    changes = DEFAULTS | {"poll_interval_s": 5, "concurrency": jobs}
    async with open_world(folder, **changes) as world:
        world.simulator.sora.generation_s = GENERATION_S[blow]
        async with Crew(world.settings, world.logs, 1) as crew, VideoQueue(world.settings) as queue:
            await crew.ready(0)
            jobs_ = await queue.enqueue_many(
                [VideoRequest(provider="sora", prompt=f"tram {number}") for number in range(jobs)]
            )
            async with asyncio.timeout(TIMEOUT_S):
                await _all_at(world.settings, EventType.SUBMITTED, jobs)
                await crew.ready(await crew.hire())
                await BLOWS[blow](crew)
                for job in jobs_:
                    await queue.wait(job.id)
        card = await judged(
            world.settings, world.simulator, world.s3, world.logs, crew.blows, crew.ended_alone
        )
        stale = await _stale_writes(world.settings)
        second = await _count(world.settings, "SELECT count(*) FROM video_jobs WHERE attempt > 1")
    gaps = sorted([*card.recovered_s, *card.hand_over_s])
    return {
        "blow": blow,
        "jobs": jobs,
        "went_on": len(gaps),
        "p50_s": percentile(gaps, 50),
        "p99_s": percentile(gaps, 99),
        "max_s": percentile(gaps, 100),
        "completed": card.completed,
        "lost": card.lost,
        "paid_twice": card.paid_twice,
        "unknown": card.unknown,
        "second_attempts": second,
        "stale_writes": stale,
    }


async def _kill(crew: Crew) -> None:
    await crew.strike(0, signal.SIGKILL)


async def _terminate(crew: Crew) -> None:
    await crew.strike(0, signal.SIGTERM)


async def _freeze(crew: Crew) -> None:
    crew.note(0, signal.SIGSTOP)
    await crew.strike(0, signal.SIGSTOP)
    await asyncio.sleep(FROZEN_S)
    await crew.strike(0, signal.SIGCONT)


BLOWS: dict[str, Callable[[Crew], Awaitable[None]]] = {
    "kill": _kill,
    "terminate": _terminate,
    "freeze": _freeze,
}


async def _all_at(settings: Settings, wanted: EventType, jobs: int) -> None:
    statement = f"SELECT count(DISTINCT job_id) FROM job_events WHERE type = '{wanted}'"  # noqa: S608  our own word
    while await _count(settings, statement) < jobs:  # noqa: ASYNC110  a table tells nobody
        await asyncio.sleep(0.1)


async def _stale_writes(settings: Settings) -> int:
    """How many events a worker wrote about jobs after they had been freed from it."""
    return await _count(
        settings,
        """
        SELECT count(*) FROM job_events AS late
        WHERE late.type <> 'claimed' AND EXISTS (
            SELECT FROM job_events AS released
            WHERE released.job_id = late.job_id AND released.seq < late.seq
              AND released.type = 'released' AND released.detail ->> 'reason' = 'worker_lost'
        ) AND late.worker_id IS DISTINCT FROM (
            SELECT claim.worker_id FROM job_events AS claim
            WHERE claim.job_id = late.job_id AND claim.seq < late.seq AND claim.type = 'claimed'
            ORDER BY claim.seq DESC LIMIT 1
        ) AND NOT (late.type = 'released' AND late.detail ->> 'reason' = 'worker_lost')
        """,
    )


async def _count(settings: Settings, statement: str) -> int:
    connection = await asyncpg.connect(settings.database_url, timeout=10, command_timeout=30)
    try:
        count: int = await connection.fetchval(statement)
        return count
    finally:
        await connection.close(timeout=10)


if __name__ == "__main__":
    main()
