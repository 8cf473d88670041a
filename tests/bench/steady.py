"""
Whether anything grows: `python -m tests.bench.steady --jobs 10000`.

One worker process makes so many short videos, a batch after the other. When each batch has ended,
we look at what the worker holds (memory, open files, connections to PostgreSQL) and at what is in
Redis. In a service that runs for months none of it may depend on how many videos there have been.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson
import psutil
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from tests.bench.world import Crew, World, open_world
from vidgen import VideoRequest
from vidgen.queue import VideoQueue

CONCURRENCY = 200
GENERATION_S = (0.2, 1.0)
BATCH_TIMEOUT_S = 300.0
SETTLE_S = 2.0  # a sweep, a flush of progress, and the last answers of arq
LOOK_S = 0.2
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """
    What is held when nothing is under way.

    Attributes:
        cpu_ms: Of the worker per job since the sample before.
        files: Open file descriptors of the worker, sockets among them.
        http: Connections among these to provider and bucket; unused ones stay for half a minute.
        postgres: Connections to PostgreSQL, none of them ours.
        redis_keys: DBSIZE.
    """

    jobs: int
    jobs_per_s: float
    cpu_ms: float
    worker_mib: float
    files: int
    http: int
    postgres: int
    redis_mib: float
    redis_keys: int
    redis_clients: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=1_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidgen-steady-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        samples = asyncio.run(_measure(folder, arguments.jobs, arguments.batch))
    names = [field.name.replace("_", " ") for field in fields(Sample)]
    table = Table(*names, title="steady")
    for sample in samples:
        table.add_row(*[str(figure) for figure in asdict(sample).values()])
    Console(stderr=True, width=100).print(table)
    sys.stdout.write(orjson.dumps(_growth(samples)).decode() + "\n")


def _growth(samples: list[Sample]) -> dict[str, Any]:
    """The first and the last of each figure: by the first batch everything has been used once."""
    first, last = asdict(samples[0]), asdict(samples[-1])
    return {name: [first[name], last[name]] for name in first}


async def _measure(folder: Path, jobs: int, batch: int) -> list[Sample]:
    changes = {"concurrency": CONCURRENCY, "poll_interval_s": 0.2, "rate_limit_per_min": 1_000_000}
    async with open_world(folder, **changes) as world:
        dice = random.Random(jobs)
        world.simulator.sora.generation_s = lambda: dice.uniform(*GENERATION_S)
        async with Crew(world.settings, world.logs, 1) as crew:
            await crew.ready(0)
            worker = crew.process(0)
            samples = []
            for done in range(0, jobs, batch):
                before_s = sum(worker.cpu_times()[:2])
                elapsed_s = await _carried(world, range(done, done + batch))
                cpu_ms = (sum(worker.cpu_times()[:2]) - before_s) * 1000 / batch
                await asyncio.sleep(SETTLE_S)
                samples.append(
                    Sample(
                        jobs=done + batch,
                        jobs_per_s=round(batch / elapsed_s, 1),
                        cpu_ms=round(cpu_ms, 1),
                        **await _held(world, worker),
                    )
                )
    return samples


async def _carried(world: World, numbers: range) -> float:
    """Seconds until the videos of these *numbers* were all stored."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    # One of its own per batch: its connections are gone when we count.
    async with VideoQueue(world.settings) as queue, asyncio.timeout(BATCH_TIMEOUT_S):
        await queue.enqueue_many(
            [VideoRequest(provider="sora", prompt=f"tram {number}") for number in numbers]
        )
        while (counts := await queue.stats()).completed < numbers.stop:
            if counts.failed:
                sys.exit(f"videos failed: {counts}")
            await asyncio.sleep(LOOK_S)
    return loop.time() - started


async def _held(world: World, worker: psutil.Process) -> dict[str, Any]:
    async with Redis.from_url(world.settings.redis_url) as redis:
        facts: dict[str, Any] = await redis.info()
        keys = await redis.dbsize()
    return {
        "worker_mib": round(worker.memory_info().rss / MIB, 1),
        "files": worker.num_fds(),
        "http": _http(world, worker),
        "postgres": await _connections(world.settings.database_url),
        "redis_mib": round(facts["used_memory"] / MIB, 2),
        "redis_keys": keys,
        "redis_clients": facts["connected_clients"] - 1,  # without ours
    }


def _http(world: World, worker: psutil.Process) -> int:
    ports = {
        urlsplit(url).port
        for url in (world.settings.openai_base_url, world.settings.s3_endpoint_url or "")
    }
    return sum(bool(one.raddr) and one.raddr.port in ports for one in worker.net_connections())


async def _connections(url: str) -> int:
    connection = await asyncpg.connect(url, timeout=10, command_timeout=30)
    try:
        count: int = await connection.fetchval(
            """
            SELECT count(*) FROM pg_stat_activity
            WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
            """
        )
        return count
    finally:
        await connection.close(timeout=10)


if __name__ == "__main__":
    main()
