"""The official lumaai SDK, which knows nothing of vidgen, judges the simulated Luma API."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from vidgen.simulator import Rule, SimulatorServer
from vidgen.simulator.control import ProviderSimulator
from vidgen.simulator.luma import address

lumaai: Any = pytest.importorskip("lumaai", reason="the SDK is not installed")
WANTED = {"model": "ray-2", "prompt": "a kite", "resolution": "720p", "duration": "5s"}


@pytest.fixture
async def luma() -> AsyncIterator[ProviderSimulator]:
    async with SimulatorServer(generation_s=0) as server:
        simulator = server.simulators["luma"]
        simulator.clip = b"a clip"
        yield simulator


@pytest.fixture
async def client(luma: ProviderSimulator) -> AsyncIterator[Any]:
    async with lumaai.AsyncLumaAI(
        auth_token="key", base_url=address(luma), max_retries=0, timeout=5
    ) as client:
        yield client


async def test_the_sdk_creates_and_looks(luma: ProviderSimulator, client: Any) -> None:
    luma.generation_s = 60
    begun = await client.generations.video.create(**WANTED)
    assert (begun.state, begun.model, begun.request.prompt) == ("queued", "ray-2", "a kite")
    luma.generations[begun.id].created_at -= 30
    assert (await client.generations.get(begun.id)).state == "dreaming"
    luma.generations[begun.id].ready_at = 0

    done = await client.generations.get(begun.id)

    assert done.state == "completed"
    again = await client.generations.get(begun.id)
    assert again.assets.video != done.assets.video  # a fresh address with each look
    answer = await client._client.get(again.assets.video)
    assert answer.content == b"a clip"


async def test_a_failure_tells_its_reason(luma: ProviderSimulator, client: Any) -> None:
    luma.script(Rule(deed="poll", outcome="moderation"))
    begun = await client.generations.video.create(**WANTED)

    ended = await client.generations.get(begun.id)

    assert ended.state == "failed"
    assert "moderation" in ended.failure_reason


async def test_the_list_pages_by_offset_with_the_newest_first(
    luma: ProviderSimulator, client: Any
) -> None:
    made = [(await client.generations.video.create(**WANTED)).id for _ in range(3)]

    first = await client.generations.list(limit=2, offset=0)
    rest = await client.generations.list(limit=2, offset=2)

    assert [each.id for each in first.generations] == [made[2], made[1]]
    assert (first.has_more, first.count) == (True, 2)
    assert [each.id for each in rest.generations] == [made[0]]
    assert rest.has_more is False


async def test_frames_go_by_address_and_a_deleted_generation_is_gone(client: Any) -> None:
    frame = {"type": "image", "url": "https://example.com/kite.png"}
    begun = await client.generations.video.create(
        **WANTED | {"model": "ray-flash-2"}, keyframes={"frame0": frame}, loop=True
    )
    assert begun.request.keyframes.frame0.url == frame["url"]

    await client.generations.delete(begun.id)

    with pytest.raises(lumaai.NotFoundError):
        await client.generations.get(begun.id)


async def test_refusals_are_the_sdk_s_own_classes(luma: ProviderSimulator, client: Any) -> None:
    for outcome, kind in (
        ("400", lumaai.BadRequestError),
        ("401", lumaai.AuthenticationError),
        ("429", lumaai.RateLimitError),
        ("429-insufficient-quota", lumaai.BadRequestError),
        ("503", lumaai.InternalServerError),
    ):
        luma.script(Rule(deed="submit", outcome=outcome, times=1))

        with pytest.raises(kind):
            await client.generations.video.create(**WANTED)
    assert luma.bill == []


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "ray-9"},
        {"duration": "8s"},
        {"resolution": "8k"},
        {"aspect_ratio": "2:1"},
        {"prompt": "a"},
        {"keyframes": {"frame0": {"type": "image", "url": "data:image/png;base64,"}}},
        {"keyframes": {"frame2": {"type": "generation", "id": "x"}}},
        {"keyframes": {"frame0": "x"}},
        {"extra_body": {"style": "noir"}},
    ],
)
async def test_what_luma_does_not_take_is_refused(client: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(lumaai.BadRequestError):
        await client.generations.video.create(**WANTED | changes)


async def test_the_balance_is_told_for_nothing(client: Any) -> None:
    assert (await client.credits.get()).credit_balance > 0
