"""A worker without arq: whoever is due is carried."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from tests.conftest import SHARED, in_its_own_task, no_connection_left
from vidgen import VideoJob, VideoRequest
from vidgen.dev.servers import PostgresServer
from vidgen.dispatch import Dispatch
from vidgen.live import Wakes
from vidgen.pipeline import sweep
from vidgen.pipeline.carry import carry
from vidgen.pipeline.leases import Leases
from vidgen.pipeline.lookout import Lookout
from vidgen.queue import VideoQueue
from vidgen.resources import Resources, open_resources
from vidgen.settings import Settings

FINISH_TIMEOUT_S = 30
LONGEST_NAP_S = 0.02


class Carrier:
    """Carries jobs as the worker's coroutine does."""

    def __init__(self, resources: Resources, leases: Leases, wakes: Wakes) -> None:
        self.resources = resources
        self.leases = leases
        self.lookout = Lookout(resources, leases, wakes)
        self._wakes = wakes
        self.queue = VideoQueue.sharing(resources.settings, resources.database, resources.redis)

    async def enqueue(self, request: VideoRequest) -> VideoJob:
        return await self.queue.enqueue(request)

    async def carry(self, job: VideoJob) -> VideoJob:
        """Take *job* as far as it goes in one go."""
        dispatch = Dispatch(job_id=job.id, epoch=job.lease_epoch)
        with self._wakes.expected(job.id):
            await carry(self.resources, self.leases, self.lookout, dispatch)
        return await self.queue.get(job.id)

    async def finish(self, job: VideoJob) -> VideoJob:
        """Carry *job* again whenever it is due, until it is final."""
        async with asyncio.timeout(FINISH_TIMEOUT_S):
            while not job.is_final:
                job = await self.carry(job)
                if job.due_at is not None:
                    wait_s = (job.due_at - self.resources.clock.now()) / timedelta(seconds=1)
                    await asyncio.sleep(min(max(wait_s, 0), LONGEST_NAP_S))
        return job

    def call(self, job: VideoJob) -> None:
        """As if the provider had called about *job*."""
        self._wakes.wake(job.id)

    async def sweep(self) -> None:
        await sweep.sweep(self.resources, self.leases)


@pytest.fixture
async def database_url(
    postgres_server: PostgresServer, emptied_database_url: str
) -> AsyncIterator[str]:
    """No test here touches the schema, so one database serves all; connections left open fail."""
    yield emptied_database_url
    await no_connection_left(postgres_server, SHARED)


@pytest.fixture
async def resources(settings: Settings) -> AsyncIterator[Resources]:
    async with open_resources(settings) as resources:
        yield resources


@pytest.fixture
async def carrier(resources: Resources) -> AsyncIterator[Carrier]:
    """One worker, with its heartbeat."""
    async with carrying(resources) as carrier:
        yield carrier


@asynccontextmanager
async def carrying(resources: Resources) -> AsyncIterator[Carrier]:
    """A worker over *resources*, for the length of the context."""
    async with in_its_own_task(_carrying(resources)) as carrier:
        yield carrier


@asynccontextmanager
async def _carrying(resources: Resources) -> AsyncIterator[Carrier]:
    async with asyncio.TaskGroup() as group:
        leases = Leases(resources, group)
        await leases.join()
        carrier = Carrier(resources, leases, Wakes())
        loops = [group.create_task(leases.run()), group.create_task(carrier.lookout.run())]
        yield carrier
        for loop in loops:
            loop.cancel()
    await leases.leave()
