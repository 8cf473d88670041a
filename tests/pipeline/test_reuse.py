"""A video that is handed out again is there, or is made again."""

import pytest

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, quick
from vidgen import JobStatus, VideoJob
from vidgen.errors import StorageError
from vidgen.pipeline import erasure, reuse
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.s3.server import Fault
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]

DAY_S = 24 * 3600


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

    await reuse.look_after(carrier.resources)

    assert await noted(carrier) == [("order-1", True)]
    assert (await carrier.queue.get(job.id)).gone_at is None


async def test_a_video_that_is_not_there_is_handed_out_once_and_then_made_again(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    lost = await made_and_lost(carrier)
    wish = {"idempotency_key": "order-1", "reuse_within_s": DAY_S}
    assert (await carrier.queue.enqueue(SORA, **wish)).id == lost.id  # type: ignore[arg-type]  # as named

    await reuse.look_after(carrier.resources)

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

    with pytest.raises(StorageError):
        await reuse.look_after(carrier.resources)

    assert (await carrier.queue.get(job.id)).gone_at is None
    assert await noted(carrier) == [(None, False)]


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
