"""
Two workers and their owner at one job, in any order and at the same moment.

Whatever they do: every CHECK holds, each write that happened has its event and no other has, the
row is what the pure machine says, the ledger agrees with the row, and in the end the job can be
finished.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import UUID

import asyncpg
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.builders import NOON, a_video, an_operation
from tests.ledger import assert_kept
from tests.machine import GuardRefusedError, played
from tests.store.conftest import history, inserted
from vidgen import lifecycle
from vidgen.errors import (
    GenerationFailedError,
    InvalidStateError,
    LeaseLostError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import Stage, VideoJob
from vidgen.lifecycle import Backoff, Transition
from vidgen.store import budgets, jobs
from vidgen.store.budgets import Period
from vidgen.store.pool import Connection, connect

AT_ONCE = Backoff(base_s=0)

ACTIONS: dict[str, Callable[[VideoJob], Transition]] = {
    "claim": lambda _: lifecycle.claimed(),
    "release": lambda job: lifecycle.released(job, "hand_over"),
    "postpone": lambda _: lifecycle.postponed(0, None),
    "intend": lifecycle.submitting,
    "receipt": lambda job: lifecycle.submitted(
        job.attempt, an_operation(f"{job.id}/{job.attempt}")
    ),
    "generated": lambda job: lifecycle.generated(job, expires_at=None, cost_micros=None),
    "completed": lambda job: lifecycle.completed(job, a_video()),
    "trouble": lambda job: lifecycle.errored(
        job, TransientError("busy"), backoff=AT_ONCE, now=NOON.replace(year=2000)
    ),
    "unknown": lambda job: lifecycle.failed(job, SubmitUnknownError("?")),
    "charged": lambda job: lifecycle.judged(
        job, GenerationFailedError("no"), charged=True, backoff=AT_ONCE, now=NOON
    ),
    "answered": lambda job: lifecycle.answered(job, stopped_at_provider=False),
    "anew": lambda job: lifecycle.retried(job, max_attempts=3, anew=True),
    "stopped": lambda job: lifecycle.cancelled(job, held=True, stopped_at_provider=None),
    "unsettled": lambda job: lifecycle.unsettled(job, SubmitUnknownError("?"), wait_s=0),
    "disproved": lifecycle.disproved,
    "spend again": lambda job: lifecycle.resubmitted(job, SubmitUnknownError("?")),
    "verdict": lambda job: lifecycle.judged(
        job, GenerationFailedError("no"), charged=False, backoff=AT_ONCE, now=NOON
    ),
    "wish": lambda _: lifecycle.cancel_requested(discard=False),
    "cancel": lambda job: lifecycle.cancelled(job, held=False, stopped_at_provider=False),
    "obey": lambda job: lifecycle.cancelled(job, held=True, stopped_at_provider=False),
    "retry": lambda job: lifecycle.retried(job, max_attempts=3),
}
# Large enough to hold nothing back: their counts must follow.
BUDGETS: tuple[tuple[str, Period], ...] = (("all", "total"), ("each-user", "day"))
Deed = tuple[int, str]  # which worker does what

# Mostly the natural next step, so that most sequences get far.
a_deed = st.tuples(
    st.integers(0, 1), st.just("next") | st.sampled_from(sorted(ACTIONS)) | st.just("look")
)
FORWARD = [(0, name) for name in ("claim", "intend", "receipt", "generated", "completed")]


class Worker:
    """One connection, and what its worker last saw of the job: maybe long ago."""

    def __init__(self, number: int, connection: Connection, seen: VideoJob) -> None:
        self.id = UUID(int=number + 1)
        self.connection = connection
        self.seen = seen

    async def act(self, name: str) -> Transition | None:
        """What was written, or None if the guard held it off."""
        lease = self.seen.lease if self.seen.worker_id == self.id else None
        try:
            change = ACTIONS[name](self.seen)
            self.seen = await jobs.apply(
                self.connection, self.seen.id, change, lease=lease, worker_id=self.id
            )
        except (LeaseLostError, InvalidStateError):
            return None
        return change

    async def look(self) -> VideoJob:
        """The row as it is now."""
        now = await jobs.get(self.connection, self.seen.id)
        assert now is not None, "the job is lost"
        return now

    def expected(self, row: VideoJob, name: str) -> VideoJob:
        """What the pure machine makes of *row*."""
        ours = self.seen.worker_id == self.id == row.worker_id
        by_holder = ours and self.seen.lease_epoch == row.lease_epoch
        try:
            change = ACTIONS[name](self.seen)
            return played(row, change, by_holder=by_holder, worker_id=self.id)
        except (GuardRefusedError, InvalidStateError):
            return row


def facts(job: VideoJob) -> dict[str, object]:
    """What no clock has a part in."""
    clocks = {"due_at", "started_at", "submitted_at", "generated_at", "completed_at"}
    clocks |= {"deadline_at", "intent_at", "cancel_requested_at"}
    return {
        name: getattr(job, name) for name in VideoJob.__dataclass_fields__ if name not in clocks
    }


@settings(max_examples=40, deadline=None)
@given(deeds=st.lists(a_deed, max_size=25))
@example(deeds=[*FORWARD[:2], (0, "unknown"), (1, "claim"), (0, "receipt"), (1, "claim")])
@example(deeds=[*FORWARD[:2], (0, "release"), (1, "look"), (1, "claim"), (0, "receipt")])
@example(deeds=[*FORWARD[:3], (0, "verdict"), *FORWARD])
@example(deeds=[*FORWARD[:3], (0, "charged"), (0, "anew"), *FORWARD])
@example(deeds=[*FORWARD[:3], (0, "stopped"), (0, "answered"), (0, "retry"), *FORWARD])
@example(deeds=[*FORWARD[:2], (0, "spend again"), *FORWARD])
@example(deeds=[*FORWARD[:4], (0, "obey"), (0, "retry"), (0, "claim"), (0, "completed")])
@example(deeds=FORWARD)
def test_one_after_the_other_they_do_what_the_pure_machine_says(
    shared_database_url: str, deeds: list[Deed]
) -> None:
    async def play(workers: list[Worker]) -> None:
        for who, deed in deeds:
            worker = workers[who]
            name = deed
            if deed in {"look", "next"}:
                worker.seen = await worker.look()
                if deed == "look":
                    continue
                name = next_step(worker)
            row = await worker.look()
            expected, told = worker.expected(row, name), len(await history(worker.connection, row))

            written = await worker.act(name)

            now = await worker.look()
            assert facts(now) == facts(expected)
            assert len(await history(worker.connection, row)) == told + (written is not None)
            await assert_kept(worker.connection, now)

    asyncio.run(at_one_job(shared_database_url, play))


@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(0, len(FORWARD) - 1),
    rounds=st.lists(
        st.tuples(st.sampled_from(sorted(ACTIONS)), st.sampled_from(sorted(ACTIONS))),
        min_size=1,
        max_size=10,
    ),
)
@example(start=2, rounds=[("receipt", "unknown"), ("receipt", "unknown")])
@example(start=2, rounds=[("stopped", "anew"), ("cancel", "answered"), ("anew", "anew")])
@example(start=0, rounds=[("claim", "claim"), ("release", "cancel"), ("retry", "retry")])
def test_at_the_same_moment_each_write_that_happened_is_told_once(
    shared_database_url: str, start: int, rounds: list[tuple[str, str]]
) -> None:
    async def play(workers: list[Worker]) -> None:
        for _, name in FORWARD[:start]:
            await workers[0].act(name)
        workers[1].seen = await workers[1].look()
        for names in rounds:
            told = len(await history(workers[0].connection, workers[0].seen))

            async with asyncio.TaskGroup() as group:
                acts = [
                    group.create_task(worker.act(name))
                    for worker, name in zip(workers, names, strict=True)
                ]

            written = [change for act in acts if (change := act.result())]
            now = await workers[0].look()
            await assert_kept(workers[0].connection, now)
            events = (await history(workers[0].connection, now))[told:]
            assert sorted(event.type for event in events) == sorted(
                change.event for change in written
            )
            if events:
                last = events[-1]
                assert (now.status, now.stage, now.attempt) == (
                    last.status,
                    last.stage,
                    last.attempt,
                )

    asyncio.run(at_one_job(shared_database_url, play))


async def at_one_job(url: str, play: Callable[[list[Worker]], Awaitable[None]]) -> None:
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(connect(url)) for _ in range(2)]
        for scope, period in BUDGETS:
            await budgets.put(connections[0], scope, period, 10**12, "test")
        job = await inserted(connections[0], user_id="ann")
        workers = [Worker(number, connection, job) for number, connection in enumerate(connections)]
        await play(workers)
        await finish(workers[0])


async def finish(worker: Worker) -> None:
    """Whatever happened, the sweep and one worker bring the job to its end."""
    worker.seen = await worker.look()
    if worker.seen.worker_id is not None:  # its holder died
        orphan = worker.seen
        assert orphan in await jobs.orphaned(worker.connection, 15, 1000)
        worker.seen = await jobs.apply(
            worker.connection, orphan.id, lifecycle.released(orphan, "lost"), lease=orphan.lease
        )
    if not worker.seen.is_final:
        due = await jobs.due_now(worker.connection, [worker.seen.id])
        assert [job.id for job in due] == [worker.seen.id], "nobody would ever look at it again"
    for _ in range(20):
        if worker.seen.is_final:
            await assert_kept(worker.connection, worker.seen)
            return
        await worker.act(next_step(worker))
    raise AssertionError(f"the job cannot be finished: {worker.seen}")


def next_step(worker: Worker) -> str:
    if worker.seen.worker_id != worker.id:
        return "claim"
    if worker.seen.stage is Stage.QUEUED and worker.seen.cancel_requested_at is not None:
        return "obey"
    return {
        Stage.QUEUED: "intend",
        Stage.SUBMITTING: "receipt",
        Stage.GENERATING: "generated",
        Stage.TRANSFERRING: "completed",
    }[worker.seen.stage]


async def test_two_claims_that_meet_on_the_lock_do_not_both_succeed(
    connection: "asyncpg.Connection[asyncpg.Record]", shared_database_url: str
) -> None:
    job = await inserted(connection)
    async with connect(shared_database_url) as other:
        transaction = connection.transaction()
        await transaction.start()
        first = Worker(0, connection, job)
        await first.act("claim")

        async with asyncio.TaskGroup() as group:
            second = group.create_task(Worker(1, other, job).act("claim"))
            await until_blocked(connection, other.get_server_pid())
            await transaction.commit()

        assert second.result() is None
        assert (await first.look()).worker_id == first.id


async def until_blocked(connection: Connection, pid: int) -> None:
    async with asyncio.timeout(10):
        while True:
            if await connection.fetchval("SELECT pg_blocking_pids($1)", pid):
                return
            await asyncio.sleep(0.005)
