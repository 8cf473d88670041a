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

    def replay(self, happened: Sequence[JobEvent]) -> None:
        """Begin with what happened before; it is not told again."""
        self._replayed = frozenset(event.seq for event in happened)
        self._line[:0] = happened
        self._filled.set()

    def put(self, event: Happened) -> None:
        """Add what happened, unless the watcher knows it."""
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
            await self._start(connection)
            if after is not None:
                watcher.replay(await events.behind(connection, after, [], READ_AT_ONCE))

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
            if not self._watchers:
                self._changed.clear()
                self._last_seq = None
                continue
            changed, self._changed = self._changed, set()
            watched = {job_id for job_id in self._watchers if job_id is not None}
            try:
                await self._look(watched if is_due else watched & changed)
                if None in self._watchers:
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

    async def _start(self, connection: Connection) -> int:
        """The number behind which to read; the first who asks sets it."""
        if self._last_seq is None:
            newest = await events.newest(connection)
            if self._last_seq is None:  # not set by another one meanwhile
                self._last_seq = newest
        return self._last_seq

    async def _look_at_all(self) -> None:
        now = asyncio.get_running_loop().time()
        async with self._database.connection() as connection:
            last = await self._start(connection)
            happened = await events.behind(connection, last, list(self._missing), READ_AT_ONCE)
        for event in happened:
            assert event.seq is not None  # a row has a number
            self._missing.pop(event.seq, None)
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
