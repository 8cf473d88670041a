"""
Thousands of videos in flight in one process: `python -m tests.bench.inflight --videos 1000`.

So many at once, each generated in a minute, each of 2 MB, moved into a bucket by one worker on one
core; provider and bucket are plain protocols in a process of their own, on another. The same work
by plain arq, aiohttp and aiobotocore (`tests.bench.plain`) is measured in the same call, and the
figures of both are set side by side.

    CPU         of the worker from the first video to the last, per video
    memory      resident, at its peak
    commands    of Redis, per video; transactions of PostgreSQL likewise
    questions   to the provider about a video's status: looks, and pages of lists
    lag         from the moment a video is ready to the moment it is in the bucket
"""

import argparse
import asyncio
import math
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import asyncpg
import orjson
import psutil
from arq import create_pool
from arq.connections import RedisSettings
from pydantic import SecretStr
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from tests.bench import plain
from tests.bench.scorecard import percentile
from tests.bench.wire import Telling, clip_of
from tests.conftest import environment_of
from tests.server.test_app import free_port
from vidgen import VideoRequest
from vidgen.dev.servers import PostgresServer, ValkeyServer
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.store.migrate import migrate

Peer = Literal["vidgen", "plain"]

ARQ = Path(sys.executable).with_name("arq")
MODULES: dict[Peer, str] = {
    "vidgen": "vidgen.worker.WorkerSettings",
    "plain": "tests.bench.plain.WorkerSettings",
}
KEY = "bench"
MIB = 1024 * 1024
SAMPLE_S = 0.25
LOOK_S = 0.5
READY_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """
    What one worker took for one batch; lag in seconds.

    Attributes:
        load: Of the machine over the last minute; a busy one makes lag longer than it is.
    """

    peer: Peer
    videos: int
    cpu_ms: float
    peak_mib: float
    redis_commands: float
    transactions: float
    questions: float
    lag_mean: float
    lag_p50: float
    lag_p95: float
    lag_max: float
    elapsed_s: float
    load: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--generation-s", type=float, default=60.0)
    parser.add_argument("--sigma", type=float, default=0.0, help="spread of the generation time")
    parser.add_argument("--drift", type=float, default=0.0, help="growth of it per 1,000 videos")
    parser.add_argument("--warm-up", type=int, default=0, help="videos made before, to learn from")
    parser.add_argument("--no-list", action="store_true", help="a provider that cannot list")
    parser.add_argument("--progress", choices=get_args(Telling), default="even")
    parser.add_argument("--size-mb", type=float, default=2.0)
    parser.add_argument("--interval-s", type=float, default=5.0)
    parser.add_argument("--transfers", type=int, default=16)
    parser.add_argument("--only", choices=["vidgen", "plain"])
    parser.add_argument("--profile", type=Path, help="where py-spy writes what vidgen's worker did")
    arguments = parser.parse_args()
    peers: Sequence[Peer] = [arguments.only] if arguments.only else ["vidgen", "plain"]
    table = Table(*[each.name.replace("_", " ") for each in fields(Figures)], title="in flight")
    for videos in arguments.videos:
        measured = []
        for peer in peers:
            figures = _in_a_folder(peer, videos, arguments)
            measured.append(figures)
            table.add_row(*[str(figure) for figure in asdict(figures).values()])
            sys.stdout.write(orjson.dumps(figures).decode() + "\n")
            sys.stdout.flush()
        if len(measured) == 2:
            table.add_row("ratio", str(videos), *_ratios(*measured), end_section=True)
    Console(stderr=True, width=160).print(table)


def _ratios(ours: Figures, theirs: Figures) -> list[str]:
    pairs = list(zip(asdict(ours).values(), asdict(theirs).values(), strict=True))[2:]
    return [f"{one / other:.2f}" if other else "" for one, other in pairs]


def _in_a_folder(peer: Peer, videos: int, arguments: argparse.Namespace) -> Figures:
    with tempfile.TemporaryDirectory(prefix="vidgen-inflight-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        return asyncio.run(_measure(folder, peer, videos, arguments))


async def _measure(folder: Path, peer: Peer, videos: int, arguments: argparse.Namespace) -> Figures:
    with (
        PostgresServer(folder / "postgres", durable=False) as postgres,
        ValkeyServer(folder / "valkey") as redis,
    ):
        async with _wire(folder, arguments) as address:
            settings = _settings(postgres.url, redis.url, address, videos, arguments)
            await migrate(settings.database_url)
            async with _worker(peer, settings, folder) as worker:
                if arguments.warm_up:
                    await _carry(peer, settings, arguments.warm_up)
                    await asyncio.to_thread(_ask, f"{address}/reset")
                return await _watched(peer, settings, worker, address, videos, arguments)


async def _watched(
    peer: Peer,
    settings: Settings,
    worker: psutil.Process,
    address: str,
    videos: int,
    arguments: argparse.Namespace,
) -> Figures:
    loop = asyncio.get_running_loop()
    before = await _counted(settings)
    cpu_s, started = _cpu_s(worker), loop.time()
    spy = _spied(worker, arguments.profile) if peer == "vidgen" else None
    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(_carry(peer, settings, videos))
        peak = 0
        while not carrying.done():
            peak = max(peak, worker.memory_info().rss)
            await asyncio.sleep(SAMPLE_S)
    elapsed_s, cpu_ms = loop.time() - started, (_cpu_s(worker) - cpu_s) * 1000
    if spy is not None:
        spy.send_signal(signal.SIGINT)  # then it writes
        spy.wait(timeout=60)
    after = await _counted(settings)
    figures = orjson.loads(await asyncio.to_thread(_ask, f"{address}/figures"))
    lags = sorted(await _lags(peer, settings, figures))
    p50, p95 = percentile(lags, 50), percentile(lags, 95)
    assert p50 is not None, "no video was stored"
    assert p95 is not None
    asked = figures["asked"]
    assert asked["submit"] == videos, f"{asked['submit']} submits for {videos} videos"
    return Figures(
        peer=peer,
        videos=videos,
        cpu_ms=round(cpu_ms / videos, 2),
        peak_mib=round(peak / MIB, 1),
        redis_commands=round((after[0] - before[0]) / videos, 1),
        transactions=round((after[1] - before[1]) / videos, 1),
        questions=round((asked.get("poll", 0) + asked.get("list", 0)) / videos, 2),
        lag_mean=round(math.fsum(lags) / len(lags), 2),
        lag_p50=round(p50, 2),
        lag_p95=round(p95, 2),
        lag_max=round(lags[-1], 2),
        elapsed_s=round(elapsed_s, 1),
        load=round(psutil.getloadavg()[0], 1),
    )


@asynccontextmanager
async def _wire(folder: Path, arguments: argparse.Namespace) -> AsyncIterator[str]:
    """The address of provider and bucket."""
    clip = folder / "clip.mp4"
    clip.write_bytes(clip_of(round(arguments.size_mb * 1_000_000)))
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.wire", "--port", str(port), "--clip", str(clip)]
    command += ["--median-s", str(arguments.generation_s)]
    command += ["--sigma", str(arguments.sigma), "--drift", str(arguments.drift)]
    command += ["--progress", arguments.progress]
    command += ["--no-list"] if arguments.no_list else []
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None  # asked for above
    try:
        assert await process.stdout.readline() == b"ready\n"
        _pin(psutil.Process(process.pid), last=True)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _worker(peer: Peer, settings: Settings, folder: Path) -> AsyncIterator[psutil.Process]:
    log = folder / "worker.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            str(ARQ),
            MODULES[peer],
            env=environment_of(settings) | {"PYTHONPATH": str(Path.cwd())},
            stdout=file,
            stderr=asyncio.subprocess.STDOUT,
        )
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while b'"worker ready"' not in log.read_bytes():  # noqa: ASYNC110  a file tells nobody
                await asyncio.sleep(0.05)
        worker = psutil.Process(process.pid)
        _pin(worker, last=False)
        yield worker
    finally:
        if process.returncode is not None:  # by itself, or out of memory
            sys.stderr.write(f"{peer} ended with {process.returncode}\n")
            sys.stderr.write(log.read_text()[-2000:])
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _settings(
    database_url: str, redis_url: str, address: str, videos: int, arguments: argparse.Namespace
) -> Settings:
    return Settings(
        database_url=database_url,
        redis_url=redis_url,
        s3_bucket="videos",
        s3_endpoint_url=address,
        s3_addressing_style="path",
        aws_access_key_id=KEY,
        aws_secret_access_key=SecretStr(KEY),
        openai_api_key=SecretStr("sk-bench"),
        openai_base_url=f"{address}/v1",
        allow_private_addresses=True,
        concurrency=max(videos, arguments.warm_up),
        transfer_concurrency=arguments.transfers,
        poll_interval_s=arguments.interval_s,
        rate_limit_per_min=1_000_000,
        http_port=0,
    )


async def _carry(peer: Peer, settings: Settings, videos: int) -> None:
    """Ask for the videos and wait until all are stored."""
    if peer == "vidgen":
        await _carry_ours(settings, videos)
    else:
        await _carry_plain(settings, videos)


async def _carry_ours(settings: Settings, videos: int) -> None:
    async with VideoQueue(settings) as queue:
        begun = (await queue.stats()).completed
        request = VideoRequest(provider="sora", prompt="a tram", seconds=4, size="1280x720")
        await queue.enqueue_many([request] * videos)
        while (counts := await queue.stats()).completed < begun + videos:
            assert not counts.failed, f"videos failed: {await _failures(settings)}"
            await asyncio.sleep(LOOK_S)


async def _failures(settings: Settings) -> list[str]:
    connection = await asyncpg.connect(settings.database_url, timeout=10, command_timeout=30)
    try:
        rows = await connection.fetch(
            "SELECT concat_ws(' ', stage, attempt, error_code, error_message) FROM video_jobs"
            " WHERE status = 'failed'"
        )
    finally:
        await connection.close(timeout=10)
    return [row[0] for row in rows]


async def _carry_plain(settings: Settings, videos: int) -> None:
    connection = await asyncpg.connect(settings.database_url, timeout=10, command_timeout=60)
    redis = await create_pool(
        RedisSettings.from_dsn(settings.redis_url.rstrip("/")),
        job_serializer=orjson.dumps,
        job_deserializer=orjson.loads,
    )
    try:
        await connection.execute(plain.SCHEMA)
        begun = await connection.fetchval("SELECT count(*) FROM plain_jobs")
        names = [f"job-{number}" for number in range(begun, begun + videos)]
        await connection.executemany(
            "INSERT INTO plain_jobs (id, status) VALUES ($1, 'waiting')",
            [(each,) for each in names],
        )
        for name in names:
            await redis.enqueue_job("generate", name)
        statement = "SELECT count(*) FROM plain_jobs WHERE status = 'completed'"
        while await connection.fetchval(statement) < begun + videos:  # noqa: ASYNC110  rows tell nobody
            await asyncio.sleep(LOOK_S)
    finally:
        await redis.aclose()
        await connection.close(timeout=10)


async def _counted(settings: Settings) -> tuple[int, int]:
    """Commands of Redis and transactions of PostgreSQL so far."""
    async with Redis.from_url(settings.redis_url) as redis:
        commands = int((await redis.info("stats"))["total_commands_processed"])
    connection = await asyncpg.connect(settings.database_url, timeout=10, command_timeout=30)
    try:
        # Others tell their figures once they have been idle for a moment.
        await asyncio.sleep(1.5)
        transactions = await connection.fetchval(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database"
            " WHERE datname = current_database()"
        )
    finally:
        await connection.close(timeout=10)
    return commands, transactions


async def _lags(peer: Peer, settings: Settings, figures: dict[str, Any]) -> list[float]:
    statement = (
        "SELECT operation ->> 'id', storage_key FROM video_jobs WHERE status = 'completed'"
        if peer == "vidgen"
        else "SELECT video_id, storage_key FROM plain_jobs"
    )
    connection = await asyncpg.connect(settings.database_url, timeout=10, command_timeout=30)
    try:
        rows = await connection.fetch(statement)
    finally:
        await connection.close(timeout=10)
    stored, ready = figures["stored"], figures["videos"]
    places = {video: f"/{settings.s3_bucket}/{key}" for video, key in rows}
    return [stored[place] - ready[video][1] for video, place in places.items() if place in stored]


def _spied(worker: psutil.Process, path: Path | None) -> subprocess.Popen[bytes] | None:
    if path is None:
        return None
    spy = Path(sys.executable).with_name("py-spy")
    command = [str(spy), "record", "--pid", str(worker.pid), "--format", "raw", "-o", str(path)]
    return subprocess.Popen([*command, "--rate", "200"])


def _pin(process: psutil.Process, *, last: bool) -> None:
    """The worker has a core of its own, where there is more than one."""
    cores = psutil.cpu_count() or 1
    if hasattr(process, "cpu_affinity") and cores > 1:
        process.cpu_affinity([cores - 1 if last else 0])


def _cpu_s(process: psutil.Process) -> float:
    return math.fsum(process.cpu_times()[:2])


def _ask(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  our own
        body: bytes = answer.read()
        return body


if __name__ == "__main__":
    main()
