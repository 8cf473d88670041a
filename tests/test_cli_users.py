"""`vidgen forget`: asks before, tells what goes, and leaves no name in the record."""

import asyncio

import pytest

from tests.journeys.conftest import StartWorker, start_worker
from tests.test_cli import Program, audited, queue, vidgen
from vidgen.job import JobStatus, VideoRequest
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.server import SimulatorServer
from vidgen.store.erasure import pseudonym

__all__ = ["queue", "start_worker", "vidgen"]

REQUEST = VideoRequest(provider="sora", prompt="a tram in the rain", seconds=4)


async def test_a_dry_run_tells_and_does_nothing(vidgen: Program, queue: VideoQueue) -> None:
    job = await queue.enqueue(REQUEST, user_id="alice")

    said = await vidgen("forget", "alice", "--dry-run")
    as_json = await vidgen("forget", "alice", "--dry-run", "--json")

    assert (said.code, said.out) == (
        0,
        "1 jobs, 0 videos, 1 events, 0 deliveries, 0 inputs, 0 keys; 1 jobs still run\n",
    )
    assert as_json.document["jobs"] == 1
    assert as_json.document["dry_run"] is True
    assert (await queue.get(job.id)).status is JobStatus.PENDING
    assert await audited(vidgen) == []


async def test_without_a_terminal_somebody_has_to_say_yes(
    vidgen: Program, queue: VideoQueue
) -> None:
    job = await queue.enqueue(REQUEST, user_id="alice")

    said = await vidgen("forget", "alice")

    assert said.code == 2
    assert "--yes or --dry-run" in said.err
    assert (await queue.get(job.id)).status is JobStatus.PENDING


async def test_yes_cancels_at_once_and_the_record_keeps_no_name(
    vidgen: Program, queue: VideoQueue
) -> None:
    job = await queue.enqueue(REQUEST, user_id="alice")

    said = await vidgen("forget", "alice", "--yes", "--json")

    assert said.code == 0
    assert (said.document["running"], said.document["dry_run"]) == (1, False)
    assert said.document["asked_at"]
    assert (await queue.get(job.id)).status is JobStatus.CANCELLED
    [entry] = await audited(vidgen)
    assert (entry["action"], entry["target"]) == ("forget", pseudonym("alice"))
    assert "alice" not in str(entry)


@pytest.mark.timeout(120)
async def test_wait_comes_back_when_nothing_is_left(
    vidgen: Program,
    queue: VideoQueue,
    settings: Settings,
    start_worker: StartWorker,
    simulator: SimulatorServer,
) -> None:
    simulator.sora.generation_s = 0.1
    simulator.sora.clip = render("tram", seconds=1, width=320, height=180, audio=False)
    await start_worker(settings)
    job = await queue.enqueue(REQUEST, user_id="alice")
    async with asyncio.timeout(30):
        await queue.wait(job.id)

    said = await vidgen("forget", "alice", "--yes", "--wait")

    assert said.code == 0
    assert said.out.startswith("1 jobs, 1 videos, ")
    assert (await queue.forget("alice", dry_run=True)).jobs == 0
