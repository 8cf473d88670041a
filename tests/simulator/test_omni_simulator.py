"""The official google-genai SDK judges the simulated interactions of Gemini Omni."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google import genai
from google.genai import types

from vidgen.simulator import SimulatorServer
from vidgen.simulator.control import ProviderSimulator

CLIP = bytes(range(256)) * 200
# google-genai 2.34 with aiohttp 3.14
pytestmark = pytest.mark.filterwarnings(
    "ignore:Inheritance class AiohttpClientSession:DeprecationWarning"
)
WANTED: dict[str, Any] = {
    "model": "gemini-omni-1.1-flash",
    "input": "a kite",
    "response_format": {
        "type": "video",
        "delivery": "uri",
        "duration": "4s",
        "resolution": "720p",
        "aspect_ratio": "16:9",
    },
    "generation_config": {"video_config": {"task": "text_to_video"}},
}


@pytest.fixture
async def omni() -> AsyncIterator[ProviderSimulator]:
    async with SimulatorServer(generation_s=0) as server:
        simulator = server.simulators["omni"]
        simulator.clip = CLIP
        yield simulator


@pytest.fixture
async def client(omni: ProviderSimulator) -> AsyncIterator[Any]:
    found = genai.Client(
        api_key="AIza-test",
        vertexai=False,
        http_options=types.HttpOptions(base_url=omni.origin, api_version="v1beta", timeout=5000),
    )
    async with found.aio as asynchronous:
        yield asynchronous.interactions
    found.close()


async def test_in_the_background_the_receipt_comes_at_once(
    omni: ProviderSimulator, client: Any
) -> None:
    omni.generation_s = 60
    receipt = await client.create(**WANTED, background=True, store=True)
    assert receipt.status == "in_progress"
    omni.generations[receipt.id].ready_at = 0

    done = await client.get(receipt.id)

    assert done.status == "completed"
    assert base64.b64decode(done.output_video.data) == CLIP
    assert [charge.seconds for charge in omni.bill] == [4]
    assert done.usage.output_tokens_by_modality[0].tokens == 4 * 5792


async def test_without_it_the_answer_has_the_address(client: Any) -> None:
    done = await client.create(**WANTED)

    assert done.status == "completed"
    assert done.output_video.uri.endswith(f"files/omni-{done.id}:download?alt=media")


async def test_a_running_one_can_be_cancelled(omni: ProviderSimulator, client: Any) -> None:
    omni.generation_s = 60
    receipt = await client.create(**WANTED, background=True)

    assert (await client.cancel(receipt.id)).status == "cancelled"


@pytest.mark.parametrize("verdict", ["failed", "moderation", "filtered", "cancelled"])
async def test_each_end_is_one_that_the_sdk_knows(client: Any, verdict: str) -> None:
    receipt = await client.create(
        **WANTED | {"input": f"a kite [[sim:{verdict}]]"}, background=True
    )

    ended = await client.get(receipt.id)

    assert ended.status == ("cancelled" if verdict == "cancelled" else "failed")
    assert ended.output_video is None
