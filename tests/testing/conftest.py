"""The test kit over the servers of this suite, without its own plug-in."""

from collections.abc import AsyncIterator

import pytest

from vidgen.queue import VideoQueue
from vidgen.resources import open_resources
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.server import SimulatorServer
from vidgen.testing import InlineWorker


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[VideoQueue]:
    async with VideoQueue(settings) as queue:
        yield queue


@pytest.fixture
async def worker(settings: Settings, simulator: SimulatorServer) -> AsyncIterator[InlineWorker]:
    clip = render("tram", seconds=1, width=320, height=180, audio=False)
    for provider in simulator.simulators.values():
        provider.generation_s, provider.clip = 0.02, clip
    async with open_resources(settings) as resources:
        yield InlineWorker(resources)
