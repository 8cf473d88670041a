"""What dead workers leave in Redis is cleared away, and what waits there is left alone."""

from collections.abc import Sequence
from dataclasses import replace

import orjson
import pytest

from tests.pipeline.conftest import Carrier
from vidgen import VideoJob, VideoRequest
from vidgen.dispatch import Dispatch
from vidgen.line import IN_PROGRESS_PREFIX, MESSAGE_PREFIX, share_name, shares_name
from vidgen.pipeline.carry import carry
from vidgen.resources import Resources

SORA = VideoRequest(provider="sora", prompt="a tram in the rain", seconds=4)


async def names(resources: Resources) -> set[str]:
    """What arq would look at."""
    return {
        name.decode() for name in await resources.redis.zrange(resources.settings.queue_name, 0, -1)
    }


def dispatch_of(job: VideoJob, looks: int = 0) -> Dispatch:
    return Dispatch(job_id=job.id, epoch=job.lease_epoch, looks=looks)


async def taken(resources: Resources, *dispatches: Dispatch) -> None:
    """Send them; a worker took them and died."""
    await resources.dispatcher.send(dispatches, now=resources.clock.now())
    for dispatch in dispatches:
        await resources.redis.set(IN_PROGRESS_PREFIX + dispatch.id, b"1")


async def changed(resources: Resources, jobs: Sequence[VideoJob], changes: str) -> None:
    async with resources.database.connection() as connection:
        await connection.execute(
            f"UPDATE video_jobs SET {changes} WHERE id = ANY($1::uuid[])",  # noqa: S608  ours
            [job.id for job in jobs],
        )


async def test_what_a_worker_took_and_died_with_gets_a_new_name_and_loses_the_old_one(
    carrier: Carrier, resources: Resources
) -> None:
    jobs = [await carrier.enqueue(SORA) for _ in range(3)]
    await taken(resources, *(dispatch_of(job) for job in jobs))
    await changed(resources, jobs, "due_at = now() - interval '1 minute'")

    await carrier.sweep()

    renamed = [await carrier.queue.get(job.id) for job in jobs]
    assert await names(resources) == {dispatch_of(job).id for job in renamed}
    assert {job.lease_epoch for job in renamed} == {1}
    for job in jobs:
        old = dispatch_of(job).id
        assert not await resources.redis.exists(IN_PROGRESS_PREFIX + old, MESSAGE_PREFIX + old)


async def test_a_dispatch_that_no_job_waits_for_is_dropped_and_one_that_waits_is_kept(
    carrier: Carrier, resources: Resources
) -> None:
    waiting, looked_for, freed, held, ended = [await carrier.enqueue(SORA) for _ in range(5)]
    nowhere, nowhere_yet = (Dispatch(job_id=carrier.leases.id, epoch=0, looks=n) for n in (3, 4))
    await taken(resources, dispatch_of(freed), dispatch_of(held), dispatch_of(ended), nowhere)
    kept = [dispatch_of(looked_for, looks=2), nowhere_yet]
    await resources.dispatcher.send(kept, now=resources.clock.now())
    await changed(resources, [freed], "lease_epoch = 2")
    await changed(
        resources,
        [held],
        f"lease_epoch = 1, due_at = NULL, status = 'processing', worker_id = '{carrier.leases.id}'",
    )
    await carrier.queue.cancel(ended.id)
    cron = "cron:cleanup:1700000000000"
    await resources.redis.zadd(resources.settings.queue_name, {cron: 1})

    await carrier.sweep()

    left = {dispatch_of(waiting).id, dispatch_of(looked_for).id, cron, *(d.id for d in kept)}
    assert await names(resources) == left
    assert await resources.redis.keys(f"{IN_PROGRESS_PREFIX}*") == []


@pytest.mark.parametrize("number", [1200])
async def test_however_many_are_left_behind_they_are_gone_after_one_thorough_look(
    carrier: Carrier, resources: Resources, number: int
) -> None:
    jobs = await carrier.queue.enqueue_many([SORA] * number)
    await taken(resources, *(dispatch_of(job) for job in jobs))
    await changed(resources, jobs, "lease_epoch = 2, failures = 1, due_at = now() + interval '1 h'")
    newcomer = await carrier.enqueue(SORA)

    await carrier.sweep()

    assert await names(resources) == {dispatch_of(newcomer).id}


async def test_a_dispatch_that_overtakes_its_row_keeps_its_place_among_users(
    carrier: Carrier,
) -> None:
    resources = carrier.resources
    async with resources.database.connection() as own, own.transaction():
        job = await carrier.queue.enqueue(SORA, user_id="ada", priority=4, connection=own)
        first, shares = dispatch_of(job), shares_name(resources.settings.queue_name)
        name = share_name("ada", 4)
        await resources.redis.zadd(shares, {name: 4000})

        for looks in range(2):
            await carry(resources, carrier.leases, carrier.lookout, replace(first, looks=looks))

    for looks in range(3):
        message = await resources.redis.get(MESSAGE_PREFIX + dispatch_of(job, looks).id)
        assert orjson.loads(message)["share"] == [name, 4000]
    assert await resources.redis.zscore(shares, name) == 4000 - 2 * 4000
