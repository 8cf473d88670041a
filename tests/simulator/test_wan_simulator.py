"""The official dashscope SDK, which knows nothing of vidgen, judges the simulated Wan."""

import importlib
from asyncio import to_thread
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from vidgen.simulator import Rule, SimulatorServer
from vidgen.simulator.control import ProviderSimulator

WANTED = {
    "model": "wan3.0-video",
    "prompt": "a kite",
    "resolution": "720P",
    "ratio": "16:9",
    "duration": 5,
}


@pytest.fixture
async def wan() -> AsyncIterator[ProviderSimulator]:
    async with SimulatorServer(generation_s=0, only={"wan"}) as server:
        simulator = server.simulators["wan"]
        simulator.clip = b"a clip"
        yield simulator


@pytest.fixture
def videos(wan: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> Any:
    """
    The SDK's own class for videos, as it waits for answers; the other one leaves connections open.

    Imported by those who want it, as it takes a second.
    """
    dashscope = importlib.import_module("dashscope")
    monkeypatch.setattr(dashscope, "base_http_api_url", f"{wan.origin}/api/v1")
    monkeypatch.setattr(dashscope, "api_key", "key")
    return importlib.import_module("dashscope.aigc.video_synthesis").VideoSynthesis


async def test_the_sdk_creates_waits_and_gets_the_video(
    wan: ProviderSimulator, videos: Any
) -> None:
    begun = await to_thread(videos.async_call, **WANTED)
    assert (begun.status_code, begun.output.task_status) == (200, "PENDING")

    done = await to_thread(videos.wait, begun)

    assert (done.output.task_status, done.usage.video_count) == ("SUCCEEDED", 1)
    async with aiohttp.ClientSession() as session, session.get(done.output.video_url) as answer:
        assert await answer.read() == b"a clip"
    [charge] = wan.bill
    assert (charge.prompt, charge.seconds, charge.cost_micros) == ("a kite", 5, 500_000)


async def test_a_task_on_its_way_is_listed_and_cancelled_as_long_as_it_waits(
    wan: ProviderSimulator, videos: Any
) -> None:
    wan.generation_s = 600
    begun = await to_thread(videos.async_call, **WANTED)

    listed = await to_thread(videos.list)
    stopped = await to_thread(videos.cancel, begun)

    assert [each["task_id"] for each in listed.output["data"]] == [begun.output.task_id]
    assert stopped.status_code == 200
    gone = await to_thread(videos.fetch, begun)
    assert gone.output.task_status == "UNKNOWN"


async def test_a_failure_tells_its_code(wan: ProviderSimulator, videos: Any) -> None:
    wan.script(Rule(deed="poll", outcome="moderation"))

    ended = await to_thread(videos.fetch, await to_thread(videos.async_call, **WANTED))

    assert (ended.output.task_status, ended.output["code"]) == ("FAILED", "DataInspectionFailed")


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        ("400", 400, "InvalidParameter"),
        ("401", 401, "InvalidApiKey"),
        ("429", 429, "Throttling.RateQuota"),
        ("429-insufficient-quota", 429, "Arrearage"),
        ("503", 503, "ServiceUnavailable"),
    ],
)
async def test_refusals_are_told_by_status_and_code(
    wan: ProviderSimulator, videos: Any, outcome: str, status: int, code: str
) -> None:
    wan.script(Rule(deed="submit", outcome=outcome))

    refused = await to_thread(videos.async_call, **WANTED)

    assert (refused.status_code, refused.code) == (status, code)
    assert wan.bill == []
