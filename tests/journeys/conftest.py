"""Real workers, started as an operator starts them."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Self

import orjson
import pytest

from tests.conftest import environment_of
from vidgen.job import Stage
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.simulator.server import SimulatorServer

ARQ = Path(sys.executable).with_name("arq")
READY_TIMEOUT_S = 40
STOP_TIMEOUT_S = 20
FAR_S = 600.0  # no video is done before `finish_all` says so


class WorkerProcess:
    """`arq vidgen.worker.WorkerSettings` with *settings* and *more* as its whole environment."""

    def __init__(self, settings: Settings, **more: str) -> None:
        self._environment = environment_of(settings) | more
        self._process: asyncio.subprocess.Process
        self._reader: asyncio.Task[None]
        self._ready = asyncio.Event()
        self.lines: list[dict[str, Any]] = []
        self.noise: list[str] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            str(ARQ),
            "vidgen.worker.WorkerSettings",
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._reader = self._group.create_task(self._read())
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self._ready.wait()
        except TimeoutError:
            await self.stop()
            pytest.fail(f"the worker did not get ready: {self.lines} {self.noise}")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it in good order; its exit code."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                code = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            pytest.fail(f"the worker did not stop: {self.lines[-5:]} {self.noise}")
        await self._group.__aexit__(None, None, None)
        return code

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def id(self) -> str:
        """As it calls itself in the database."""
        worker_id: str = self.said("worker ready")[0]["workerId"]
        return worker_id

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def said(self, message: str) -> list[dict[str, Any]]:
        """Its log lines with this message."""
        return [line for line in self.lines if line["message"] == message]

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for raw in self._process.stdout:
            try:
                line = orjson.loads(raw)
            except orjson.JSONDecodeError:
                self.noise.append(raw.decode(errors="replace").rstrip())
                continue
            self.lines.append(line)
            if line["message"] == "worker ready":
                self._ready.set()


StartWorker = Callable[..., Any]


def finish_all(simulator: SimulatorServer) -> None:
    """Let every video that is being generated be ready."""
    for generation in simulator.sora.generations.values():
        generation.ready_at = generation.created_at


async def all_generating(queue: VideoQueue, count: int) -> None:
    """Wait until the newest *count* jobs have their receipts, and none is done."""
    async with asyncio.timeout(20):
        while True:
            stages = [job.stage for job in await queue.recent(limit=count)]
            if stages == [Stage.GENERATING] * count:
                return
            await asyncio.sleep(0.02)


@pytest.fixture
async def start_worker() -> AsyncIterator[StartWorker]:
    """Start workers that end with the test."""
    async with AsyncExitStack() as stack:

        async def start(settings: Settings, **more: str) -> WorkerProcess:
            return await stack.enter_async_context(WorkerProcess(settings, **more))

        yield start


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[VideoQueue]:
    """The client's side."""
    async with VideoQueue(settings) as queue:
        yield queue
