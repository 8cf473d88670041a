"""
Whether a video costs more where many were made before: `python -m tests.bench.growth`.

The same batch is carried by one worker while `video_jobs` holds a thousand rows, ten thousand, and
so on to a million, each with its events. Told is what a video costs the worker and PostgreSQL (all
its processes), in CPU time, which other programs disturb less than the clock. The last line is the
ratio of the last size to the first.
"""

import argparse
import asyncio
import math
import random
import statistics
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import orjson
import psutil
from rich.console import Console
from rich.table import Table

from tests.bench.rows import EVENTS, ROWS
from tests.bench.world import Crew, World, open_world
from vidgen import VideoRequest
from vidgen.queue import VideoQueue
from vidgen.store.pool import connect

SIZES = (1_000, 10_000, 100_000, 1_000_000)
CONCURRENCY = 200
GENERATION_S = (0.5, 2.0)
BATCH_TIMEOUT_S = 600.0
FILL_TIMEOUT_S = 3600.0
LOOK_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """
    What one video costs at one size, in milliseconds.

    Attributes:
        rows: There before the first of them.
        enqueue: By the clock, in a call for the whole batch.
        worker: CPU time.
        postgres: CPU time, the enqueuing included.
    """

    rows: int
    enqueue: float
    worker: float
    postgres: float
    together: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--jobs", type=int, default=400, help="in each batch")
    parser.add_argument("--rounds", type=int, default=3, help="batches at each size; medians")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidgen-growth-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        costs = asyncio.run(_measure(folder, arguments))
    table = Table(*[field.name for field in fields(Cost)], title="growth: ms per video")
    for cost in costs:
        table.add_row(*[str(figure) for figure in asdict(cost).values()])
    Console(stderr=True).print(table)
    ratio = round(costs[-1].together / costs[0].together, 2)
    told = {"costs": [asdict(cost) for cost in costs], "ratio": ratio}
    sys.stdout.write(orjson.dumps(told).decode() + "\n")


async def _measure(folder: Path, arguments: argparse.Namespace) -> list[Cost]:
    dice = random.Random(arguments.jobs)
    changes = {"concurrency": CONCURRENCY, "poll_interval_s": 0.5, "rate_limit_per_min": 1_000_000}
    costs = []
    async with open_world(folder, **changes) as world:
        world.simulator.sora.generation_s = lambda: dice.uniform(*GENERATION_S)
        postmaster = await _postmaster(world)
        async with Crew(world.settings, world.logs, 1) as crew:
            await crew.ready(0)
            await _carried(world, arguments.jobs)  # the first use of everything
            there = 0
            for rows in arguments.sizes:
                await _fill(world, there, rows)
                there = rows
                rounds = [
                    await _cost(world, crew.process(0), postmaster, rows, arguments.jobs)
                    for _ in range(arguments.rounds)
                ]
                costs.append(_median(rounds))
    return costs


async def _fill(world: World, there: int, rows: int) -> None:
    async with connect(world.settings.database_url) as connection:
        await connection.execute(ROWS, there, rows, 0, timeout=FILL_TIMEOUT_S)
        await connection.execute(EVENTS, timeout=FILL_TIMEOUT_S)
        await connection.execute("VACUUM ANALYZE", timeout=FILL_TIMEOUT_S)
        await connection.execute("CHECKPOINT", timeout=FILL_TIMEOUT_S)


async def _cost(
    world: World, worker: psutil.Process, postmaster: psutil.Process, rows: int, jobs: int
) -> Cost:
    worker_s, postgres_s = _cpu_s([worker]), _family_s(postmaster)
    enqueue_s = await _carried(world, jobs)
    worker_s, postgres_s = _cpu_s([worker]) - worker_s, _family_s(postmaster) - postgres_s
    per_video_ms = 1000 / jobs
    return Cost(
        rows=rows,
        enqueue=enqueue_s * per_video_ms,
        worker=worker_s * per_video_ms,
        postgres=postgres_s * per_video_ms,
        together=(worker_s + postgres_s) * per_video_ms,
    )


async def _carried(world: World, jobs: int) -> float:
    """Carry so many videos to their end; the seconds that enqueuing them took."""
    loop = asyncio.get_running_loop()
    async with VideoQueue(world.settings) as queue, asyncio.timeout(BATCH_TIMEOUT_S):
        started = loop.time()
        made = await queue.enqueue_many(
            [VideoRequest(provider="sora", prompt=f"kite {number}") for number in range(jobs)]
        )
        enqueue_s = loop.time() - started
        async with connect(world.settings.database_url) as connection:
            ids = [job.id for job in made]
            while (open_ := await connection.fetchval(_OPEN, ids)) != 0:
                assert open_ is not None, "a video failed"
                await asyncio.sleep(LOOK_S)
    return enqueue_s


# NULL if one of them ended without a video.
_OPEN = """
SELECT CASE WHEN bool_and(status IN ('pending', 'processing', 'completed'))
    THEN count(*) FILTER (WHERE status <> 'completed') END
FROM video_jobs WHERE id = ANY ($1::uuid[])
"""


def _median(rounds: list[Cost]) -> Cost:
    middle = {
        field.name: round(statistics.median(getattr(cost, field.name) for cost in rounds), 2)
        for field in fields(Cost)
    }
    return Cost(**middle | {"rows": rounds[0].rows})


async def _postmaster(world: World) -> psutil.Process:
    async with connect(world.settings.database_url) as connection:
        # As long as the connection is open there is one.
        parent = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()")).parent()
    assert parent is not None, "a backend without its postmaster"
    return parent


def _family_s(postmaster: psutil.Process) -> float:
    """Of all that there are, and of those that have ended; none may end while we count."""
    while True:
        with suppress(psutil.NoSuchProcess):
            children = postmaster.children()
            alive_s = _cpu_s([postmaster, *children])
            ended = postmaster.cpu_times()
            if postmaster.children() == children:
                return alive_s + ended.children_user + ended.children_system


def _cpu_s(processes: list[psutil.Process]) -> float:
    return math.fsum(figure for process in processes for figure in process.cpu_times()[:2])


if __name__ == "__main__":
    main()
