"""
Memory and speed of large transfers: `python -m tests.bench.transfer --videos 20 --size-mb 200`.

A real worker moves so many videos at once from a simulated provider into an S3 server, each in a
process of its own; what is measured is the worker's resident memory, idle and at its peak.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import orjson
import psutil
from rich.console import Console
from rich.table import Table

from vidgen import JobStatus, VideoRequest
from vidgen.dev.stack import Stack, Worker
from vidgen.queue import VideoQueue
from vidgen.settings import Settings

SAMPLE_S = 0.05
TIMEOUT_S = 1800
MIB = 1024 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--size-mb", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidgen-bench-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        with Stack(path, durable=False, generation_s=1) as stack:
            settings = stack.settings.model_copy(
                update={
                    "concurrency": arguments.videos,
                    "transfer_concurrency": arguments.videos,
                    "lease_ttl_s": 15,
                }
            )
            with Worker(settings, path / "worker.log"):
                figures = asyncio.run(_measure(settings, arguments.videos, arguments.size_mb))
    _show(figures)


async def _measure(settings: Settings, videos: int, size_mb: int) -> dict[str, float]:
    async with VideoQueue(settings) as queue:
        await _run(queue, 1, 1)  # everything is imported and connected then
        worker = _worker()
        idle = worker.memory_info().rss
        cpu_s = sum(worker.cpu_times()[:2])
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(_run(queue, videos, size_mb))
            peak = await _peak(worker, running)
        elapsed_s = loop.time() - started
    moved_mb = videos * size_mb
    return {
        "videos": videos,
        "size_mb": size_mb,
        "idle_mib": round(idle / MIB, 1),
        "peak_mib": round(peak / MIB, 1),
        "added_mib": round((peak - idle) / MIB, 1),
        "elapsed_s": round(elapsed_s, 1),
        "mb_per_s": round(moved_mb / elapsed_s, 1),
        "cpu_ms_per_mb": round((sum(worker.cpu_times()[:2]) - cpu_s) * 1000 / moved_mb, 2),
    }


async def _run(queue: VideoQueue, videos: int, size_mb: int) -> None:
    request = VideoRequest(provider="sora", prompt=f"a tram [[sim:size {size_mb}M]]", seconds=4)
    for job in await queue.enqueue_many([request] * videos):
        done = await queue.wait(job.id, timeout=TIMEOUT_S)
        if done.status is not JobStatus.COMPLETED or done.size_bytes != size_mb * MIB:
            sys.exit(f"a video was not moved: {done}")


async def _peak(worker: psutil.Process, running: "asyncio.Task[None]") -> int:
    peak = 0
    while not running.done():
        peak = max(peak, worker.memory_info().rss)
        await asyncio.sleep(SAMPLE_S)
    return peak


def _worker() -> psutil.Process:
    [worker] = [
        child
        for child in psutil.Process().children(recursive=True)
        if "vidgen.worker.WorkerSettings" in child.cmdline() and "arq" in child.cmdline()[-2]
    ]
    return worker


def _show(figures: dict[str, float]) -> None:
    table = Table(*figures)
    table.add_row(*map(str, figures.values()))
    Console(stderr=True).print(table)
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


if __name__ == "__main__":
    main()
