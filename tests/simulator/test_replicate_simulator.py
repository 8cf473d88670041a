"""The official replicate SDK, which knows nothing of vidgen, judges the simulated Replicate API."""

import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from vidgen.simulator import Rule, SimulatorServer
from vidgen.simulator.control import ProviderSimulator

if sys.version_info >= (3, 14):
    pytest.skip("the SDK needs pydantic 1, which ends with Python 3.13", allow_module_level=True)
replicate: Any = pytest.importorskip("replicate", reason="the SDK is not installed")
MODEL, VERSION = "bytedance/seedance-1-pro", "5a" * 32


@pytest.fixture
async def simulator() -> AsyncIterator[ProviderSimulator]:
    async with SimulatorServer(generation_s=0) as server:
        found = server.simulators["replicate"]
        found.clip = b"a clip"
        yield found


@pytest.fixture
async def client(simulator: ProviderSimulator) -> AsyncIterator[Any]:
    found = replicate.Client(api_token="key", base_url=simulator.origin)
    found.poll_interval = 0.01
    yield found
    await found._async_client.aclose()


async def created(client: Any, **given: Any) -> Any:
    return await client.models.predictions.async_create(
        model=MODEL, input={"prompt": "a kite", **given}
    )


async def test_the_sdk_creates_waits_and_downloads(
    simulator: ProviderSimulator, client: Any
) -> None:
    prediction = await created(client, duration=5)
    assert prediction.status == "starting"

    await prediction.async_wait()

    assert prediction.status == "succeeded"
    assert prediction.metrics["video_output_duration_seconds"] == 5
    before = prediction.output
    await prediction.async_reload()
    assert prediction.output != before  # a fresh address with each look
    answer = await client._async_client.get(prediction.output)
    assert answer.content == b"a clip"
    assert [charge.cost_micros for charge in simulator.bill] == [300_000]


async def test_a_version_is_run_and_cancelled(simulator: ProviderSimulator, client: Any) -> None:
    simulator.generation_s = 60
    prediction = await client.predictions.async_create(version=VERSION, input={"prompt": "x"})
    assert prediction.version == VERSION

    await prediction.async_cancel()

    assert prediction.status == "canceled"


async def test_a_failure_tells_its_error(simulator: ProviderSimulator, client: Any) -> None:
    simulator.script(Rule(deed="poll", outcome="moderation"))
    prediction = await created(client)

    await prediction.async_wait()

    assert prediction.status == "failed"
    assert "E005" in prediction.error


async def test_the_list_has_pages_with_the_newest_first(
    simulator: ProviderSimulator, client: Any
) -> None:
    made = [(await created(client)).id for _ in range(101)]

    first = await client.predictions.async_list()
    rest = await client.predictions.async_list(first.next)

    assert [each.id for each in first.results] == made[:0:-1]
    assert [each.id for each in rest.results] == [made[0]]
    assert rest.next is None
    assert rest.results[0].input["prompt"] == "a kite"


async def test_refusals_are_problem_details(simulator: ProviderSimulator, client: Any) -> None:
    for outcome, status, title in (
        ("401", 401, "Request failed"),
        ("422", 422, "Request failed"),
        ("429", 429, "Request failed"),
        ("429-insufficient-quota", 402, "Insufficient credit"),
    ):
        simulator.script(Rule(deed="submit", outcome=outcome, times=1))

        with pytest.raises(replicate.exceptions.ReplicateError) as caught:
            await created(client)

        assert (caught.value.status, caught.value.title) == (status, title)
    for given in ({"duration": "five"}, {"resolution": "8k"}, {"prompt": ""}):
        with pytest.raises(replicate.exceptions.ReplicateError) as caught:
            await created(client, **given)
        assert caught.value.status == 422
    assert simulator.bill == []


async def test_the_account_is_told_for_nothing(client: Any) -> None:
    assert (await client.accounts.async_current()).username == "studio"
