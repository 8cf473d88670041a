"""The receipt of a paid submit is never lost."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from loguru import logger

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import VEO, a_rule, quick
from vidgen import JobStatus, lifecycle
from vidgen.errors import DatabaseError, SubmitUnknownError
from vidgen.job import Operation
from vidgen.pipeline import receipts
from vidgen.providers.protocol import Submission
from vidgen.simulator.server import SimulatorServer
from vidgen.store.rows import request_of

__all__ = ["quick"]


async def test_a_receipt_kept_in_the_bucket_revives_its_job(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.veo.script(a_rule("submit accept-then-disconnect", times=1))
    job = await carrier.finish(await carrier.enqueue(VEO))
    assert (job.status, job.error_code) == (JobStatus.FAILED, "submit_unknown")
    operation = Operation(
        provider="veo",
        id=simulator.veo.bill[0].operation_id,
        endpoint=simulator.veo.gemini_url,
        model=job.model,
        credential_id="server",
        extra={"api": "gemini"},
    )
    await receipts.keep(carrier.resources, job.id, 1, operation)

    await receipts.collect(carrier.resources, carrier.leases)

    done = await carrier.finish(await carrier.queue.get(job.id))
    assert (done.status, done.attempt, len(simulator.veo.bill)) == (JobStatus.COMPLETED, 1, 1)
    assert not await carrier.resources.storage.keys(receipts.PREFIX, 10)


@pytest.fixture
def said() -> Iterator[list[tuple[str, str]]]:
    """Level and message of each line in the log."""
    lines: list[tuple[str, str]] = []
    sink = logger.add(
        lambda line: lines.append((line.record["level"].name, line.record["message"])),
        level="DEBUG",
    )
    yield lines
    logger.remove(sink)


def loud(said: list[tuple[str, str]]) -> list[str]:
    return [message for level, message in said if level == "ERROR"]


async def test_a_receipt_that_is_known_already_is_only_cleared_away(
    carrier: Carrier, said: list[tuple[str, str]]
) -> None:
    done = await carrier.finish(await carrier.enqueue(VEO))
    assert done.operation is not None
    await receipts.keep(carrier.resources, done.id, done.attempt, done.operation)

    await receipts.collect(carrier.resources, carrier.leases)

    assert await carrier.queue.get(done.id) == done
    assert ("INFO", "receipt was stored already") in said
    assert not loud(said)
    assert not await carrier.resources.storage.keys(receipts.PREFIX, 10)


async def test_a_receipt_whose_operation_another_job_has_alarms_nobody(
    carrier: Carrier, said: list[tuple[str, str]]
) -> None:
    done = await carrier.finish(await carrier.enqueue(VEO))
    twin = await carrier.enqueue(VEO)
    assert done.operation is not None
    await receipts.keep(carrier.resources, twin.id, 1, done.operation)

    await receipts.collect(carrier.resources, carrier.leases)

    assert ("INFO", "receipt is not needed: another job follows its operation") in said
    assert not loud(said)
    assert not await carrier.resources.storage.keys(receipts.PREFIX, 10)


async def test_a_receipt_that_nobody_waits_for_any_more_is_told_at_level_error(
    carrier: Carrier, said: list[tuple[str, str]]
) -> None:
    done = await carrier.finish(await carrier.enqueue(VEO))
    assert done.operation is not None
    another = replace(done.operation, id=f"{done.operation.id}-2")
    await receipts.keep(carrier.resources, done.id, done.attempt, another)

    await receipts.collect(carrier.resources, carrier.leases)

    assert loud(said) == ["receipt came too late: a paid operation belongs to no attempt"]


async def test_a_receipt_waits_for_postgresql_and_is_in_the_bucket_meanwhile(
    carrier: Carrier, simulator: SimulatorServer, said: list[tuple[str, str]]
) -> None:
    simulator.veo.script(a_rule("submit late 300ms", times=1))
    job = await carrier.enqueue(VEO)
    storage, database = carrier.resources.storage, carrier.resources.database
    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.carry(job))
        async with asyncio.timeout(5):
            await simulator.veo.arrived("submit")
        lend = database.connection

        def away(*_: object) -> object:
            raise DatabaseError("it is away")

        object.__setattr__(database, "connection", away)
        async with asyncio.timeout(15):
            while not await storage.keys(receipts.PREFIX, 10):  # noqa: ASYNC110  a bucket tells nobody
                await asyncio.sleep(0.05)
        object.__setattr__(database, "connection", lend)
        await carrying

    done = await carrier.finish(await carrier.queue.get(job.id))
    assert (done.status, done.attempt, len(simulator.veo.bill)) == (JobStatus.COMPLETED, 1, 1)
    assert not await storage.keys(receipts.PREFIX, 10)
    assert not [line for line in loud(said) if line.startswith("receipt")]


async def test_a_receipt_that_waits_in_the_bucket_is_found_before_anything_is_decided(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.veo.script(a_rule("submit accept-then-disconnect", times=1))
    job = await carrier.enqueue(VEO)
    async with carrier.leases.claim(job.id) as held:  # its worker dies amid the paid call
        assert held is not None
        await held.apply(lifecycle.submitting(held.job))
        submission = Submission(job_id=job.id, attempt=1, request=request_of(held.job))
        credential = carrier.resources.providers.credential(job.provider, job.model)
        with pytest.raises(SubmitUnknownError):
            await carrier.resources.providers.get("veo").submit(submission, credential)
    operation = Operation(
        provider="veo",
        id=simulator.veo.bill[0].operation_id,
        endpoint=simulator.veo.gemini_url,
        model=job.model,
        credential_id="server",
        extra={"api": "gemini"},
    )
    await receipts.keep(carrier.resources, job.id, 1, operation)

    done = await carrier.finish(await carrier.queue.get(job.id))

    assert (done.status, done.attempt, len(simulator.veo.bill)) == (JobStatus.COMPLETED, 1, 1)
