"""A video that is handed out again is there, or is made again."""

import asyncio
from dataclasses import replace
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from tests.pipeline.conftest import Carrier, carrying
from tests.pipeline.test_failures import SORA, quick
from tests.pipeline.test_sweep import duties, orphan
from tests.proxy import proxy_of
from vidgen import JobStatus, VideoJob
from vidgen.errors import StorageError
from vidgen.pipeline import erasure, reuse, sweep
from vidgen.resources import open_resources
from vidgen.settings import Settings
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.s3.server import Fault
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]

DAY_S = 24 * 3600
OTHER = replace(SORA, prompt="another one")


async def made_and_lost(carrier: Carrier) -> VideoJob:
    """A completed job whose video somebody took out of the bucket."""
    job = await carrier.finish(await carrier.enqueue(SORA))
    assert job.storage_key is not None
    await carrier.resources.storage.delete(job.storage_key)
    return job


async def noted(carrier: Carrier) -> list[tuple[str | None, bool]]:
    """What is written down of videos that were handed out again: keys, and whether it is there."""
    async with carrier.resources.database.connection() as connection:
        rows = await connection.fetch("SELECT idempotency_key, seen_at FROM reuses ORDER BY seq")
    return [(row["idempotency_key"], row["seen_at"] is not None) for row in rows]


async def test_a_worker_looks_after_videos_that_were_handed_out_again(carrier: Carrier) -> None:
    job = await carrier.finish(await carrier.enqueue(SORA))
    for key in ("order-1", None):
        again = await carrier.queue.enqueue(SORA, idempotency_key=key, reuse_within_s=DAY_S)
        assert again.id == job.id
    assert await noted(carrier) == [("order-1", False), (None, False)]

    await reuse.look_after(carrier.resources, {})

    assert await noted(carrier) == [("order-1", True)]
    assert (await carrier.queue.get(job.id)).gone_at is None


async def test_a_video_that_is_not_there_is_handed_out_once_and_then_made_again(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    lost = await made_and_lost(carrier)
    wish = {"idempotency_key": "order-1", "reuse_within_s": DAY_S}
    assert (await carrier.queue.enqueue(SORA, **wish)).id == lost.id  # type: ignore[arg-type]  # as named

    await reuse.look_after(carrier.resources, {})

    told = await carrier.queue.get(lost.id)
    assert (told.status, told.gone_at is None) == (JobStatus.COMPLETED, False)
    bought = await carrier.finish(await carrier.queue.enqueue(SORA, **wish))  # type: ignore[arg-type]  # as named
    assert (bought.status, bought.id == lost.id) == (JobStatus.COMPLETED, False)
    assert len(simulator.sora.bill) == 2


async def test_a_bucket_that_is_away_says_nothing_about_a_video(
    carrier: Carrier, s3: S3Server
) -> None:
    job = await carrier.finish(await carrier.enqueue(SORA))
    await carrier.queue.enqueue(SORA, reuse_within_s=DAY_S)
    s3.faults += [
        Fault(operation="HeadObject", times=None, status=404, code="NotFound"),
        Fault(operation="ListObjectsV2", times=None, status=404, code="NoSuchBucket"),
    ]

    await reuse.look_after(carrier.resources, {})

    assert (await carrier.queue.get(job.id)).gone_at is None
    assert await noted(carrier) == [(None, False)]


DENIED = {"times": None, "status": 403, "code": "AccessDenied"}


async def test_what_nobody_can_tell_of_holds_up_no_other_video(
    carrier: Carrier, s3: S3Server
) -> None:
    lost, kept = await made_and_lost(carrier), await carrier.finish(await carrier.enqueue(OTHER))
    for request, key in ((SORA, "lost"), (OTHER, "kept")):
        await carrier.queue.enqueue(request, idempotency_key=key, reuse_within_s=DAY_S)
    s3.faults += [
        Fault(operation="HeadObject", path=str(lost.id), **DENIED),  # type: ignore[arg-type]  # as named
        Fault(operation="ListObjectsV2", **DENIED),  # type: ignore[arg-type]  # as named
    ]
    put_off: dict[UUID, float] = {}

    await reuse.look_after(carrier.resources, put_off)

    assert await noted(carrier) == [("lost", False), ("kept", True)]
    assert list(put_off) == [lost.id]
    assert (await carrier.queue.get(kept.id)).gone_at is None
    # Not at once, but later it is asked for again.
    s3.faults.clear()
    await reuse.look_after(carrier.resources, put_off)
    assert (await carrier.queue.get(lost.id)).gone_at is None
    put_off[lost.id] = 0.0
    await reuse.look_after(carrier.resources, put_off)
    assert (await carrier.queue.get(lost.id)).gone_at is not None
    assert not put_off


async def test_of_a_look_that_is_refused_the_list_tells(carrier: Carrier, s3: S3Server) -> None:
    lost, kept = await made_and_lost(carrier), await carrier.finish(await carrier.enqueue(OTHER))
    for request in (SORA, OTHER):
        await carrier.queue.enqueue(request, reuse_within_s=DAY_S)
    s3.faults.append(Fault(operation="HeadObject", **DENIED))  # type: ignore[arg-type]  # as named

    await reuse.look_after(carrier.resources, {})

    assert (await carrier.queue.get(lost.id)).gone_at is not None
    assert (await carrier.queue.get(kept.id)).gone_at is None
    assert await noted(carrier) == []


async def test_while_no_look_is_answered_few_are_asked_for(
    carrier: Carrier, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "AT_ONCE", 1)
    for request in (SORA, OTHER):
        await carrier.finish(await carrier.enqueue(request))
        await carrier.queue.enqueue(request, reuse_within_s=DAY_S)
    s3.faults.append(Fault(operation="HeadObject", **DENIED))  # type: ignore[arg-type]  # as named
    s3.faults.append(Fault(operation="ListObjectsV2", **DENIED))  # type: ignore[arg-type]  # as named
    put_off: dict[UUID, float] = {}

    await reuse.look_after(carrier.resources, put_off)

    assert len(put_off) == 2
    assert sum(each.operation == "ListObjectsV2" for each in s3.requests) == 1


async def test_a_bucket_that_does_not_answer_keeps_no_jobs_of_dead_workers_waiting(
    settings: Settings, s3: S3Server
) -> None:
    async with proxy_of(urlsplit(s3.url).port or 0) as proxy:
        through = settings.model_copy(
            update={"s3_endpoint_url": f"http://127.0.0.1:{proxy.port}", "sweep_interval_s": 0.2}
        )
        async with open_resources(through) as resources, carrying(resources) as carrier:
            proxy.mute()
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                loops = []
                for loop, duty in (
                    (sweep.run, "forget_keys"),
                    (sweep.look_after_bucket, "receipts"),
                ):
                    loops.append(group.create_task(loop(resources, carrier.leases)))
                    while duty not in await duties(carrier):  # noqa: ASYNC110  a row tells nobody
                        await asyncio.sleep(0.01)
                job = await orphan(carrier, "good")

                while (await carrier.queue.get(job.id)).worker_id is not None:  # noqa: ASYNC110  a row tells nobody
                    await asyncio.sleep(0.01)
                for each in loops:
                    each.cancel()


async def test_a_video_that_is_being_deleted_for_its_age_is_not_handed_out_again(
    carrier: Carrier, s3: S3Server
) -> None:
    settings = carrier.resources.settings.model_copy(update={"result_retention_days": 1})
    object.__setattr__(carrier.resources, "settings", settings)
    job = await carrier.finish(await carrier.enqueue(SORA))
    async with carrier.resources.database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET completed_at = now() - interval '2 days'")
    s3.faults.append(Fault(operation="DeleteObject", times=None, status=403, code="AccessDenied"))
    with pytest.raises(StorageError):
        await erasure.expire_results(carrier.resources)

    bought = await carrier.queue.enqueue(SORA, reuse_within_s=7 * DAY_S)

    assert bought.id != job.id
