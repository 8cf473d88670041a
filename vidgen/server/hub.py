"""
One reader for everybody who watches: however many pages and services follow jobs, PostgreSQL is
asked once and Redis listened to once.

    notice from Redis ──> whose job changed ──┐
    every second ───────> all watched jobs ───┴─> one statement ──> each watcher's line

Redis says when to look; what happened is read from `job_events`, in order, so a lost notice costs a
second and nothing else.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from loguru import logger

from vidgen.errors import DatabaseError, DispatchError, TooManyWatchersError
from vidgen.job import JobEvent
from vidgen.live import Ear
from vidgen.resources import Resources
from vidgen.store import events
from vidgen.store.pool import Connection

LOOK_INTERVAL_S = 1.0
# Notices of many jobs within so long are answered by one statement.
GATHER_S = 0.02
MAX_WATCHERS = 2_000
# A watcher of all jobs that is so far behind is let go; it comes back and reads on from its number.
MAX_BEHIND = 2_000
READ_AT_ONCE = 1_000
# Numbers are given before the commit, so one may appear a moment after its successors. These wait
# for it, since whoever comes back names the last number seen, and must not have missed one.
COMMIT_WITHIN_S = 0.25
# A number that has not appeared for so long belongs to a transaction that was rolled back.
MISSING_FOR_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """How far a provider is with a video; told live, and nowhere written down as an event."""

    job_id: UUID
    at: datetime
    progress: int


Happened = JobEvent | Progressed


class Watcher:
    """
    The line of one who watches: events come out in the order in which they happened.

    Attributes:
        job_id: Whose events; None for all.
        after: The number of the last event that was put into the line.
    """

    def __init__(self, job_id: UUID | None, after: int) -> None:
        """Nothing is in it yet."""
        self.job_id = job_id
        self.after = after
        self._line: list[Happened] = []
        self._filled = asyncio.Event()
        self._ended = False
        self._replayed: frozenset[int | None] = frozenset()

    def replay(self, happened: Sequence[JobEvent], *, is_all: bool) -> None:
        """
        Begin with what happened before; it is not told again.

        Args:
            is_all: Nothing is left out before what comes next; else the watcher is let go behind
                *happened*, and comes back for more.
        """
        self._replayed = frozenset(event.seq for event in happened)
        came, self._line = self._line, [*happened]
        if is_all:
            for event in came:
                self.put(event)
        else:
            self._ended = True
        self._filled.set()

    def put(self, event: Happened) -> None:
        """Add what happened, unless the watcher knows it, or has been let go."""
        if self._ended:  # something before it is missing: it must not be the last one seen
            return
        if isinstance(event, JobEvent) and event.seq is not None:
            is_known = event.seq <= self.after if self.job_id else event.seq in self._replayed
            if is_known:
                return
            self.after = max(self.after, event.seq)
        if len(self._line) >= MAX_BEHIND:
            self.end()
            return
        self._line.append(event)
        self._filled.set()

    def end(self) -> None:
        """Let the watcher go once it has seen what is in the line."""
        self._ended = True
        self._filled.set()

    async def take(self, timeout_s: float) -> list[Happened] | None:
        """What came since, [] after *timeout_s* seconds without anything, None at the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._filled.wait()
        self._filled.clear()
        line, self._line = self._line, []
        if self._ended:
            self._filled.set()
            return line or None
        return line


class Hub:
    """Everybody who watches through this process."""

    def __init__(self, resources: Resources) -> None:
        """Read nothing as long as nobody watches."""
        self._database = resources.database
        self._ear = Ear(resources.redis)
        self._watchers: dict[UUID | None, set[Watcher]] = defaultdict(set)
        self._changed: set[UUID] = set()
        self._wake = asyncio.Event()
        self._last_seq: int | None = None
        self._missing: dict[int, float] = {}
        self._gap: tuple[int, float] | None = None

    @property
    def count(self) -> int:
        """How many watch now."""
        return sum(len(some) for some in self._watchers.values())

    @contextmanager
    def watch(self, job_id: UUID | None, after: int) -> Iterator[Watcher]:
        """
        Follow one job, or all of them, from behind event number *after*.

        Raises:
            TooManyWatchersError: This process has no room for another one.
        """
        if self.count >= MAX_WATCHERS:
            raise TooManyWatchersError(f"{MAX_WATCHERS} watch already; try again later")
        watcher = Watcher(job_id, after)
        self._watchers[job_id].add(watcher)
        if job_id is not None:
            self._changed.add(job_id)
        self._wake.set()
        try:
            yield watcher
        finally:
            self._watchers[job_id].discard(watcher)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    async def begin(self, watcher: Watcher, after: int | None) -> None:
        """
        See to it that a watcher of all jobs misses nothing from now on, or from behind *after*.

        Raises:
            DatabaseError: PostgreSQL is away.
        """
        async with self._database.connection() as connection:
            last = await self._start(connection, after)
            if after is None or after >= last:
                return
            found = await events.behind(connection, after, [], READ_AT_ONCE)
        # Whatever came behind *last* since the watcher is here was put into its line.
        told = [event for event in found if (event.seq or 0) <= last]
        watcher.replay(told, is_all=len(told) < READ_AT_ONCE)

    def end(self) -> None:
        """Let everybody go."""
        for some in self._watchers.values():
            for watcher in some:
                watcher.end()

    async def run(self) -> None:
        """Read for the watchers until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen())
                group.create_task(self._read())
        finally:
            await self._ear.aclose()

    async def _listen(self) -> None:
        async for job_id, percent in self._heard():
            if percent is None:
                self._changed.add(job_id)
                self._wake.set()
                continue
            event = Progressed(job_id=job_id, at=datetime.now(UTC), progress=percent)
            for watcher in (*self._watchers.get(job_id, ()), *self._watchers.get(None, ())):
                watcher.put(event)

    async def _heard(self) -> AsyncIterator[tuple[UUID, int | None]]:
        while True:
            jobs = {job_id for job_id in self._watchers if job_id is not None}
            try:
                await self._ear.listen(jobs, everything=None in self._watchers)
                for notice in await self._ear.next(LOOK_INTERVAL_S / 4):
                    yield notice
            except DispatchError as error:
                logger.debug("watchers hear nothing", reason=error.message)
                await asyncio.sleep(LOOK_INTERVAL_S)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        look_at = loop.time()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(look_at - loop.time(), 0)):
                    await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            is_due = loop.time() >= look_at
            if is_due:
                look_at = loop.time() + LOOK_INTERVAL_S
            if None not in self._watchers:  # whoever comes next begins with what is new by then
                self._last_seq = None
                self._missing.clear()
            if not self._watchers:
                self._changed.clear()
                continue
            changed, self._changed = self._changed, set()
            watched = {job_id for job_id in self._watchers if job_id is not None}
            try:
                await self._look(watched if is_due else watched & changed)
                await self._look_at_all()
            except DatabaseError as error:
                self._changed |= changed
                logger.debug("watchers are not told", reason=error.message)
                await asyncio.sleep(LOOK_INTERVAL_S)

    async def _look(self, job_ids: set[UUID]) -> None:
        after = {
            job_id: min(watcher.after for watcher in self._watchers[job_id]) for job_id in job_ids
        }
        if not after:
            return
        async with self._database.connection() as connection:
            happened = await events.of_jobs(connection, after)
        for event in happened:
            for watcher in tuple(self._watchers.get(event.job_id, ())):
                watcher.put(event)

    async def _start(self, connection: Connection, after: int | None) -> int:
        """
        The number behind which to read for all; the first who asks sets it.

        One who was there a moment ago goes on with all of them: behind its own number.
        """
        if self._last_seq is None:
            newest = await events.newest(connection)
            if self._last_seq is None:  # not set by another one meanwhile
                near = after is not None and 0 <= newest - after < READ_AT_ONCE
                self._last_seq = after if near else newest
        assert self._last_seq is not None  # both of them are numbers
        return self._last_seq

    async def _look_at_all(self) -> None:
        now, last = asyncio.get_running_loop().time(), self._last_seq
        if last is None:  # the first one has not begun yet
            return
        async with self._database.connection() as connection:
            happened = await events.behind(connection, last, list(self._missing), READ_AT_ONCE)
        for event in happened:
            assert event.seq is not None  # a row has a number
            self._missing.pop(event.seq, None)
            if event.seq > last + 1 and not self._has_waited_for(last + 1, now):
                self._wake.set()
                break
            if event.seq > last:
                gap = range(max(last + 1, event.seq - MAX_BEHIND), event.seq)
                self._missing |= dict.fromkeys(gap, now + MISSING_FOR_S)
                last = event.seq
            for watcher in tuple(self._watchers.get(None, ())):
                watcher.put(event)
        self._last_seq = last
        self._missing = {seq: until for seq, until in self._missing.items() if until > now}
        if len(happened) == READ_AT_ONCE:
            self._wake.set()

    def _has_waited_for(self, seq: int, now: float) -> bool:
        """Whether event number *seq*, whose successors are there, was given time to appear."""
        if self._gap is None or self._gap[0] != seq:
            self._gap = (seq, now)
        return now - self._gap[1] >= COMMIT_WITHIN_S
