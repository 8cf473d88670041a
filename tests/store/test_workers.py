"""Who is alive."""

import asyncio
from uuid import UUID

from tests.builders import WORKER, a_worker
from tests.store.conftest import held, inserted
from vidgen import lifecycle
from vidgen.job import Stage
from vidgen.store import jobs, upkeep, workers
from vidgen.store.pool import Connection, Database


async def silence(connection: Connection, seconds: int) -> None:
    """Let *seconds* go by without a heartbeat of anybody."""
    await connection.execute(
        "UPDATE workers SET heartbeat_at = heartbeat_at - make_interval(secs => $1)", seconds
    )


async def test_the_first_heartbeat_makes_a_worker_known(connection: Connection) -> None:
    beat = await workers.heartbeat(connection, a_worker())

    assert beat.now.tzinfo is not None
    assert beat.cancels == {}
    assert await workers.alive(connection, 15) == 1


async def test_a_heartbeat_renews(connection: Connection) -> None:
    await workers.heartbeat(connection, a_worker())
    await silence(connection, 20)
    assert await workers.alive(connection, 15) == 0

    await workers.heartbeat(connection, a_worker())

    assert await workers.alive(connection, 15) == 1
    assert await connection.fetchval("SELECT count(*) FROM workers") == 1


async def test_a_heartbeat_brings_back_what_should_be_cancelled(connection: Connection) -> None:
    mine, _, others = (
        await held(connection, Stage.GENERATING),
        await held(connection),
        await inserted(connection),
    )
    await jobs.apply(connection, others.id, lifecycle.claimed(), worker_id=UUID(int=2))
    for job in (mine, others):
        await jobs.apply(connection, job.id, lifecycle.cancel_requested(discard=True))

    beat = await workers.heartbeat(connection, a_worker())

    assert beat.cancels == {mine.id: True}


async def test_a_worker_that_leaves_is_no_longer_alive(connection: Connection) -> None:
    await workers.heartbeat(connection, a_worker(1))
    await workers.heartbeat(connection, a_worker(2))

    await workers.leave(connection, WORKER)

    assert await workers.alive(connection, 15) == 1


async def test_a_dead_worker_is_forgotten_once_it_holds_nothing(connection: Connection) -> None:
    job = await held(connection)
    for number in (1, 2):
        await workers.heartbeat(connection, a_worker(number))
    await silence(connection, 3600)
    await workers.heartbeat(connection, a_worker(3))

    assert await workers.forget_dead(connection, 600) == 1  # number 1 holds a job
    await jobs.apply(connection, job.id, lifecycle.released(job, "worker_lost"), lease=job.lease)
    assert await workers.forget_dead(connection, 600) == 1
    assert await workers.alive(connection, 600) == 1


# --- periodic duties ---


async def test_a_duty_is_done_once_in_its_time(connection: Connection) -> None:
    turns = [await upkeep.take_turn(connection, "cleanup", 60) for _ in range(3)]

    assert turns == [True, False, False]
    assert await upkeep.take_turn(connection, "sweep", 60)


async def test_a_duty_is_due_again_when_its_time_has_gone_by(connection: Connection) -> None:
    await upkeep.take_turn(connection, "cleanup", 60)
    await connection.execute("UPDATE upkeep SET ran_at = ran_at - interval '61 s'")

    assert await upkeep.take_turn(connection, "cleanup", 60)
    assert not await upkeep.take_turn(connection, "cleanup", 60)


async def test_of_many_ticks_at_once_one_does_the_duty(database: Database) -> None:
    async def tick() -> bool:
        async with database.connection() as connection:
            return await upkeep.take_turn(connection, "cleanup", 60)

    async with asyncio.TaskGroup() as group:
        ticks = [group.create_task(tick()) for _ in range(10)]

    assert sorted(tick.result() for tick in ticks) == [False] * 9 + [True]
