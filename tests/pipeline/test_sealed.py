"""Sealed prompts on their way: opened for the paid call and for the search after a lost receipt."""

import base64
from typing import Any

import pytest
from pydantic import SecretStr

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, VEO, a_rule, quick
from vidgen import InputImage, JobStatus, VideoJob, VideoRequest
from vidgen.job import EventType, Stage
from vidgen.pipeline import carry as carrying
from vidgen.resources import Resources
from vidgen.settings import Settings
from vidgen.simulator.server import SimulatorServer
from vidgen.store import jobs
from vidgen.testing.provider_wire import an_image
from vidgen.vault import Vault

__all__ = ["quick"]

RING, WRONG = (bytes([number]) * 32 for number in (1, 2))
PNG = an_image().data


@pytest.fixture
def settings(settings: Settings) -> Settings:
    ring = SecretStr(base64.b64encode(RING).decode())
    return settings.model_copy(
        update={"encryption_key": ring, "encrypt_prompts": True, "settle_s": 0.2}
    )


def rekey(resources: Resources, *ring: bytes) -> None:
    """As if the worker had been started with these encryption keys."""
    object.__setattr__(resources, "vault", Vault(ring))


def sent(simulator: SimulatorServer, name: str) -> Any:
    [request] = simulator.simulators[name].of("submit")
    return request.body


async def make_due(carrier: Carrier, job: VideoJob) -> None:
    async with carrier.resources.database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET due_at = now() WHERE id = $1", job.id)


async def test_a_provider_gets_the_words_and_the_database_never_has_them(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    done = await carrier.finish(await carrier.enqueue(SORA))

    assert (done.status, done.prompt) == (JobStatus.COMPLETED, SORA.prompt)
    assert sent(simulator, "sora")["prompt"] == SORA.prompt
    async with carrier.resources.database.connection() as connection:
        stored = await jobs.get(connection, done.id)
    assert stored is not None
    assert stored.prompt == ""


async def test_images_and_negative_prompts_are_opened_for_the_paid_call(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    request = VideoRequest(
        provider="veo",
        prompt="a tram in the rain",
        negative_prompt="no bus",
        seconds=8,
        images=(InputImage(role="first_frame", data=PNG),),
    )

    done = await carrier.finish(await carrier.enqueue(request))

    assert done.status is JobStatus.COMPLETED, done.error_message
    body = str(sent(simulator, "veo"))
    assert base64.b64encode(PNG).decode() in body
    assert "no bus" in body


async def test_a_lost_receipt_is_found_by_the_words_in_the_provider_s_list(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))
    unlike = VideoRequest(provider="sora", prompt="a bus in the snow", seconds=4)
    await carrier.finish(await carrier.enqueue(unlike))
    simulator.sora.reset()
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))

    done = await carrier.finish(await carrier.enqueue(SORA))

    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)
    assert any(
        event.type is EventType.SUBMITTED and event.detail.get("adopted")
        for event in await carrier.queue.history(done.id)
    )


async def test_a_sealed_job_and_an_unsealed_one_go_side_by_side(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    sealed = await carrier.enqueue(SORA)
    object.__setattr__(
        carrier.queue,
        "_settings",
        carrier.resources.settings.model_copy(update={"encrypt_prompts": False}),
    )
    plain = await carrier.enqueue(VEO)

    done = [await carrier.finish(job) for job in (sealed, plain)]

    assert {job.status for job in done} == {JobStatus.COMPLETED}


@pytest.mark.parametrize("ring", [(WRONG,), ()], ids=["another", "none"])
async def test_a_job_whose_prompt_does_not_open_is_parked_and_goes_on_once_it_does(
    carrier: Carrier,
    simulator: SimulatorServer,
    monkeypatch: pytest.MonkeyPatch,
    ring: tuple[bytes, ...],
) -> None:
    monkeypatch.setattr(carrying, "PARKED_S", 0.05)
    rekey(carrier.resources, *ring)

    parked = await carrier.carry(await carrier.enqueue(SORA))
    received = len(simulator.sora.received)
    rekey(carrier.resources, RING)
    done = await carrier.finish(parked)

    assert (parked.status, parked.stage, parked.attempt) == (JobStatus.PENDING, Stage.QUEUED, 0)
    assert parked.error_code == "key_unreadable"
    assert parked.error_message is not None
    assert f"prompt of job {parked.id}" in parked.error_message
    assert SORA.prompt not in parked.error_message
    assert received == 0
    assert (done.status, done.attempt) == (JobStatus.COMPLETED, 1)


async def test_an_unsettled_submit_waits_for_the_words_too(
    carrier: Carrier, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "PARKED_S", 0.05)
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))
    job = await carrier.carry(await carrier.enqueue(SORA))
    assert job.stage is Stage.SUBMITTING
    rekey(carrier.resources, WRONG)
    await make_due(carrier, job)

    parked = await carrier.carry(job)
    rekey(carrier.resources, RING)
    done = await carrier.finish(parked)

    assert (parked.stage, parked.error_code) == (Stage.SUBMITTING, "key_unreadable")
    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)


async def test_what_was_submitted_is_brought_home_without_the_key(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll 503", times=3))
    job = await carrier.carry(await carrier.enqueue(SORA))
    assert job.stage is Stage.GENERATING
    rekey(carrier.resources)

    done = await carrier.finish(job)

    assert done.status is JobStatus.COMPLETED
