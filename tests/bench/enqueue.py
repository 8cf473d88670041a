"""
What enqueuing costs the service that does it: `python -m tests.bench.enqueue`.

One by one (the time a request of such a service waits), many side by side, and 10,000 in one call:
each in a transaction of our own, and in the caller's. PostgreSQL runs with its data safe on disk.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.scorecard import percentile
from vidgen import VideoRequest
from vidgen.dev.servers import PostgresServer, ValkeyServer
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.store.migrate import migrate
from vidgen.store.pool import connect

SIDE_BY_SIDE = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--single", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3, help="of the many; the best is told")
    parser.add_argument("--budget", action="store_true", help="One that holds, over all videos.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidgen-enqueue-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        figures = asyncio.run(_measure(folder, arguments))
    table = Table("what", "figure", title="enqueue")
    for what, figure in figures.items():
        table.add_row(what, str(figure))
    Console(stderr=True, width=100).print(table)
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


async def _measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    with (
        PostgresServer(folder / "postgres") as postgres,
        ValkeyServer(folder / "valkey") as redis,
    ):
        await migrate(postgres.url)
        settings = Settings(
            database_url=postgres.url,
            redis_url=redis.url,
            openai_base_url=_SERVER,
            budget_usd_per_day=1_000_000 if arguments.budget else None,
        )
        async with VideoQueue(settings) as queue:
            await _timed(queue.enqueue, 50)  # connections, plans
            alone = await _timed(queue.enqueue, arguments.single)
            begun_s, begun_cpu_s = time.monotonic(), time.process_time()
            crowd = await _crowd(queue, arguments.single)
            crowd_s = time.monotonic() - begun_s
            crowd_cpu_s = time.process_time() - begun_cpu_s
            async with connect(settings.database_url) as connection:

                async def within(request: VideoRequest) -> object:
                    async with connection.transaction():
                        return await queue.enqueue(request, connection=connection)

                inside = await _timed(within, arguments.single)
            many_s = [await _many_s(queue, arguments.many) for _ in range(arguments.rounds)]
    return {
        "one by one, p50 / p95 (ms)": _told(alone),
        "one by one in the caller's transaction, p50 / p95 (ms)": _told(inside),
        f"{SIDE_BY_SIDE} side by side, p50 / p95 (ms)": _told(crowd),
        f"{SIDE_BY_SIDE} side by side, a second": round(arguments.single / crowd_s),
        f"{SIDE_BY_SIDE} side by side, CPU of the caller (ms)": round(
            crowd_cpu_s * 1000 / arguments.single, 2
        ),
        f"enqueue_many of {arguments.many} (s)": round(min(many_s), 2),
    }


async def _timed(enqueue: Callable[[VideoRequest], Awaitable[object]], count: int) -> list[float]:
    """Milliseconds of each of *count* calls, one after the other."""
    took_ms = []
    for number in range(count):
        begun_s = time.monotonic()
        await enqueue(_request(number))
        took_ms.append((time.monotonic() - begun_s) * 1000)
    return took_ms


async def _crowd(queue: VideoQueue, count: int) -> list[float]:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_timed(queue.enqueue, count // SIDE_BY_SIDE))
            for _ in range(SIDE_BY_SIDE)
        ]
    return [each_ms for task in tasks for each_ms in task.result()]


async def _many_s(queue: VideoQueue, count: int) -> float:
    requests = [_request(number) for number in range(count)]
    begun_s = time.monotonic()
    await queue.enqueue_many(requests)
    return time.monotonic() - begun_s


def _request(number: int) -> VideoRequest:
    return VideoRequest(provider="sora", prompt=f"a tram in the rain, number {number}", seconds=8)


def _told(took_ms: list[float]) -> list[float | None]:
    return [
        None if figure is None else round(figure, 2)
        for figure in (percentile(sorted(took_ms), 50), percentile(sorted(took_ms), 95))
    ]


# Never called: sora-2 is refused at its vendor's own address.
_SERVER = "http://127.0.0.1:9/v1"

if __name__ == "__main__":
    main()
