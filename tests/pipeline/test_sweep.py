"""What one bad row, receipt or duty must not do: keep the others from being seen to."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from uuid import UUID

import orjson
import pytest
from loguru import logger

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, VEO, a_rule, quick
from vidgen import JobStatus, VideoJob, lifecycle
from vidgen.job import Stage
from vidgen.pipeline import receipts, sweep
from vidgen.simulator.server import SimulatorServer
from vidgen.store import jobs

__all__ = ["quick"]

DEAD = UUID(int=13)
REFUSE = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON video_jobs FOR EACH ROW
        WHEN (OLD.scene_id = 'bad') EXECUTE FUNCTION refuse()
"""


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """Its triggers and checks are touched here."""
    return own_database_url


@contextmanager
def logged(level: str) -> Iterator[list[str]]:
    """What is logged from *level* on."""
    messages: list[str] = []
    sink = logger.add(lambda said: messages.append(said.record["message"]), level=level)
    try:
        yield messages
    finally:
        logger.remove(sink)


async def execute(carrier: Carrier, statement: str, *values: object) -> None:
    async with carrier.resources.database.connection() as connection:
        await connection.execute(statement, *values)


async def orphan(carrier: Carrier, scene_id: str) -> VideoJob:
    """A job whose worker is not there."""
    job = await carrier.queue.enqueue(SORA, scene_id=scene_id)
    async with carrier.resources.database.connection() as connection:
        return await jobs.apply(connection, job.id, lifecycle.claimed(), worker_id=DEAD)


async def test_a_row_that_cannot_be_freed_holds_up_no_other_and_is_told_once(
    carrier: Carrier,
) -> None:
    before, bad, behind = [await orphan(carrier, name) for name in ("good", "bad", "good")]
    await execute(carrier, REFUSE)

    with logged("ERROR") as errors:
        await carrier.sweep()
        await carrier.sweep()

    freed = [(await carrier.queue.get(job.id)).worker_id for job in (before, bad, behind)]
    assert freed == [None, DEAD, None]
    assert errors == ["job not freed"]


async def test_more_rows_than_a_page_that_cannot_be_freed_do_not_fill_it_for_ever(
    carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "BATCH", 2)
    for _ in range(3):
        await orphan(carrier, "bad")
    good = await orphan(carrier, "good")
    await execute(carrier, REFUSE)

    async with asyncio.timeout(10):
        await carrier.sweep()

    assert (await carrier.queue.get(good.id)).worker_id is None


async def test_a_duty_that_ends_with_a_defect_keeps_no_other_from_being_done(
    carrier: Carrier,
) -> None:
    done = await carrier.finish(await carrier.enqueue(SORA))
    # What a video took cannot be learnt from this one.
    await execute(
        carrier,
        """UPDATE video_jobs SET parameters = '{"seconds": "many"}' WHERE id = $1""",
        done.id,
    )

    with logged("ERROR") as errors:
        async with asyncio.TaskGroup() as group:
            sweeping = group.create_task(sweep.run(carrier.resources, carrier.leases))
            async with asyncio.timeout(20):
                while True:
                    if errors and "forget_keys" in await duties(carrier):
                        break
                    await asyncio.sleep(0.01)
            assert not sweeping.done()
            sweeping.cancel()

    assert errors == ["duty ended with a defect"]


async def duties(carrier: Carrier) -> set[str]:
    """Those that somebody has begun."""
    async with carrier.resources.database.connection() as connection:
        return {row["duty"] for row in await connection.fetch("SELECT duty FROM upkeep")}


async def test_a_job_in_a_state_of_a_newer_release_is_left_alone_with_one_warning(
    carrier: Carrier,
) -> None:
    job = await carrier.enqueue(SORA)
    await execute(carrier, "ALTER TABLE video_jobs DROP CONSTRAINT video_jobs_stage_check")
    await execute(
        carrier,
        """
        UPDATE video_jobs SET status = 'processing', stage = 'upscaling', attempt = 1,
            intent_at = now(), due_at = now() - interval '1 minute'
        WHERE id = $1
        """,
        job.id,
    )
    await carrier.resources.redis.flushall()

    with logged("WARNING") as warnings:
        for _ in range(2):
            await execute(carrier, "DELETE FROM upkeep")  # else it is not looked through again
            await carrier.sweep()
        left = await carrier.carry(job)

    assert (left.status, left.stage, left.worker_id) == (JobStatus.PROCESSING, "upscaling", None)
    assert warnings == ["jobs of a newer release are left alone"]


async def test_an_operation_with_a_field_of_a_newer_release_is_followed_and_kept(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 60
    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.carry(await carrier.enqueue(SORA)))
        async with asyncio.timeout(10):
            await simulator.sora.arrived("poll")
        carrier.leases.hand_over(urgent=False)
        job = await carrying
    assert job.stage is Stage.GENERATING
    await execute(carrier, """UPDATE video_jobs SET operation = operation || '{"tomorrow": 1}'""")

    job = await carrier.queue.get(job.id)

    assert job.operation is not None
    async with carrier.resources.database.connection() as connection:
        held = await jobs.apply(connection, job.id, lifecycle.claimed(), worker_id=DEAD)
        change = lifecycle.generated(held, expires_at=None, cost_micros=None)
        await jobs.apply(connection, job.id, change, lease=held.lease)
        assert await connection.fetchval("SELECT operation ->> 'tomorrow' FROM video_jobs") == "1"


@pytest.mark.parametrize("operation", ["{}", "[]", '{"id": 1}'])
async def test_a_job_whose_operation_nobody_can_read_fails_by_itself(
    carrier: Carrier, operation: str
) -> None:
    job = await orphan(carrier, "good")
    await execute(
        carrier,
        """
        UPDATE video_jobs SET stage = 'generating', attempt = 1, intent_at = now(),
            submitted_at = now(), operation = $2, deadline_at = now() + interval '0.2 s'
        WHERE id = $1
        """,
        job.id,
        operation,
    )

    await carrier.sweep()

    failed = await carrier.finish(await carrier.queue.get(job.id))
    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "generation_timeout")
    assert failed.error_message is not None
    assert "a defect of vidgen" in failed.error_message


async def test_receipts_that_cannot_be_stored_hold_up_no_other_and_are_told_once(
    carrier: Carrier, simulator: SimulatorServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "BATCH", 2)
    simulator.veo.script(a_rule("submit accept-then-disconnect", times=1))
    job = await carrier.finish(await carrier.enqueue(VEO))
    paid = {
        "provider": "veo",
        "id": simulator.veo.bill[0].operation_id,
        "endpoint": simulator.veo.gemini_url,
        "model": job.model,
        "credential_id": "server",
        "extra": {"api": "gemini"},
        "tomorrow": "what a newer release writes beside it",
    }
    good = {"job_id": str(job.id), "attempt": 1, "operation": paid}
    bad = [
        b"{",
        b"[]",
        orjson.dumps(good | {"operation": {}}),
        orjson.dumps(good | {"attempt": 2**40}),  # asyncpg cannot encode it
        orjson.dumps(good | {"operation": paid | {"id": "a\0b"}}),  # PostgreSQL refuses it
    ]
    for number, text in enumerate([*bad, orjson.dumps(good)]):
        await carrier.resources.storage.upload(
            f"{receipts.PREFIX}{number}.json", once(text), content_type="application/json"
        )

    with logged("ERROR") as errors:
        for _ in range(2):
            await receipts.collect(carrier.resources, carrier.leases)

    assert (await carrier.queue.get(job.id)).stage is Stage.GENERATING
    left = await carrier.resources.storage.keys(receipts.PREFIX, 10)
    assert left == [f"{receipts.PREFIX}{number}.json" for number in range(len(bad))]
    assert errors == ["receipt cannot be stored"] * len(bad)


async def once(text: bytes) -> AsyncIterator[bytes]:
    yield text
