"""Many videos are looked at with one list; what a list cannot say is asked one by one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from tests.pipeline.conftest import Carrier, carrying
from tests.pipeline.test_credentials import change
from tests.pipeline.test_failures import SORA, VEO, a_rule, quick
from vidgen import JobStatus, VideoJob, VideoRequest, schedule
from vidgen.pipeline import lookout
from vidgen.resources import open_resources
from vidgen.settings import Settings
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]

MANY = 30
GENERATION_S = 1.5
PATIENCE_S = 15


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"poll_interval_s": 0.1})


@pytest.fixture(autouse=True)
def slow(quick: None, simulator: SimulatorServer) -> None:
    for provider in simulator.simulators.values():
        provider.generation_s = GENERATION_S


async def made(carrier: Carrier, request: VideoRequest, count: int = MANY) -> list[VideoJob]:
    jobs = [
        await carrier.enqueue(replace(request, prompt=f"{request.prompt} {number}"))
        for number in range(count)
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(carrier.finish(job)) for job in jobs]
    return [task.result() for task in tasks]


async def test_one_list_answers_for_many(carrier: Carrier, simulator: SimulatorServer) -> None:
    jobs = await made(carrier, SORA)

    assert {(job.status, job.attempt) for job in jobs} == {(JobStatus.COMPLETED, 1)}
    counts = simulator.sora.counts
    assert counts["list"] > 0
    # Each by itself would have asked about ten times.
    assert counts["poll"] + counts["list"] < MANY * 5


async def test_two_videos_are_not_worth_a_list(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    await made(carrier, SORA, count=2)

    assert simulator.sora.counts["list"] == 0


async def test_a_provider_without_a_list_is_asked_one_by_one(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    jobs = await made(carrier, VEO, count=5)

    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    assert simulator.veo.counts["poll"] > 5


async def test_a_worker_learns_at_once_from_its_own_videos(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.veo.generation_s = 0.8
    await made(carrier, VEO, count=schedule.ENOUGH_SAMPLES + 5)
    before = simulator.veo.counts["poll"]

    await made(carrier, VEO, count=3)

    # In even steps each would be looked at eight times.
    assert simulator.veo.counts["poll"] - before <= 3 * 6


async def looks_at_one(carrier: Carrier, simulator: SimulatorServer, *, called: bool) -> int:
    """How often a video is looked at about whose end the provider calls, or does not."""
    before = simulator.veo.counts["poll"]
    job = await carrier.enqueue(VEO)
    async with asyncio.TaskGroup() as group:
        carrying_on = group.create_task(carrier.finish(job))
        async with asyncio.timeout(PATIENCE_S):
            while called and not carrying_on.done():
                if any(each.is_due() for each in simulator.veo.generations.values()):
                    carrier.call(job)
                await asyncio.sleep(0.01)
    assert carrying_on.result().status is JobStatus.COMPLETED
    simulator.veo.generations.clear()
    return simulator.veo.counts["poll"] - before


async def test_who_is_called_by_the_provider_looks_no_more_until_a_call_is_lost(
    carrier: Carrier, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.veo.generation_s = 0.05
    change(carrier.resources, poll_interval_s=60)
    for _ in range(lookout.CALLS_IN_A_ROW):
        await looks_at_one(carrier, simulator, called=True)
    change(carrier.resources, poll_interval_s=0.1)
    simulator.veo.generation_s = 0.5

    told = await looks_at_one(carrier, simulator, called=True)
    monkeypatch.setattr(lookout, "CALLED_LOOK_S", 0.3)
    await looks_at_one(carrier, simulator, called=False)
    untold = await looks_at_one(carrier, simulator, called=False)

    assert told == 1
    assert untold > 3


@pytest.mark.parametrize(
    "rule", ["list 404", "list html", "list not-json", "list huge", "list json-list"]
)
async def test_a_list_that_is_no_use_is_asked_for_once(
    carrier: Carrier, simulator: SimulatorServer, rule: str
) -> None:
    simulator.sora.script(a_rule(rule))

    jobs = await made(carrier, SORA, count=5)

    assert {(job.status, job.attempt) for job in jobs} == {(JobStatus.COMPLETED, 1)}
    assert simulator.sora.counts["list"] == 1


async def test_a_list_that_lacks_our_videos_is_given_up(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("list hidden 60s"))

    jobs = await made(carrier, SORA, count=5)

    assert {(job.status, job.attempt) for job in jobs} == {(JobStatus.COMPLETED, 1)}
    assert 1 <= simulator.sora.counts["list"] <= lookout.FRUITLESS_LISTS


@pytest.mark.parametrize("rule", ["list 503", "list disconnect", "list 429-retry-after"])
async def test_a_list_that_fails_for_now_costs_no_video(
    carrier: Carrier, simulator: SimulatorServer, rule: str
) -> None:
    simulator.sora.script(a_rule(rule, times=2))

    jobs = await made(carrier, SORA, count=5)

    assert {(job.status, job.attempt) for job in jobs} == {(JobStatus.COMPLETED, 1)}


async def test_what_a_list_calls_failed_is_looked_at_before_it_is_believed(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll moderation"))

    jobs = await made(carrier, SORA, count=5)

    assert {(job.status, job.error_code) for job in jobs} == {(JobStatus.FAILED, "content_blocked")}
    assert simulator.sora.counts["poll"] >= 5


@asynccontextmanager
async def gateway(origin: str, lists: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """The address of a gateway before *origin* that answers with what *lists* makes of a list."""

    async def pass_on(request: web.Request) -> web.Response:
        is_list = request.method == "GET" and request.path == "/v1/videos"
        async with session.request(
            request.method,
            f"{origin}{request.path_qs}",
            data=await request.read(),
            headers={"Authorization": "Bearer sk-simulated", "Content-Type": "application/json"},
        ) as answer:
            body = await answer.read()
        if is_list:
            body = lists(body)
        return web.Response(status=answer.status, body=body, content_type=answer.content_type)

    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", pass_on)
    async with ClientSession() as session, TestServer(app) as server:
        yield str(server.make_url("/v1"))


async def test_a_list_that_stands_still_hides_no_finished_video(
    settings: Settings, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "OWN_LOOK_EVERY_S", 0.5)
    kept: list[bytes] = []

    def as_at_first(listed: bytes) -> bytes:
        kept.append(listed)
        return kept[0]

    async with (
        gateway(simulator.sora.url.removesuffix("/v1"), as_at_first) as url,
        open_resources(settings.model_copy(update={"openai_base_url": url})) as resources,
        carrying(resources) as carrier,
    ):
        jobs = await made(carrier, SORA, count=5)

    assert {job.status for job in jobs} == {JobStatus.COMPLETED}
    assert simulator.sora.counts["list"] >= 1


async def test_a_list_that_keeps_calling_a_running_video_failed_is_doubted_once(
    settings: Settings, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "list_in_s", lambda *_: 0.1)
    simulator.sora.generation_s = 60.0
    videos, enough, lists = 40, asyncio.Event(), 0

    def gloomy(listed: bytes) -> bytes:
        nonlocal lists
        lists += 1
        if lists == 12:
            enough.set()
        return listed.replace(b'"in_progress"', b'"failed"').replace(b'"queued"', b'"failed"')

    async with (
        gateway(simulator.sora.url.removesuffix("/v1"), gloomy) as url,
        open_resources(
            settings.model_copy(update={"openai_base_url": url, "poll_interval_s": 1.0})
        ) as resources,
        carrying(resources) as carrier,
        asyncio.TaskGroup() as group,
    ):
        carried = group.create_task(made(carrier, SORA, count=videos))
        async with asyncio.timeout(PATIENCE_S):
            await enough.wait()
        carried.cancel()

    assert videos < simulator.sora.counts["poll"] < videos * lists / 2
