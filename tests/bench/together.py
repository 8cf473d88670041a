"""
Three workers on one queue, one replaced every ten seconds: `python -m tests.bench.together`.

The simulator judges the limit: how many submits came within any window of a minute.
"""

import argparse
import asyncio
import bisect
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.scorecard import judged
from tests.bench.world import Crew, World, open_world
from vidgen import VideoRequest
from vidgen.job import EventType
from vidgen.queue import VideoQueue
from vidgen.ratelimit import WINDOW_S

WORKERS = 3
CONCURRENCY = 30
GENERATION_S = 15.0
REPLACED_EVERY_S = 10.0
TIMEOUT_S = 1200.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=180)
    parser.add_argument("--limit", type=int, default=60, help="submits a minute")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidgen-together-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        figures = asyncio.run(_measure(folder, arguments.jobs, arguments.limit))
    table = Table("what", "figure", title="together")
    for what, figure in figures.items():
        table.add_row(what, str(figure))
    Console(stderr=True).print(table)
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


async def _measure(folder: Path, jobs: int, limit: int) -> dict[str, Any]:
    async with open_world(folder, concurrency=CONCURRENCY, rate_limit_per_min=limit) as world:
        world.simulator.sora.generation_s = GENERATION_S
        loop = asyncio.get_running_loop()
        async with Crew(world.exposed, world.logs, WORKERS) as crew:
            for place in range(WORKERS):
                await crew.ready(place)
            started = loop.time()
            async with VideoQueue(world.settings) as queue:
                await queue.enqueue_many(
                    [VideoRequest(provider="sora", prompt=f"tram {n}") for n in range(jobs)]
                )
                replaced = await _replaced_to_the_end(crew, queue)
                elapsed_s = loop.time() - started
                shares = await _shares(queue, jobs)
        card = await judged(
            world.settings, world.simulator, world.s3, world.logs, crew.blows, crew.ended_alone
        )
        return {
            "jobs": jobs,
            "limit": limit,
            "completed": card.completed,
            "failed": card.failed,
            "most_submits_in_a_minute": _most(world),
            "elapsed_s": round(elapsed_s, 1),
            "workers_replaced": replaced,
            "submits_by_worker": sorted(shares.values(), reverse=True),
            "lost": card.lost,
            "paid_twice": card.paid_twice,
            "defects": len(card.defects),
        }


async def _replaced_to_the_end(crew: Crew, queue: VideoQueue) -> int:
    """How often a worker was replaced until all jobs were final."""
    replaced = 0
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            await asyncio.sleep(REPLACED_EVERY_S)
            counts = await queue.stats()
            if not counts.waiting + counts.active + counts.delayed:
                return replaced
            place = replaced % WORKERS
            await crew.strike(place, signal.SIGTERM)
            await crew.end(place)
            await crew.start(place)
            replaced += 1


async def _shares(queue: VideoQueue, jobs: int) -> Counter[str]:
    shares: Counter[str] = Counter()
    for job in await queue.recent(limit=jobs):
        for event in await queue.history(job.id):
            if event.type is EventType.SUBMITTED:
                shares[str(event.worker_id)] += 1
    return shares


def _most(world: World) -> int:
    """Submits in the fullest window of a minute."""
    times = sorted(each.at for each in world.simulator.sora.received if each.deed == "submit")
    return max(
        place + 1 - bisect.bisect_right(times, at - WINDOW_S) for place, at in enumerate(times)
    )


if __name__ == "__main__":
    main()
