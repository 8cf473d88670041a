"""Volcengine's SDK for Ark, which knows nothing of vidgen, judges the simulated Seedance."""

import importlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from vidgen.simulator import Rule, SimulatorServer
from vidgen.simulator.control import ProviderSimulator

WANTED = {
    "model": "dreamina-seedance-2-0-260128",
    "content": [{"type": "text", "text": "a kite"}],
    "resolution": "720p",
    "ratio": "16:9",
    "duration": 5,
}


@pytest.fixture
async def seedance() -> AsyncIterator[ProviderSimulator]:
    async with SimulatorServer(generation_s=0, only={"seedance"}) as server:
        simulator = server.simulators["seedance"]
        simulator.clip = b"a clip"
        yield simulator


@pytest.fixture
def ark() -> Any:
    """The SDK; it is imported by those who want it, as it takes a second."""
    return importlib.import_module("volcenginesdkarkruntime")


def _errors() -> Any:
    return importlib.import_module("volcenginesdkarkruntime._exceptions")


@pytest.fixture
async def tasks(seedance: ProviderSimulator, ark: Any) -> AsyncIterator[Any]:
    client = ark.AsyncArk(
        api_key="key", base_url=f"{seedance.origin}/api/v3", max_retries=0, timeout=5
    )
    yield client.content_generation.tasks
    await client.close()


async def test_the_sdk_creates_looks_and_gets_the_video(
    seedance: ProviderSimulator, tasks: Any
) -> None:
    seedance.generation_s = 60
    begun = await tasks.create(**WANTED)
    assert (await tasks.get(task_id=begun.id)).status == "queued"
    seedance.generations[begun.id].created_at -= 30
    assert (await tasks.get(task_id=begun.id)).status == "running"
    seedance.generations[begun.id].ready_at = 0

    done = await tasks.get(task_id=begun.id)

    assert (done.status, done.duration, done.ratio) == ("succeeded", 5, "16:9")
    [charge] = seedance.bill
    # 7 dollars a million tokens.
    assert charge.cost_micros == round(done.usage.completion_tokens * 7)
    async with aiohttp.ClientSession() as session, session.get(done.content.video_url) as answer:
        assert await answer.read() == b"a clip"


async def test_a_task_that_waits_is_listed_and_cancelled(
    seedance: ProviderSimulator, tasks: Any
) -> None:
    seedance.generation_s = 600
    begun = await tasks.create(**WANTED)

    listed = await tasks.list(page_num=1, page_size=10, status="queued", task_ids=[begun.id])
    await tasks.delete(task_id=begun.id)

    assert [each.id for each in listed.items] == [begun.id]
    assert (await tasks.list()).items == []


async def test_what_runs_is_not_cancelled(seedance: ProviderSimulator, tasks: Any) -> None:
    seedance.generation_s = 600
    begun = await tasks.create(**WANTED)
    seedance.generations[begun.id].created_at -= 300

    with pytest.raises(_errors().ArkConflictError, match="TaskRunningCannotCancel"):
        await tasks.delete(task_id=begun.id)


async def test_a_failure_tells_its_code(seedance: ProviderSimulator, tasks: Any) -> None:
    seedance.script(Rule(deed="poll", outcome="moderation"))
    begun = await tasks.create(**WANTED)

    ended = await tasks.get(task_id=begun.id)

    assert ended.status == "failed"
    assert "SensitiveContentDetected" in ended.error.code


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("400", "ArkBadRequestError"),
        ("401", "ArkAuthenticationError"),
        ("404-model", "ArkNotFoundError"),
        ("429", "ArkRateLimitError"),
        ("500", "ArkInternalServerError"),
    ],
)
async def test_refusals_are_the_sdk_s_own_classes(
    seedance: ProviderSimulator, tasks: Any, outcome: str, kind: str
) -> None:
    seedance.script(Rule(deed="submit", outcome=outcome))

    with pytest.raises(getattr(_errors(), kind)):
        await tasks.create(**WANTED)

    assert seedance.bill == []
