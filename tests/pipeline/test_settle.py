"""A submit that may have arrived: nothing is paid twice, and what was paid is found."""

import asyncio
from dataclasses import replace

import pytest

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, VEO, a_rule, quick
from vidgen import JobStatus
from vidgen.catalog.vendors import _BUILT_IN
from vidgen.job import EventType
from vidgen.providers.protocol import Provider
from vidgen.providers.registry import Surroundings
from vidgen.settings import Settings
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"settle_s": 0.2})


@pytest.mark.parametrize(
    "outcome",
    [
        "accept-then-disconnect",
        "accept-then-500",
        "accept-then-502",
        "html",
        "not-json",
        "missing-id",
        "empty",
    ],
)
async def test_a_video_whose_receipt_was_lost_is_found_and_adopted(
    carrier: Carrier, simulator: SimulatorServer, outcome: str
) -> None:
    simulator.sora.script(a_rule(f"submit {outcome}", times=1))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 1)
    assert [charge.operation_id for charge in simulator.sora.bill] == [
        job.operation.id if job.operation else None
    ]


@pytest.mark.parametrize("outcome", ["502", "504", "disconnect"])
async def test_a_submit_that_provably_never_arrived_is_made_again(
    carrier: Carrier, simulator: SimulatorServer, outcome: str
) -> None:
    await carrier.finish(await carrier.enqueue(replace(SORA, prompt="shows that the list lists")))
    simulator.sora.script(a_rule(f"submit {outcome}", times=1))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 2)


async def test_a_list_that_never_showed_anything_proves_nothing(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit 502", times=1))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.error_code) == (JobStatus.FAILED, "submit_unknown")


async def test_a_listed_video_that_may_be_ours_is_neither_adopted_nor_bought_again(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.dialect = "openrouter"  # its list tells no prompts
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.error_code) == (JobStatus.FAILED, "submit_unknown")
    assert (job.operation, len(simulator.sora.bill)) == (None, 1)


async def test_equal_videos_without_receipts_adopt_one_operation_each(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=4))
    jobs = [await carrier.enqueue(SORA) for _ in range(10)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(carrier.finish(job)) for job in jobs]

    done = [task.result() for task in tasks]
    assert {job.status for job in done} == {JobStatus.COMPLETED}
    assert len(simulator.sora.bill) == 10
    assert len({job.operation.id for job in done if job.operation}) == 10


async def test_without_a_list_nothing_is_spent_again_unless_a_setting_says_so(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.veo.script(a_rule("submit accept-then-disconnect", times=1))
    object.__setattr__(
        carrier.resources,
        "settings",
        carrier.resources.settings.model_copy(update={"on_submit_unknown": "resubmit"}),
    )

    job = await carrier.finish(await carrier.enqueue(VEO))

    assert (job.status, job.attempt, len(simulator.veo.bill)) == (JobStatus.COMPLETED, 2, 2)
    [event] = [
        event
        for event in await carrier.queue.history(job.id)
        if event.type is EventType.REATTEMPTED
    ]
    assert event.detail["may_be_paid_twice"] is True


async def test_a_worker_lost_between_intent_and_receipt_costs_no_second_video(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))
    job = await carrier.carry(await carrier.enqueue(SORA))
    assert job.stage == "submitting"

    done = await carrier.finish(job)

    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)


def break_sora(carrier: Carrier, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker finds it whose package of the provider does not work."""

    def wire(_: Surroundings) -> Provider:
        raise RuntimeError("no licence")

    assert isinstance(_BUILT_IN, dict)
    monkeypatch.setitem(_BUILT_IN, "sora", replace(_BUILT_IN["sora"], wire=wire))
    monkeypatch.delitem(carrier.resources.providers.by_name, "sora", raising=False)


async def test_a_provider_that_cannot_be_built_is_paid_nothing(
    carrier: Carrier, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_sora(carrier, monkeypatch)

    job = await carrier.carry(await carrier.enqueue(SORA))

    assert (job.status, job.error_code) == (JobStatus.FAILED, "plugin_broken")
    assert (job.attempt, job.intent_at, simulator.sora.bill) == (0, None, [])


async def test_a_receipt_is_looked_for_again_once_its_provider_can_be_built(
    carrier: Carrier, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))
    job = await carrier.carry(await carrier.enqueue(SORA))
    assert job.stage == "submitting"

    with monkeypatch.context() as broken:
        break_sora(carrier, broken)
        async with carrier.resources.database.connection() as connection:
            await connection.execute("UPDATE video_jobs SET due_at = now()")
        job = await carrier.carry(job)
    assert (job.stage, job.worker_id) == ("submitting", None)
    assert "'sora' cannot be built: RuntimeError: no licence" in (job.error_message or "")
    done = await carrier.finish(job)

    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)
