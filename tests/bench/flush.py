"""
A Redis that forgets everything: `python -m tests.bench.flush --jobs 500`.

FLUSHALL every two seconds, from the first submit until two workers have ended every job; they hold
fewer jobs at once than there are, so that most dispatches are lost while they wait.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from tests.bench.scorecard import judged
from tests.bench.world import Crew, World, open_world
from vidgen import VideoRequest
from vidgen.queue import VideoQueue

EVERY_S = 2.0
WORKERS = 2
CONCURRENCY = 50
GENERATION_S = (2.0, 12.0)
TIMEOUT_S = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidgen-flush-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        figures = asyncio.run(_measure(folder, arguments.jobs))
    table = Table("what", "figure", title="flush")
    for what, figure in figures.items():
        table.add_row(what, str(figure))
    Console(stderr=True).print(table)
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


async def _measure(folder: Path, jobs: int) -> dict[str, Any]:
    async with open_world(folder, concurrency=CONCURRENCY) as world:
        dice = random.Random(jobs)
        for provider in (world.simulator.sora, world.simulator.veo):
            provider.generation_s = lambda: dice.uniform(*GENERATION_S)
        loop = asyncio.get_running_loop()
        async with Crew(world.exposed, world.logs, WORKERS) as crew:
            for place in range(WORKERS):
                await crew.ready(place)
            started = loop.time()
            flushes = await _flushed_to_the_end(world, jobs)
            elapsed_s = loop.time() - started
        card = await judged(
            world.settings, world.simulator, world.s3, world.logs, crew.blows, crew.ended_alone
        )
        submits = len(world.simulator.sora.bill) + len(world.simulator.veo.bill)
    return {
        "jobs": jobs,
        "completed": card.completed,
        "failed": card.failed,
        "submits": submits,
        "flushes": flushes,
        "elapsed_s": round(elapsed_s, 1),
        "lost": card.lost,
        "paid_twice": card.paid_twice,
        "defects": len(card.defects),
    }


async def _flushed_to_the_end(world: World, jobs: int) -> int:
    """How often Redis was emptied until all *jobs* were final."""
    flushes = 0
    async with (
        VideoQueue(world.settings) as queue,
        Redis.from_url(world.settings.redis_url) as redis,
    ):
        await queue.enqueue_many([_request(number) for number in range(jobs)])
        async with asyncio.timeout(TIMEOUT_S):
            await world.simulator.sora.arrived("submit")
            while True:
                await redis.flushall()
                flushes += 1
                counts = await queue.stats()
                if not counts.waiting + counts.active + counts.delayed:
                    return flushes
                await asyncio.sleep(EVERY_S)


def _request(number: int) -> VideoRequest:
    return VideoRequest(provider=("sora", "veo")[number % 2], prompt=f"tram {number}")


if __name__ == "__main__":
    main()
