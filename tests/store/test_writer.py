"""What happens to many jobs in one moment is written together, and each is told its own."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from tests.builders import WORKER, a_job
from tests.conftest import in_its_own_task
from tests.proxy import proxy_of
from tests.store.conftest import an_operation_of, claimed, held, history, inserted
from tests.store.test_interleavings import until_blocked
from vidgen import lifecycle
from vidgen.errors import DatabaseError, LeaseLostError, OperationTakenError, SubmitUnknownError
from vidgen.job import EventType, JobStatus, Stage, VideoJob
from vidgen.lifecycle import Transition
from vidgen.store import jobs
from vidgen.store.jobs import Write
from vidgen.store.pool import Connection, Database, Urgency, connect
from vidgen.store.writer import MOST, STATEMENTS, Writer


class Counted(Database):
    """A database that knows how often it was used."""

    uses = 0

    @asynccontextmanager
    async def connection(self, urgency: Urgency = Urgency.USUAL) -> AsyncIterator[Connection]:
        self.uses += 1
        async with super().connection(urgency) as connection:
            yield connection


@pytest.fixture
async def database(emptied_database_url: str) -> AsyncIterator[Counted]:
    async with Counted(emptied_database_url) as database:
        yield database


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[Writer]:
    async with in_its_own_task(writing(database)) as writer:
        yield writer


@asynccontextmanager
async def writing(database: Database) -> AsyncIterator[Writer]:
    async with asyncio.TaskGroup() as group:
        yield Writer(database, group)


def a_claim(job: VideoJob) -> Write:
    return Write(job_id=job.id, change=lifecycle.claimed(), worker_id=WORKER)


async def together(writer: Writer, writes: list[Write]) -> list[VideoJob | Exception]:
    """What becomes of *writes*, all of them asked for before the first is under way."""

    async def outcome(write: Write) -> VideoJob | Exception:
        try:
            return await writer.write(write)
        except (DatabaseError, LeaseLostError, OperationTakenError) as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(write)) for write in writes]
    return [task.result() for task in tasks]


async def test_hundreds_that_come_together_are_a_few_statements(
    connection: Connection, database: Counted, writer: Writer
) -> None:
    waiting = [await inserted(connection) for _ in range(200)]

    written = await together(writer, [a_claim(job) for job in waiting])

    assert [job.id for job in written if isinstance(job, VideoJob)] == [job.id for job in waiting]
    for job in (waiting[0], waiting[-1]):
        kept = await jobs.get(connection, job.id)
        assert kept in written
        assert [event.type for event in await history(connection, job)] == [
            EventType.CREATED,
            EventType.CLAIMED,
        ]
    assert database.uses <= 200 / MOST + STATEMENTS + 1


async def test_one_alone_is_written_at_once(
    connection: Connection, database: Counted, writer: Writer
) -> None:
    job = await writer.write(a_claim(await inserted(connection)))

    assert (job.status, job.worker_id, database.uses) == (JobStatus.PROCESSING, WORKER, 1)


async def test_who_comes_too_late_is_told_so_and_the_others_are_written(
    connection: Connection, writer: Writer
) -> None:
    free, taken = await inserted(connection), await inserted(connection)
    await claimed(connection, taken)

    first, second = await together(writer, [a_claim(free), a_claim(taken)])

    assert isinstance(first, VideoJob)
    assert first.worker_id == WORKER
    assert isinstance(second, LeaseLostError)
    assert str(taken.id) in second.message


async def test_the_error_of_one_is_its_own(connection: Connection, writer: Writer) -> None:
    before = await held(connection, Stage.GENERATING)
    thief, honest = (
        await held(connection, Stage.SUBMITTING),
        await held(connection, Stage.SUBMITTING),
    )
    receipts = [
        Write(job_id=job.id, change=lifecycle.submitted(1, an_operation_of(of)), worker_id=WORKER)
        for job, of in ((thief, before), (honest, honest))
    ]

    first, second = await together(writer, receipts)

    assert isinstance(first, OperationTakenError)
    assert await jobs.get(connection, thief.id) == thief
    assert isinstance(second, VideoJob)
    assert second.stage is Stage.GENERATING


async def test_a_row_that_nobody_can_read_is_written_and_keeps_no_other_from_being_told(
    connection: Connection, writer: Writer
) -> None:
    broken, whole = await inserted(connection), await inserted(connection)
    await connection.execute(
        """UPDATE video_jobs SET targets = '[{"provider": "sora"}]' WHERE id = $1""", broken.id
    )
    async with asyncio.TaskGroup() as group:
        good = group.create_task(writer.write(a_claim(whole)))
        with pytest.raises(TypeError, match="Target"):
            await writer.write(a_claim(broken))

    assert good.result().worker_id == WORKER
    holders = "SELECT count(*) FROM video_jobs WHERE worker_id = $1"
    assert await connection.fetchval(holders, WORKER) == 2


async def test_a_row_that_somebody_locks_holds_up_no_other(
    connection: Connection, shared_database_url: str, writer: Writer
) -> None:
    locked, free = await inserted(connection), await inserted(connection)
    async with connect(shared_database_url) as other, asyncio.TaskGroup() as group:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT FROM video_jobs WHERE id = $1 FOR UPDATE", locked.id)
        waits = group.create_task(writer.write(a_claim(locked)))

        assert (await writer.write(a_claim(free))).worker_id == WORKER

        await until_blocked(connection, await who_waits_for(connection, other))
        assert not waits.done()
        await transaction.commit()
    assert waits.result().worker_id == WORKER


async def who_waits_for(
    connection: Connection, holder: "asyncpg.Connection[asyncpg.Record]"
) -> int:
    """The server's process that waits for what *holder* has locked."""
    async with asyncio.timeout(10):
        while True:
            pid: int | None = await connection.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))",
                holder.get_server_pid(),
            )
            if pid is not None:
                return pid
            await asyncio.sleep(0.005)


async def test_what_happens_twice_to_one_job_is_written_twice(
    connection: Connection, writer: Writer
) -> None:
    job = await claimed(connection, await inserted(connection))
    cancel = Write(job_id=job.id, change=lifecycle.cancel_requested(discard=False))

    outcomes = await together(writer, [cancel, cancel])

    assert [type(each) for each in outcomes] == [VideoJob, VideoJob]
    told = [event.type for event in await history(connection, job)][2:]
    assert told == [EventType.CANCEL_REQUESTED, EventType.CANCEL_REQUESTED]


async def test_who_no_longer_waits_is_left_out(connection: Connection, writer: Writer) -> None:
    gone, there = await inserted(connection), await inserted(connection)
    async with asyncio.TaskGroup() as group:
        left = group.create_task(writer.write(a_claim(gone)))
        stays = group.create_task(writer.write(a_claim(there)))
        await asyncio.sleep(0)  # both are in line, and the statement has not begun
        left.cancel()

    assert stays.result().worker_id == WORKER
    assert await jobs.get(connection, gone.id) == gone


async def test_while_the_server_is_away_the_whole_line_is_told_at_once(
    connection: Connection, shared_database_url: str
) -> None:
    waiting = [await inserted(connection) for _ in range(MOST + 1)]
    server = urlsplit(shared_database_url)
    assert server.port is not None
    async with proxy_of(server.port) as proxy:
        there = server._replace(netloc=f"{server.netloc.rpartition(':')[0]}:{proxy.port}")
        async with Counted(there.geturl()) as database, asyncio.TaskGroup() as group:
            await proxy.cut()
            outcomes = await together(Writer(database, group), [a_claim(job) for job in waiting])

    assert {type(each) for each in outcomes} == {DatabaseError}
    assert database.uses <= STATEMENTS


@pytest.mark.parametrize(
    ("change", "is_sociable"),
    [
        (lifecycle.claimed(), True),
        (lifecycle.submitting(a_job()), True),
        (lifecycle.submitting(a_job(), user_limit=3), False),
        (lifecycle.submitting(a_job(), str(UUID(int=1))), False),
        (lifecycle.resubmitted(a_job(), SubmitUnknownError("?")), False),
    ],
)
def test_what_may_wait_for_more_than_its_row_goes_alone(
    change: Transition, is_sociable: bool
) -> None:
    assert Write(job_id=UUID(int=1), change=change).is_sociable is is_sociable


async def test_rows_are_looked_up_also_where_hardly_any_are(connection: Connection) -> None:
    """The plan is kept while a million come."""

    class Listener:
        statement = ""

        async def fetch(self, statement: str, _: list[str]) -> list[object]:
            self.statement = statement
            return []

    for _ in range(10):
        await inserted(connection)
    await connection.execute("ANALYZE video_jobs")
    listener = Listener()
    await jobs.apply_all(cast("Connection", listener), [])
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE together (jsonb[]) AS {listener.statement}")

    plan = "\n".join(row[0] for row in await connection.fetch("EXPLAIN EXECUTE together (NULL)"))

    assert re.search(r"Index Cond: .*id = ANY \(ARRAY\[c_1\.job_id\]\)", plan)
    assert "Seq Scan on video_jobs job" not in plan


async def test_when_the_process_ends_nobody_waits_for_ever(
    connection: Connection, shared_database_url: str, database: Database
) -> None:
    waiting = [await inserted(connection) for _ in range(STATEMENTS * MOST + 10)]
    writers: list[Writer] = []
    outcomes: list[asyncio.Task[VideoJob]] = []

    async def process() -> None:
        async with connect(shared_database_url) as other, asyncio.TaskGroup() as group:
            writers.append(Writer(database, group))
            await other.execute("BEGIN; LOCK TABLE video_jobs")
            outcomes.extend(
                asyncio.create_task(writers[0].write(a_claim(job)))  # noqa: TID251  awaited below
                for job in waiting
            )
            await who_waits_for(connection, other)
            group.create_task(defect())

    with pytest.raises(ExceptionGroup):
        await process()

    done, pending = await asyncio.wait(outcomes, timeout=10)
    assert not pending
    assert all(each.cancelled() for each in done)
    # What has to be written all the same is, as long as there are connections.
    assert (await writers[0].write(a_claim(waiting[0]))).worker_id == WORKER


async def defect() -> None:
    raise ZeroDivisionError


async def test_a_defect_on_the_way_to_the_server_ends_in_who_asked(
    connection: Connection, emptied_database_url: str
) -> None:
    job = await inserted(connection)
    closed = Database(emptied_database_url)  # whoever uses it has made a mistake
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        with pytest.raises(AssertionError, match="outside"):
            await Writer(closed, group).write(a_claim(job))
