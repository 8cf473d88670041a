"""The official runwayml SDK, which knows nothing of vidgen, judges the simulated Runway API."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from vidgen.simulator import Rule, SimulatorServer
from vidgen.simulator.control import ProviderSimulator

runwayml: Any = pytest.importorskip("runwayml", reason="the SDK is not installed")
WANTED = {"model": "gen4.5", "prompt_text": "a kite", "ratio": "1280:720", "duration": 5}


@pytest.fixture
async def runway() -> AsyncIterator[ProviderSimulator]:
    async with SimulatorServer(generation_s=0) as server:
        simulator = server.simulators["runway"]
        simulator.clip = b"a clip"
        yield simulator


@pytest.fixture
async def client(runway: ProviderSimulator) -> AsyncIterator[Any]:
    async with runwayml.AsyncRunwayML(
        api_key="key", base_url=runway.origin, max_retries=0, timeout=5
    ) as client:
        yield client


async def test_the_sdk_creates_and_looks(runway: ProviderSimulator, client: Any) -> None:
    runway.generation_s = 60
    task = await client.text_to_video.create(**WANTED)
    assert task.estimated_cost.credits == 60
    waiting = await client.tasks.retrieve(task.id)
    assert (waiting.status, waiting.estimated_cost.credits) == ("PENDING", 60)
    runway.generations[task.id].created_at -= 30
    running = await client.tasks.retrieve(task.id)
    assert running.status == "RUNNING"
    assert 0 < running.progress < 1
    runway.generations[task.id].ready_at = 0

    done = await client.tasks.retrieve(task.id)

    assert (done.status, done.cost.credits) == ("SUCCEEDED", 60)
    again = await client.tasks.retrieve(task.id)
    assert again.output != done.output  # a fresh address with each look
    answer = await client._client.get(again.output[0])
    assert answer.content == b"a clip"


async def test_each_end_is_one_that_the_sdk_knows(runway: ProviderSimulator, client: Any) -> None:
    for verdict, status, credits_used, code in (
        ("failed", "FAILED", 0, "INTERNAL.BAD_OUTPUT.CODE01"),
        ("failed-silent", "FAILED", 0, None),
        ("moderation", "FAILED", 60, "SAFETY.INPUT.TEXT"),
        ("filtered", "FAILED", 0, "SAFETY.OUTPUT.VIDEO"),
        ("cancelled", "CANCELLED", 0, None),
    ):
        runway.script(Rule(deed="poll", outcome=verdict, times=1))
        task = await client.text_to_video.create(**WANTED)

        ended = await client.tasks.retrieve(task.id)

        assert type(ended).__name__.endswith(status.capitalize())
        assert (ended.status, ended.cost.credits) == (status, credits_used)
        assert getattr(ended, "failure_code", None) == code


async def test_images_are_taken_by_address_and_a_deleted_task_is_gone(
    runway: ProviderSimulator, client: Any
) -> None:
    image = "https://example.com/kite.png"
    task = await client.image_to_video.create(
        **WANTED | {"model": "gen4_turbo", "ratio": "960:960"}, prompt_image=image
    )

    await client.tasks.delete(task.id)

    with pytest.raises(runwayml.NotFoundError):
        await client.tasks.retrieve(task.id)
    assert [charge.cost_micros for charge in runway.bill] == [250_000]


async def test_refusals_are_the_sdk_s_own_classes(runway: ProviderSimulator, client: Any) -> None:
    for outcome, kind in (
        ("400", runwayml.BadRequestError),
        ("401", runwayml.AuthenticationError),
        ("429", runwayml.RateLimitError),
        ("429-insufficient-quota", runwayml.BadRequestError),
        ("503", runwayml.InternalServerError),
    ):
        runway.script(Rule(deed="submit", outcome=outcome, times=1))

        with pytest.raises(kind):
            await client.text_to_video.create(**WANTED)
    assert runway.bill == []


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "gen9"},
        {"duration": 11},
        {"ratio": "960:960"},
        {"prompt_text": "🪁" * 501},
        {"prompt_text": ""},
        {"extra_body": {"cameraMotion": "left"}},
        {"extra_headers": {"X-Runway-Version": "2020-01-01"}},
    ],
)
async def test_what_runway_does_not_take_is_refused(client: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(runwayml.BadRequestError):
        await client.text_to_video.create(**WANTED | changes)


async def test_the_balance_is_told_for_nothing(client: Any) -> None:
    told = await client.organization.retrieve()

    assert told.credit_balance > 0
    assert "gen4.5" in told.tier.models
