"""
Transitions of many tasks, written together: whoever comes while a statement is on its way goes with
the next one, so that a thousand jobs that get on in the same moment are a few dozen statements.

    write ──> line of its urgency ──> one statement ──> written: the job as it is then
                                          │
                                          ├── refused or locked ──> alone, and told why
                                          ├── an error ──> each of them alone: it is one's own
                                          └── PostgreSQL is away ──> the whole line is told

Alone means what it meant without company: `jobs.apply_one`. A statement of several waits for
nobody's lock, so that what somebody keeps locked holds up no other; what may wait for more than its
own row goes alone from the start (`Write.is_sociable`). Measured: 150 µs of CPU for one transition
alone, 50 for one of twenty, and in PostgreSQL a third.
"""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from asyncpg import LockNotAvailableError, Record, TransactionRollbackError

from vidgen.errors import DatabaseError
from vidgen.job import VideoJob
from vidgen.store import jobs
from vidgen.store.jobs import Write
from vidgen.store.pool import Database, Urgency
from vidgen.store.rows import job_of

# Of one urgency: so many statements at once, of so many transitions at most.
STATEMENTS = 3
MOST = 64
# What makes PostgreSQL look away, and is the fault of one of them: a deadlock, a lock.
_OWN = (TransactionRollbackError, LockNotAvailableError)


@dataclass(slots=True)
class _Waiting:
    """A transition, and who waits for what becomes of it."""

    write: Write
    outcome: asyncio.Future[VideoJob]

    def tell(self, job: VideoJob) -> None:
        if not self.outcome.done():
            self.outcome.set_result(job)

    def read(self, row: Record) -> None:
        """It is written; a row that cannot be read must not keep the others from being told."""
        try:
            self.tell(job_of(row))
        except Exception as error:  # noqa: BLE001  carried over to whoever waits for the outcome
            self.fail(error)

    def fail(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.outcome.exception()  # nobody may be waiting any more; that is no mistake

    def ended(self, _: asyncio.Task[None]) -> None:
        """Nobody works on it any more: whoever still waits must not wait for ever."""
        self.outcome.cancel()


@dataclass(slots=True)
class _Line:
    """Those of one urgency, in the order in which they came."""

    waiting: list[_Waiting] = field(default_factory=list)
    statements: int = 0

    def take(self) -> list[_Waiting]:
        """The next ones that may go together: one of each job, and only who is still waited for."""
        taken, left = dict[UUID, _Waiting](), list[_Waiting]()
        for each in self.waiting:
            if each.outcome.done():
                continue
            if len(taken) < MOST and each.write.job_id not in taken:
                taken[each.write.job_id] = each
            else:
                left.append(each)
        self.waiting = left
        return list(taken.values())

    def empty(self) -> list[_Waiting]:
        """All of them."""
        waiting, self.waiting = self.waiting, []
        return waiting


class Writer:
    """
    Writes what happens to jobs.

    Args:
        group: Owns the statements; it has to outlive whoever writes.
    """

    def __init__(self, database: Database, group: asyncio.TaskGroup) -> None:
        """Write nothing yet."""
        self._database = database
        self._group = group
        self._lines: defaultdict[Urgency, _Line] = defaultdict(_Line)

    async def write(self, write: Write, urgency: Urgency = Urgency.USUAL) -> VideoJob:
        """
        Write one transition; the job as it is then.

        Raises:
            DatabaseError: PostgreSQL is away; it may or may not have been written.
            VidgenError: As `jobs.apply_one`.
        """
        line = self._lines[urgency]
        if not write.is_sociable or not self._is_served(line, urgency):
            return await self._alone(write, urgency)
        outcome: asyncio.Future[VideoJob] = asyncio.get_running_loop().create_future()
        line.waiting.append(_Waiting(write, outcome))
        return await outcome

    def _is_served(self, line: _Line, urgency: Urgency) -> bool:
        """Whether somebody will look after *line*; not when the process is ending."""
        if line.statements >= STATEMENTS:
            return True
        task = self._begin(self._serve(line, urgency))
        if task is None:
            return False
        line.statements += 1
        task.add_done_callback(partial(self._served, line, urgency))
        return True

    def _served(self, line: _Line, urgency: Urgency, task: asyncio.Task[None]) -> None:
        line.statements -= 1
        # Who came since its last look is served by another one, unless the process ends.
        if line.waiting and (task.cancelled() or not self._is_served(line, urgency)):
            for each in line.empty():
                each.outcome.cancel()

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None] | None:
        try:
            return self._group.create_task(work)
        except RuntimeError:  # the group is over, or about to be
            work.close()
            return None

    async def _serve(self, line: _Line, urgency: Urgency) -> None:
        while line.waiting:
            await self._write_together(line, urgency)

    async def _write_together(self, line: _Line, urgency: Urgency) -> None:
        taken, written = list[_Waiting](), dict[UUID, Record]()
        try:
            async with self._database.connection(urgency) as connection:
                # Not before there is a connection: until then others may come.
                taken = line.take()
                if taken:
                    written = await jobs.apply_all(connection, [each.write for each in taken])
        except DatabaseError as error:
            if not isinstance(error.__cause__, _OWN):
                # The others would only learn it from the next statement, and that much later.
                for each in (*taken, *line.empty()):
                    each.fail(type(error)(error.message))
                return
            written = {}
        except Exception:  # noqa: BLE001  of one of them, who is told when it is alone
            taken, written = taken or line.take(), {}
        except asyncio.CancelledError:
            for each in taken:
                each.outcome.cancel()
            raise
        for each in taken:
            if (row := written.get(each.write.job_id)) is not None:
                each.read(row)
            else:
                self._send_alone(each, urgency)

    def _send_alone(self, waiting: _Waiting, urgency: Urgency) -> None:
        task = self._begin(self._write_alone(waiting, urgency))
        if task is None:
            waiting.outcome.cancel()
        else:
            task.add_done_callback(waiting.ended)

    async def _write_alone(self, waiting: _Waiting, urgency: Urgency) -> None:
        try:
            job = await self._alone(waiting.write, urgency)
        except Exception as error:  # noqa: BLE001  carried over to whoever waits for the outcome
            waiting.fail(error)
        else:
            waiting.tell(job)

    async def _alone(self, write: Write, urgency: Urgency) -> VideoJob:
        async with self._database.connection(urgency) as connection:
            return await jobs.apply_one(connection, write)
