"""
The world that benches and the chaos test break: real servers, real workers, proxies in between.
"""

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
from pydantic import SecretStr

from tests.bench.scorecard import Blow
from tests.conftest import environment_of
from tests.proxy import Proxy, proxy_of
from vidgen.dev.servers import PostgresServer, ValkeyServer
from vidgen.resources import Clock, bucket_of
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.server import SimulatorServer
from vidgen.storage import Storage
from vidgen.store.migrate import migrate

ARQ = Path(sys.executable).with_name("arq")
KEY = "chaos"
WAYS = {
    "database": "database_url",
    "redis": "redis_url",
    "bucket": "s3_endpoint_url",
    "sora": "openai_base_url",
    "veo": "gemini_base_url",
    "fal": "fal_base_url",
    "kling": "kling_base_url",
    "runway": "runwayml_base_url",
    "xai": "xai_base_url",
}
# Who makes videos here, and which way leads there.
PROVIDERS = {name: name for name in ("sora", "veo", "fal", "kling", "runway", "xai")} | {
    "omni": "veo"
}
STOP_TIMEOUT_S = 30
READY_TIMEOUT_S = 30


class Crew:
    """Worker processes in numbered places, each started again by whoever ends it."""

    def __init__(self, settings: Settings, folder: Path, places: int) -> None:
        self._environment = environment_of(settings)
        self._folder = folder
        self._places = places
        self._numbers = itertools.count()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._logs: dict[int, Path] = {}
        self.locks: list[asyncio.Lock] = []
        self.blows: list[Blow] = []
        self.ended_alone = 0

    async def __aenter__(self) -> Self:
        for _ in range(self._places):
            await self.hire()
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._processes.values():
            await _ended(process)

    async def hire(self) -> int:
        """The number of one more place, with a worker in it."""
        self.locks.append(asyncio.Lock())
        place = len(self.locks) - 1
        await self.start(place)
        return place

    async def start(self, place: int) -> None:
        log = self._folder / f"worker-{next(self._numbers)}.log"
        self._logs[place] = log
        with log.open("wb") as file:
            self._processes[place] = await asyncio.create_subprocess_exec(
                str(ARQ),
                "vidgen.worker.WorkerSettings",
                env=self._environment,
                stdout=file,
                stderr=asyncio.subprocess.STDOUT,
            )

    def process(self, place: int) -> psutil.Process:
        """The worker of *place*, to be measured."""
        return psutil.Process(self._processes[place].pid)

    async def ready(self, place: int) -> None:
        """Wait until the worker of *place* takes jobs."""
        async with asyncio.timeout(READY_TIMEOUT_S):
            while b'"worker ready"' not in self._logs[place].read_bytes():  # noqa: ASYNC110  a file tells nobody
                await asyncio.sleep(0.05)

    async def strike(self, place: int, number: signal.Signals) -> None:
        """Send *number*; a kill or a termination is noted with its moment."""
        process = self._processes[place]
        if process.returncode is not None:
            self.ended_alone += 1
            await self.start(place)
            return
        if number in {signal.SIGKILL, signal.SIGTERM}:
            self.note(place, number)
        process.send_signal(number)

    def note(self, place: int, number: signal.Signals) -> None:
        """From now on peers should take over what *place* holds."""
        self.blows.append(Blow(signal=number, at=Clock().now(), log=self._logs[place]))

    async def end(self, place: int) -> None:
        """Wait until the process of *place* has ended."""
        await _ended(self._processes[place])

    async def watch(self) -> None:
        """Start whoever ended by itself, as a supervisor does; until cancelled."""
        while True:
            await asyncio.sleep(1)
            for place, lock in enumerate(self.locks):
                if not lock.locked() and self._processes[place].returncode is not None:
                    self.ended_alone += 1
                    await self.start(place)


async def _ended(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """
    Everything a worker needs, in this process and below it.

    Attributes:
        settings: As this process reaches the servers.
        exposed: As the workers do: through the proxies.
        logs: Where each worker writes.
    """

    settings: Settings
    exposed: Settings
    postgres: PostgresServer
    redis: ValkeyServer
    s3: S3Server
    simulator: SimulatorServer
    proxies: dict[str, Proxy]
    logs: Path
    server_locks: dict[str, asyncio.Lock] = field(
        default_factory=lambda: {name: asyncio.Lock() for name in WAYS}
    )


@asynccontextmanager
async def open_world(folder: Path, **changes: Any) -> AsyncIterator[World]:
    """Servers with their data in *folder*; *changes* are settings."""
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(folder / "postgres", durable=False))
        redis = stack.enter_context(ValkeyServer(folder / "valkey"))
        s3 = await stack.enter_async_context(
            S3Server(folder / "s3", access_key=KEY, secret_key=KEY)
        )
        simulator = await stack.enter_async_context(SimulatorServer())
        clip = render("tram", seconds=1, width=320, height=180, audio=False)
        for name in PROVIDERS:
            simulator.simulators[name].clip = clip
        settings = Settings(**_settings(postgres, redis, s3, simulator) | changes)
        await migrate(settings.database_url)
        async with Storage.open(bucket_of(settings)) as storage:
            await storage.create_bucket()
        proxies = {
            way: await stack.enter_async_context(proxy_of(_port(getattr(settings, name))))
            for way, name in WAYS.items()
        }
        # Where they say that results lie: behind the proxy, too.
        for name, way in PROVIDERS.items():
            provider = simulator.simulators[name]
            provider.origin = provider.origin.replace(
                f":{_port(provider.origin)}", f":{proxies[way].port}"
            )
        logs = folder / "logs"
        logs.mkdir()
        yield World(
            settings=settings,
            exposed=_through(proxies, settings),
            postgres=postgres,
            redis=redis,
            s3=s3,
            simulator=simulator,
            proxies=proxies,
            logs=logs,
        )


def _settings(
    postgres: PostgresServer, redis: ValkeyServer, s3: S3Server, simulator: SimulatorServer
) -> dict[str, Any]:
    return {
        "database_url": postgres.url,
        "redis_url": redis.url,
        "s3_bucket": "videos",
        "s3_endpoint_url": s3.url,
        "s3_addressing_style": "path",
        "aws_access_key_id": KEY,
        "aws_secret_access_key": SecretStr(KEY),
        "openai_api_key": SecretStr("sk-simulated"),
        "openai_base_url": simulator.sora.url,
        "gemini_api_key": SecretStr("gemini-simulated"),
        "gemini_base_url": simulator.veo.gemini_url,
        "fal_key": SecretStr("fal-simulated"),
        "fal_base_url": simulator.simulators["fal"].origin,
        "kling_access_key": SecretStr("access"),
        "kling_secret_key": SecretStr("kling-simulated"),
        "kling_base_url": simulator.simulators["kling"].url,
        "runwayml_api_secret": SecretStr("runway-simulated"),
        "runwayml_base_url": simulator.simulators["runway"].url,
        "xai_api_key": SecretStr("xai-simulated"),
        "xai_base_url": simulator.simulators["xai"].url,
        "allow_private_addresses": True,
        "concurrency": 100,
        "rate_limit_per_min": 100_000,
        "backoff_s": 0.2,
        "poll_interval_s": 1,
        "lease_ttl_s": 4,
        "submit_timeout_s": 10,
        "shutdown_grace_s": 3,
        "progress_interval_s": 1,
        "sweep_interval_s": 0.5,
        "http_port": 0,
    }


def _through(proxies: dict[str, Proxy], settings: Settings) -> Settings:
    """*settings* with every way leading through its proxy."""
    changes = {}
    for way, name in WAYS.items():
        url = str(getattr(settings, name))
        changes[name] = url.replace(f":{_port(url)}", f":{proxies[way].port}")
    return settings.model_copy(update=changes)


def _port(url: object) -> int:
    port = urlsplit(str(url)).port
    assert port is not None  # all of ours have one
    return port
