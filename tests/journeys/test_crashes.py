"""
kill -9 and SIGSTOP in every stage and around the paid call; the simulator's bill is the judge.

Most tests bring one worker to many moments at once, one job each, and then stop it there:

    claimed ─ intent ─ request ─ accepted ─ receipt ─ generating ─ upload ─ half of it ─ completed

A statement of the worker is held back by a trigger in the test's own database. What a dead worker
had said to PostgreSQL may be rolled back, or be committed long after its death: both are tried.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from enum import StrEnum
from functools import partial

import asyncpg
import pytest

from tests.journeys.conftest import StartWorker, WorkerProcess
from tests.journeys.test_first_video import digests
from vidgen import JobStatus, VideoJob, VideoRequest
from vidgen.dispatch import Dispatch, Dispatcher, open_redis
from vidgen.job import EventType, Stage
from vidgen.queue import VideoQueue
from vidgen.resources import Clock, bucket_of
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.control import ProviderSimulator, Rule
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.s3.server import Fault
from vidgen.simulator.server import SimulatorServer
from vidgen.storage import Storage

REACH_TIMEOUT_S = 20
END_TIMEOUT_S = 40
HOLD_S = 6.0  # so long the bucket holds an upload back; all moments are reached in three
LOCK = 1

PAID_ONCE = (JobStatus.COMPLETED, None, 1)
UNKNOWN_UNPAID = (JobStatus.FAILED, "submit_unknown", 0)
UNKNOWN_PAID = (JobStatus.FAILED, "submit_unknown", 1)


class Moment(StrEnum):
    """Where a job is when its worker dies; a part of its prompt."""

    CLAIMED = "before the intent"
    INTENDED = "before the request"
    ACCEPTED = "before the answer"
    ANSWERED = "before the receipt"
    GENERATING = "while it is generated"
    GENERATED = "before the upload"
    UPLOADING = "halfway through the upload"
    UPLOADED = "before the end"


HELD_STATEMENTS = (Moment.CLAIMED, Moment.ANSWERED, Moment.UPLOADED)
DIRECTIVES = {
    Moment.GENERATING: " [[sim:generate 4s]]",
    Moment.UPLOADING: " [[sim:size 12M]]",
}


class Ending(StrEnum):
    """What becomes of a statement whose worker died while it ran."""

    ROLLED_BACK = "rolled back"
    COMMITTED_LATE = "committed after its death"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"settle_s": 0.5})


@pytest.fixture(autouse=True)
async def answered(s3: S3Server) -> AsyncIterator[None]:
    """The bucket goes on with what it holds back even for the dead."""
    yield
    async with asyncio.timeout(HOLD_S):
        await s3.wait_until_idle()


@pytest.fixture(autouse=True)
def quick(simulator: SimulatorServer) -> None:
    clip = render("tram", seconds=1, width=320, height=180, audio=False)
    for provider in (simulator.sora, simulator.veo):
        provider.clip, provider.generation_s = clip, 0.3


class Held:
    """Statements of workers that wait for us."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def count(self) -> int:
        return len(await self._waiting("pid"))

    async def let_go(self, ending: Ending) -> None:
        if ending is Ending.ROLLED_BACK:
            await self._waiting("pg_terminate_backend(pid)")
            await until(self._none)
        await self._connection.execute("SELECT pg_advisory_unlock($1)", LOCK)

    async def _none(self) -> bool:
        return await self.count() == 0

    async def _waiting(self, what: str) -> "list[asyncpg.Record]":
        return await self._connection.fetch(
            f"""
            SELECT {what} FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event = 'advisory'
            """  # noqa: S608  our own words
        )


@asynccontextmanager
async def held_statements(settings: Settings) -> AsyncIterator[Held]:
    """Hold intent, receipt or end of the jobs whose moment it is."""
    connection = await asyncpg.connect(settings.database_url, timeout=10, command_timeout=10)
    try:
        await connection.execute(
            f"""
            CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_advisory_xact_lock({LOCK});
                RETURN NEW;
            END $$;
            CREATE TRIGGER held BEFORE UPDATE ON video_jobs FOR EACH ROW
            WHEN (
                NEW.stage = 'submitting' AND OLD.stage = 'queued'
                    AND NEW.prompt ~ '{Moment.CLAIMED}'
                OR NEW.stage = 'generating' AND OLD.stage = 'submitting'
                    AND NEW.prompt ~ '{Moment.ANSWERED}'
                OR NEW.status = 'completed' AND NEW.prompt ~ '{Moment.UPLOADED}'
            )
            EXECUTE FUNCTION wait_for_the_test();
            """
        )
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        yield Held(connection)
    finally:
        await connection.close(timeout=10)


async def until(holds: Callable[[], Awaitable[bool]], timeout_s: float = REACH_TIMEOUT_S) -> None:
    """Return once *holds*; for what tells nobody when it changes."""
    async with asyncio.timeout(timeout_s):
        while not await holds():  # noqa: ASYNC110  a row, a log and a bucket tell nobody
            await asyncio.sleep(0.02)


def bills(provider: ProviderSimulator, job: VideoJob) -> int:
    return sum(charge.prompt == job.prompt for charge in provider.bill)


@pytest.mark.parametrize("ending", Ending)
@pytest.mark.parametrize("name", ["sora", "veo"])
async def test_a_kill_loses_nothing_and_pays_nothing_twice_whatever_moment_it_comes_at(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    s3: S3Server,
    name: str,
    ending: Ending,
) -> None:
    provider = simulator.simulators[name]
    hold_calls(provider)
    async with held_statements(settings) as held:
        worker = await start_worker(settings)
        jobs = await one_for_each_moment(queue, name, held)
        hold_uploads(jobs, s3)
        await until(lambda: are_there(jobs, queue, provider, s3, held))

        await worker.stop(signal.SIGKILL)

        await held.let_go(ending)
    await start_worker(settings)
    done = {moment: await queue.wait(job.id, timeout=END_TIMEOUT_S) for moment, job in jobs.items()}
    assert {
        moment: (job.status, job.error_code, bills(provider, job)) for moment, job in done.items()
    } == expected(name, ending)
    completed = [job for job in done.values() if job.status is JobStatus.COMPLETED]
    assert {job.attempt for job in completed} == {1}
    assert await digests(settings, completed) == [job.sha256 for job in completed]


async def one_for_each_moment(queue: VideoQueue, name: str, held: Held) -> dict[Moment, VideoJob]:
    """Those first whose statements are held, one after the other: each without company."""
    wanted = {
        moment: VideoRequest(provider=name, prompt=f"a tram {moment}{DIRECTIVES.get(moment, '')}")
        for moment in Moment
    }
    jobs = {}
    for moment in HELD_STATEMENTS:
        jobs[moment] = await queue.enqueue(wanted.pop(moment))
        await until(partial(is_held, held, len(jobs)))
    return jobs | dict(zip(wanted, await queue.enqueue_many(list(wanted.values())), strict=True))


async def is_held(held: Held, count: int) -> bool:
    return await held.count() == count


def hold_calls(provider: ProviderSimulator) -> None:
    provider.script(
        Rule(deed="submit", outcome="hang", prompt=Moment.INTENDED, times=1),
        Rule(deed="submit", outcome="accept-then-hang", prompt=Moment.ACCEPTED, times=1),
    )


def hold_uploads(jobs: dict[Moment, VideoJob], s3: S3Server) -> None:
    for moment, operation, skip in (
        (Moment.GENERATED, "PutObject", 0),
        (Moment.UPLOADING, "UploadPart", 2),  # behind the trial of a checksum
    ):
        path = str(jobs[moment].id)
        s3.faults.append(
            Fault(action="delay", operation=operation, path=path, skip=skip, delay_s=HOLD_S)
        )


async def are_there(
    jobs: dict[Moment, VideoJob],
    queue: VideoQueue,
    provider: ProviderSimulator,
    s3: S3Server,
    held: Held,
) -> bool:
    """Whether each job is at its moment, where it stays."""
    return (
        await is_held(held, len(HELD_STATEMENTS))
        and len(provider.of("submit")) == len(jobs) - 1  # all but the claimed one
        and (await queue.get(jobs[Moment.GENERATING].id)).stage is Stage.GENERATING
        and uploads_of(jobs[Moment.GENERATED], s3, "PutObject") == 1
        and uploads_of(jobs[Moment.UPLOADING], s3, "UploadPart") == 3
    )


def uploads_of(job: VideoJob, s3: S3Server, operation: str) -> int:
    return sum(one.operation == operation and str(job.id) in one.key for one in s3.requests)


def expected(name: str, ending: Ending) -> dict[Moment, tuple[JobStatus, str | None, int]]:
    ends: dict[Moment, tuple[JobStatus, str | None, int]] = dict.fromkeys(Moment, PAID_ONCE)
    if name == "veo":  # it has no list to look into
        ends[Moment.INTENDED] = UNKNOWN_UNPAID
        ends[Moment.ACCEPTED] = UNKNOWN_PAID
        if ending is Ending.ROLLED_BACK:
            ends[Moment.ANSWERED] = UNKNOWN_PAID
        else:
            ends[Moment.CLAIMED] = UNKNOWN_UNPAID
    return ends


async def test_an_upload_that_a_kill_cuts_is_made_again_and_its_rest_is_cleared_away(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    s3: S3Server,
) -> None:
    s3.faults.append(Fault(action="delay", operation="UploadPart", skip=2, delay_s=HOLD_S))
    worker = await start_worker(settings)
    job = await queue.enqueue(VideoRequest(provider="sora", prompt="a tram [[sim:size 12M]]"))
    async with asyncio.timeout(REACH_TIMEOUT_S):
        await s3.wait_for("UploadPart", 3)
    await worker.stop(signal.SIGKILL)
    await start_worker(settings)

    done = await queue.wait(job.id, timeout=END_TIMEOUT_S)

    assert (done.status, done.size_bytes, len(simulator.sora.bill)) == (
        JobStatus.COMPLETED,
        12 * 1024 * 1024,
        1,
    )
    assert len(s3.uploads()) == 1
    async with Storage.open(bucket_of(settings)) as storage:
        now = Clock().now() + timedelta(seconds=2)  # S3 tells whole seconds
        assert await storage.abort_uploads_older_than("videos/", timedelta(), now) == 1
    assert s3.uploads() == []


async def test_a_frozen_worker_that_wakes_up_writes_nothing(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 9
    frozen = await start_worker(settings)
    jobs = await queue.enqueue_many(
        [VideoRequest(provider="sora", prompt=f"tram {number}") for number in range(20)]
    )
    await until(lambda: all_at(queue, jobs, EventType.SUBMITTED))
    frozen.signal(signal.SIGSTOP)
    await start_worker(settings)
    await until(lambda: all_at(queue, jobs, EventType.RELEASED))

    frozen.signal(signal.SIGCONT)

    await until(lambda: has_said(frozen, "lease lost, stopping", len(jobs)))
    done = [await queue.wait(job.id, timeout=END_TIMEOUT_S) for job in jobs]
    assert {(job.status, job.attempt) for job in done} == {(JobStatus.COMPLETED, 1)}
    assert len(simulator.sora.bill) == len(jobs)
    assert await after_the_release(settings, stale=frozen.said("worker ready")[0]["workerId"]) == 0


async def all_at(queue: VideoQueue, jobs: list[VideoJob], wanted: EventType) -> bool:
    """Whether *wanted* has happened to each of *jobs*."""
    for job in jobs:
        if wanted not in {event.type for event in await queue.history(job.id)}:
            return False
    return True


async def has_said(worker: WorkerProcess, message: str, times: int = 1) -> bool:
    return len(worker.said(message)) >= times


async def after_the_release(settings: Settings, stale: str) -> int:
    """How many events *stale* wrote about jobs that had been freed from it and not claimed anew."""
    connection = await asyncpg.connect(settings.database_url, timeout=10, command_timeout=10)
    try:
        count: int = await connection.fetchval(
            """
            SELECT count(*) FROM job_events AS late
            WHERE late.worker_id = $1::uuid AND late.type <> 'claimed' AND EXISTS (
                SELECT FROM job_events AS released
                WHERE released.job_id = late.job_id AND released.seq < late.seq
                  AND released.type = 'released' AND released.detail ->> 'reason' = 'worker_lost'
                  AND NOT EXISTS (
                      SELECT FROM job_events AS claim
                      WHERE claim.job_id = late.job_id AND claim.worker_id = $1::uuid
                        AND claim.type = 'claimed' AND claim.seq BETWEEN released.seq AND late.seq
                  )
            )
            """,
            stale,
        )
        return count
    finally:
        await connection.close(timeout=10)


async def test_the_late_receipt_of_a_frozen_worker_revives_its_job(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.veo.script(Rule(deed="submit", outcome="late", argument="1s", times=1))
    # It is frozen for less than it would wait for the answer.
    frozen = await start_worker(settings.model_copy(update={"submit_timeout_s": 60}))
    job = await queue.enqueue(VideoRequest(provider="veo", prompt="a tram in the sun"))
    async with asyncio.timeout(REACH_TIMEOUT_S):
        await simulator.veo.arrived("submit")
    frozen.signal(signal.SIGSTOP)
    await start_worker(settings)
    given_up = await queue.wait(job.id, timeout=END_TIMEOUT_S)
    assert (given_up.status, given_up.error_code) == (JobStatus.FAILED, "submit_unknown")

    frozen.signal(signal.SIGCONT)

    await until(lambda: all_at(queue, [job], EventType.COMPLETED))
    done = await queue.get(job.id)
    assert (done.status, done.attempt, bills(simulator.veo, done)) == (JobStatus.COMPLETED, 1, 1)


async def test_of_many_dispatches_of_one_job_one_is_carried(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    for _ in range(2):
        await start_worker(settings)
    jobs = await queue.enqueue_many(
        [VideoRequest(provider="sora", prompt=f"tram {number}") for number in range(20)]
    )

    async with open_redis(settings.redis_url) as redis:
        await Dispatcher(redis, settings.queue_name).send(
            [Dispatch(job_id=job.id, epoch=0, looks=n) for n in range(1, 8) for job in jobs],
            now=Clock().now(),
        )

    done = [await queue.wait(job.id, timeout=END_TIMEOUT_S) for job in jobs]
    assert {(job.status, job.attempt, job.lease_epoch) for job in done} == {
        (JobStatus.COMPLETED, 1, 1)
    }
    assert len(simulator.sora.bill) == len(jobs)
