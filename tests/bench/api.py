"""
The HTTP API with many who watch, and over many rows: `python -m tests.bench.api`.

One `vidgen serve` has 500 watchers, half of single jobs and half of all, from another process. A
real worker carries jobs through all their transitions, and each watcher must have been told each of
them once and in order, also those who hang up now and then, and those who read slowly. Then
PostgreSQL gets a million rows, and what the dashboard and Prometheus ask for is asked for.
"""

import argparse
import asyncio
import random
import socket
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import psutil
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from tests.bench.rows import ROWS
from tests.bench.watchers import verdict
from tests.bench.world import Crew, World, open_world
from tests.conftest import environment_of
from vidgen import VideoRequest
from vidgen.queue import VideoQueue
from vidgen.store.pool import connect

TOKEN = "a-token-for-the-bench"
GENERATION_S = (1.0, 6.0)
READY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 300.0
SAMPLE_S = 0.1
MIB = 1024 * 1024
ASKED = 20  # times, each path
WAITING = 2000  # of all rows
PATHS = [
    "/api/queue",
    "/api/admin/queue",
    "/api/jobs",
    "/api/jobs?limit=200",
    "/api/jobs?status=pending",
    "/api/jobs?status=completed",
    "/api/jobs?status=failed",
    "/api/jobs?status=cancelled",
    "/api/jobs?status=processing",
    "/api/jobs?provider=veo",
    "/api/jobs?provider=nobody",
    "/api/jobs?model=sora-2-pro",
    "/api/jobs?model=nobody",
    "/api/jobs?code=content_blocked",
    "/api/jobs?code=quota_exhausted",
    "/api/jobs?code=nobody",
    "/api/jobs?user_id=user-7",
    "/api/jobs?scene_id=scene-4711",
    "/api/jobs?user_id=nobody",
    "/api/jobs?user_id=user-7&status=failed",
    "/api/stats",
    "/api/stats?hours=720",
    "/api/failed",
    "/api/workers",
    "/api/providers",
    "/api/audit",
    "/metrics",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=500, help="0 leaves this part out")
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1_000_000, help="0 leaves this part out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidgen-api-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        asyncio.run(_bench(folder, arguments))


async def _bench(folder: Path, arguments: argparse.Namespace) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    changes = {"admin_token": SecretStr(TOKEN), "http_port": port, "http_host": "127.0.0.1"}
    async with open_world(folder, **changes) as world, _serving(world) as server:
        if arguments.watchers:
            told = await _watch(world, server, folder, arguments.watchers, arguments.jobs)
            _show("watchers", told)
        if arguments.rows:
            _show("rows", await _ask(world, arguments.rows))


@asynccontextmanager
async def _serving(world: World) -> AsyncIterator[psutil.Process]:
    """A `vidgen serve` of its own, once it answers."""
    log = world.logs / "server.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vidgen",
            "serve",
            env=environment_of(world.settings),
            stdout=file,
            stderr=asyncio.subprocess.STDOUT,
        )
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while b'"server listening"' not in log.read_bytes():  # noqa: ASYNC110  a file tells nobody
                await asyncio.sleep(SAMPLE_S)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()
        if b'"level":"error"' in log.read_bytes():
            sys.stderr.write(log.read_text())


# --- who watches ---


async def _watch(
    world: World, server: psutil.Process, folder: Path, watchers: int, jobs: int
) -> dict[str, Any]:
    dice = random.Random(jobs)
    for provider in (world.simulator.sora, world.simulator.veo):
        provider.generation_s = lambda: dice.uniform(*GENERATION_S)
    quiet = world.settings.model_copy(update={"http_port": 0})
    loop = asyncio.get_running_loop()
    idle, peak = server.memory_info().rss, 0
    async with VideoQueue(world.settings) as queue, Crew(quiet, world.logs, 1) as crew:
        await crew.ready(0)
        await queue.pause()  # nothing happens before everybody is there
        made = await queue.enqueue_many([_request(number) for number in range(jobs)])
        first = await _newest(world)
        plan = folder / "plan.json"
        plan.write_bytes(
            orjson.dumps(
                {
                    "url": f"http://127.0.0.1:{world.settings.http_port}",
                    "token": TOKEN,
                    "job_ids": [str(job.id) for job in made],
                    "alone": watchers // 2,
                    "of_all": watchers - watchers // 2,
                }
            )
        )
        async with _crowd(plan) as crowd:
            assert crowd.stdin is not None  # both are pipes
            assert crowd.stdout is not None
            watched = server.memory_info().rss
            begun, cpu_s = loop.time(), sum(server.cpu_times()[:2])
            await queue.resume()
            async with asyncio.timeout(END_TIMEOUT_S):
                while (counts := await queue.stats()).waiting + counts.active + counts.delayed:
                    peak = max(peak, server.memory_info().rss)
                    await asyncio.sleep(SAMPLE_S)
            last = await _newest(world)
            crowd.stdin.write(b"%d\n" % last)
            told = orjson.loads(await crowd.stdout.read())
            peak = max(peak, server.memory_info().rss)
            cpu_s = sum(server.cpu_times()[:2]) - cpu_s
        elapsed_s = loop.time() - begun
    wrong = await _judged(world, told, first)
    return {
        "watchers": len(told),
        "jobs": jobs,
        "events": last - first,
        "events_told": sum(len(one["seqs"]) for one in told),
        "begun_again": sum(one["streams"] - 1 for one in told),
        "missing": wrong["missing"],
        "twice": wrong["twice"],
        "foreign": wrong["foreign"],
        "disordered": wrong["disordered"],
        "idle_mib": round(idle / MIB, 1),
        "watched_mib": round(watched / MIB, 1),
        "peak_mib": round(peak / MIB, 1),
        "cpu_s": round(cpu_s, 1),
        "elapsed_s": round(elapsed_s, 1),
    }


def _request(number: int) -> VideoRequest:
    return VideoRequest(provider="sora" if number % 2 else "veo", prompt=f"tram {number}")


@asynccontextmanager
async def _crowd(plan: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Those of *plan* in a process of theirs, once all of them watch."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.watchers",
        str(plan),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**30,
    )
    try:
        assert process.stdout is not None  # it is a pipe
        async with asyncio.timeout(READY_TIMEOUT_S):
            await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _newest(world: World) -> int:
    async with connect(world.settings.database_url) as connection:
        seq: int = await connection.fetchval("SELECT coalesce(max(seq), 0) FROM job_events")
        return seq


async def _judged(world: World, told: list[dict[str, Any]], first: int) -> Counter[str]:
    """What was wrong with what all were *told*; those of all began behind number *first*."""
    async with connect(world.settings.database_url) as connection:
        rows = await connection.fetch("SELECT seq, job_id::text FROM job_events ORDER BY seq")
    wrong: Counter[str] = Counter()
    for one in told:
        truth = [
            row["seq"]
            for row in rows
            if (row["job_id"] == one["job_id"] if one["job_id"] else row["seq"] > first)
        ]
        wrong.update(verdict(one["seqs"], truth))
    return wrong


# --- how long it takes ---


async def _ask(world: World, rows: int) -> dict[str, Any]:
    """p50 and p95 of each path in milliseconds, over so many *rows*."""
    async with connect(world.settings.database_url) as connection:
        await connection.execute(ROWS, 0, rows, WAITING, timeout=1800)
        await connection.execute("VACUUM ANALYZE", timeout=1800)
    loop = asyncio.get_running_loop()
    figures: dict[str, Any] = {"rows": rows}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{world.settings.http_port}", headers=headers
    ) as session:
        for path in PATHS:
            took_ms = []
            for _ in range(ASKED):
                begun = loop.time()
                async with session.get(path) as answer:
                    await answer.read()
                    answer.raise_for_status()
                took_ms.append((loop.time() - begun) * 1000)
                if path == "/metrics":  # what it asks is kept for five seconds
                    await asyncio.sleep(1)
            cuts = statistics.quantiles(took_ms, n=20)
            figures[path] = [round(cuts[9], 1), round(cuts[18], 1)]
    return figures


def _show(title: str, figures: dict[str, Any]) -> None:
    table = Table("what", "figure", title=title)
    for name, figure in figures.items():
        table.add_row(name, str(figure))
    Console(stderr=True).print(table)
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


if __name__ == "__main__":
    main()
