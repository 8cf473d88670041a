"""The official fal-client, which knows nothing of vidgen, judges the simulated queue."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from vidgen.simulator import SimulatorServer
from vidgen.simulator.control import ProviderSimulator

fal_client: Any = pytest.importorskip("fal_client", reason="the SDK is not installed")
APP = "fal-ai/veo3.1/fast"


@pytest.fixture
async def fal() -> AsyncIterator[ProviderSimulator]:
    async with SimulatorServer(generation_s=0) as server:
        simulator = server.simulators["fal"]
        simulator.clip = b"a clip"
        yield simulator


@pytest.fixture
def address(fal: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    # It has no other place for it.
    monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", f"{fal.origin}/")


@asynccontextmanager
async def knowing(key: str) -> AsyncIterator[Any]:
    found = fal_client.AsyncClient(key=key)
    yield found
    await (await found._client).aclose()


@pytest.fixture
async def client(address: None) -> AsyncIterator[Any]:
    async with knowing("key") as found:
        yield found


async def test_the_client_submits_looks_and_gets_the_result(
    fal: ProviderSimulator, client: Any
) -> None:
    fal.generation_s = 60
    handle = await client.submit(APP, {"prompt": "a kite", "duration": "4s"})
    assert await handle.status() == fal_client.Queued(position=0)
    fal.generations[handle.request_id].created_at -= 30
    assert isinstance(await handle.status(), fal_client.InProgress)
    fal.generations[handle.request_id].ready_at = 0

    done = await handle.status()
    result = await client.result(APP, handle.request_id)

    assert isinstance(done, fal_client.Completed)
    assert result["video"]["content_type"] == "video/mp4"
    http = await client._client
    assert (await http.get(result["video"]["url"])).content == b"a clip"
    assert [charge.seconds for charge in fal.bill] == [4]


@pytest.mark.parametrize(
    ("verdict", "status", "kind"),
    [
        ("failed", 503, "runner_disconnected"),
        ("failed-message", 500, None),
        ("moderation", 422, None),
    ],
)
async def test_each_end_is_one_that_the_client_knows(
    client: Any, verdict: str, status: int, kind: str | None
) -> None:
    handle = await client.submit(APP, {"prompt": f"a kite [[sim:{verdict}]]"})

    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        await handle.get()

    assert (caught.value.status_code, caught.value.error_type) == (status, kind)


async def test_the_client_cancels(fal: ProviderSimulator, client: Any) -> None:
    fal.generation_s = 60
    handle = await client.submit(APP, {"prompt": "a kite"})

    await handle.cancel()

    assert fal.generations == {}


async def test_a_wrong_key_and_an_app_that_is_not_there_are_refused(
    fal: ProviderSimulator, client: Any
) -> None:
    with pytest.raises(fal_client.FalClientHTTPError, match="not found"):
        await client.submit("fal-ai/nothing", {"prompt": "a kite"})
    async with knowing("wrong") as other:
        with pytest.raises(fal_client.FalClientHTTPError) as caught:
            await other.submit(APP, {"prompt": "a kite"})

    assert caught.value.status_code == 401
    assert fal.bill == []
