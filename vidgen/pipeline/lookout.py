"""
Looking at operations for all jobs of a process: as few questions as it takes, at the right time.

    a job alone          its own look, planned by how long such videos took
    several at a server  that lists its videos: one list answers for up to a hundred of them

A list only ever helps. What it says of a running video saves that video's own look for a while; a
finished one wakes its job at once; a failed one is believed only by its own look, since a new
attempt may be paid for it. Servers whose lists are no use are asked one by one, as ever.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from loguru import logger

from vidgen import forecast, live, metrics
from vidgen.errors import (
    AuthError,
    DatabaseError,
    InternalError,
    KeyUnreadableError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitedError,
    TransientError,
    VidgenError,
)
from vidgen.forecast import Duration, Kind
from vidgen.job import VideoJob
from vidgen.pipeline import credentials
from vidgen.pipeline.leases import Leases
from vidgen.pipeline.progress import ProgressBoard
from vidgen.providers.protocol import Failed, Progress, Running, Succeeded
from vidgen.providers.registry import ListsVideos
from vidgen.resources import Resources
from vidgen.store import history

LEARN_EVERY_S = 60.0
# Of fewer jobs each asks for itself: a list would cost as much.
WORTH_A_LIST = 3
VIDEOS_PER_PAGE = 100
SHORTEST_PACE_S = 1.0
SECONDS_PER_PAGE = 0.25
# A list may be a stale copy: so often every job is looked at by itself all the same.
OWN_LOOK_EVERY_S = 120.0
# A server that cannot list, or not what is wanted, is not asked to for so long.
USELESS_FOR_S = 600.0
MIN_WAIT_S = 0.01
EARLY_S = 0.05


@dataclass(slots=True, kw_only=True)
class Follower:
    """
    One job that waits for its operation.

    Attributes:
        next_at: When it wants to be looked at, by the loop's clock.
        looked_at: When it was last looked at by itself.
        listed: What a list last told of it.
        good_until: For how long that will do in place of a look.
        was_called: The provider itself has news of it.
        disbelieved: A list said that it failed, and its own look did not.
    """

    job: VideoJob
    next_at: float
    looked_at: float
    listed: Progress | None = None
    good_until: float = 0.0
    was_called: bool = False
    disbelieved: bool = False


@dataclass(slots=True)
class _Shelf:
    """The operations that one list can answer for: one server, one credential."""

    followers: dict[str, Follower] = field(default_factory=dict)
    useless_until: float = 0.0
    pace_s: float = SHORTEST_PACE_S
    is_read: bool = False

    @property
    def is_worth_a_list(self) -> bool:
        """Whether there are enough of them."""
        return len(self.followers) >= WORTH_A_LIST


class Lookout:
    """
    Who is looked at, and when.

    Attributes:
        board: Where progress is written down.
    """

    def __init__(
        self, resources: Resources, leases: Leases, wakes: live.Wakes | None = None
    ) -> None:
        """Learn and list nothing yet, `run` does; *wakes* ends naps when a list has news."""
        self.board = ProgressBoard(resources, leases)
        self._resources = resources
        self._wakes = wakes or live.Wakes()
        self._learnt: dict[Kind, Duration] = {}
        self._shelves: dict[tuple[str, str, str], _Shelf] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Keep up with what videos take, read lists, and write progress down, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self.board.run())
            group.create_task(self._learn())

    def forget(self, job_id: UUID) -> None:
        """Nobody here works on *job_id* any more."""
        self.board.forget(job_id)

    @contextmanager
    def following(self, job: VideoJob) -> Iterator[Follower]:
        """Count *job* among those that a list may answer for, for the length of the context."""
        assert job.operation is not None  # CHECK promises it
        now = asyncio.get_running_loop().time()
        follower = Follower(job=job, next_at=now, looked_at=now)
        if not isinstance(self._resources.providers.get(job.provider), ListsVideos):
            yield follower
            return
        key = (job.provider, job.operation.endpoint, job.operation.credential_id)
        shelf = self._shelves.setdefault(key, _Shelf())
        shelf.followers[job.operation.id] = follower
        if self._group is not None and not shelf.is_read and shelf.is_worth_a_list:
            shelf.is_read = True
            self._group.create_task(self._read_lists(shelf))
        try:
            yield follower
        finally:
            del shelf.followers[job.operation.id]
            if not shelf.followers:
                self._shelves.pop(key, None)

    async def look(self, follower: Follower) -> Progress:
        """
        What is known of the operation: from a list if that will do, else from the provider.

        Raises:
            ProviderError: As `Provider.poll`.
        """
        will_do, follower.was_called = self._will_do(follower), False
        match follower.listed:
            case Succeeded() as listed:
                return listed
            case Running() as listed if will_do:
                return listed
            case Running() | Failed() | None as listed:
                follower.looked_at = asyncio.get_running_loop().time()
                follower.listed = None
                progress = await look(self._resources, follower.job)
                follower.disbelieved = isinstance(listed, Failed) and isinstance(progress, Running)
                return progress

    def wait_s(self, follower: Follower, wish_s: float | None) -> float:
        """How long to wait before the next look: as the server wishes, else as such videos take."""
        settings, clock = self._resources.settings, self._resources.clock
        jitter = 0.95 + self._resources.jitter() / 10
        if wish_s is not None:
            return max(wish_s, MIN_WAIT_S)
        job = follower.job
        assert job.submitted_at is not None  # CHECK promises it
        gone_s = (clock.now() - job.submitted_at) / timedelta(seconds=1)
        learnt = self._learnt.get(forecast.kind_of(job))
        return forecast.look_in_s(gone_s, settings.poll_interval_s, learnt) * jitter

    async def nap(self, follower: Follower, wait_s: float, most: int, until_s: float) -> int:
        """
        Wait for so long, or until a list or the provider itself has news of the operation.

        As long as lists tell that the video is still being made, there is nothing to get up for:
        measured with a thousand jobs and five seconds between looks, that was a tenth of all CPU.

        Args:
            most: So many looks may be slept through, less one.
            until_s: Nor longer than so.

        Returns:
            How many looks this was, at least one.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + until_s
        for looks in range(1, most + 1):
            follower.next_at = loop.time() + wait_s
            await live.nap(wait_s)
            # Timers may come a little early.
            follower.was_called = loop.time() < follower.next_at - min(EARLY_S, wait_s / 2)
            told = follower.listed
            if not isinstance(told, Running) or not self._will_do(follower):
                return looks
            wait_s = self.wait_s(follower, told.poll_after_s)
            if loop.time() + wait_s >= ends_at:
                return looks
        return most

    def _will_do(self, follower: Follower) -> bool:
        """Whether what a list told of a running video saves a look now."""
        now = asyncio.get_running_loop().time()
        is_fresh = now < follower.good_until and now - follower.looked_at < OWN_LOOK_EVERY_S
        return is_fresh and not follower.was_called

    async def _learn(self) -> None:
        while True:
            try:
                async with self._resources.database.connection() as connection:
                    self._learnt = await history.durations(connection)
            except (DatabaseError, InternalError) as error:
                logger.debug("nothing learnt", reason=error.message)
            await asyncio.sleep(LEARN_EVERY_S)

    async def _read_lists(self, shelf: _Shelf) -> None:
        """Ask for lists as long as that is worth it."""
        loop = asyncio.get_running_loop()
        while shelf.is_worth_a_list:
            wanted = self._wanted(shelf)
            if len(wanted) >= WORTH_A_LIST and loop.time() >= shelf.useless_until:
                shelf.pace_s = self._pace_s(len(wanted))
                await self._list(shelf, wanted)
            await asyncio.sleep(shelf.pace_s)
        shelf.is_read = False

    def _wanted(self, shelf: _Shelf) -> dict[str, Follower]:
        """Those whose time to be looked at has begun, or will with the next list."""
        ahead_s = max(shelf.pace_s, self._resources.settings.poll_interval_s)
        soon = asyncio.get_running_loop().time() + ahead_s
        return {name: each for name, each in shelf.followers.items() if each.next_at <= soon}

    def _pace_s(self, wanted: int) -> float:
        """
        A quarter of the questions that so many jobs would ask by themselves; with thousands of them
        a few pages a second, and with any number a list in each interval.
        """
        pages, interval_s = -(-wanted // VIDEOS_PER_PAGE), self._resources.settings.poll_interval_s
        pace_s = max(SHORTEST_PACE_S, SECONDS_PER_PAGE * pages, interval_s * pages * 4 / wanted)
        return min(pace_s, max(interval_s, MIN_WAIT_S))

    async def _list(self, shelf: _Shelf, wanted: dict[str, Follower]) -> None:
        job = next(iter(wanted.values())).job
        begun = asyncio.get_running_loop().time()
        lister = self._resources.providers.get(job.provider)
        assert isinstance(lister, ListsVideos)  # else there is no shelf
        operations = [each.job.operation for each in wanted.values()]
        try:
            credential = await credentials.resolve(self._resources, job)
            found = await lister.look_through(
                [operation for operation in operations if operation is not None],
                credential,
                pages=1 + len(shelf.followers) // VIDEOS_PER_PAGE,
            )
        except (TransientError, RateLimitedError) as error:
            metrics.listed(job, "error")
            shelf.pace_s = max(self._resources.settings.poll_interval_s, error.retry_after_s or 0.0)
            return
        except (DatabaseError, KeyUnreadableError):
            return  # whoever is looked at by itself says so
        except VidgenError as error:  # of what is in no list; each job says so by its own look
            metrics.listed(job, "error")
            self._give_up(shelf, reason=error.message)
            return
        metrics.listed(job, "answered")
        if len(found) * 2 < len(wanted):
            self._give_up(shelf, reason=f"{len(found)} of {len(wanted)} videos were in the list")
        now = asyncio.get_running_loop().time()
        # As long as the next one takes to come, and a little more.
        good_until = now + 2 * shelf.pace_s + (now - begun)
        for name, progress in found.items():
            if (follower := shelf.followers.get(name)) is not None:
                follower.listed, follower.good_until = progress, good_until
                self._take_in(follower, progress)

    def _take_in(self, follower: Follower, progress: Progress) -> None:
        match progress:
            case Running(percent=percent):
                if percent is not None:
                    self.board.note(follower.job, percent)
            case Succeeded():
                self._wakes.wake(follower.job.id)
            case Failed():
                # A list that keeps saying so must not have it looked at with every page.
                if not follower.disbelieved:
                    self._wakes.wake(follower.job.id)

    def _give_up(self, shelf: _Shelf, *, reason: str) -> None:
        shelf.useless_until = asyncio.get_running_loop().time() + USELESS_FOR_S
        logger.info("lists are no use here, looking one by one", reason=reason)


async def look(resources: Resources, job: VideoJob) -> Progress:
    """
    Ask the provider about the operation of *job*, once.

    Raises:
        ProviderError: As the provider's `poll`.
        KeyUnreadableError, ProviderNotConfiguredError, DatabaseError: As `credentials.resolve`.
    """
    assert job.operation is not None  # CHECK promises it
    provider = resources.providers.get(job.provider)
    credential = await credentials.resolve(resources, job)
    try:
        progress = await provider.poll(job.operation, credential)
    except (AuthError, QuotaExhaustedError) as error:
        metrics.looked(job, "error")
        raise credentials.named(error, job, credential) from error
    except ProviderError:
        metrics.looked(job, "error")
        raise
    metrics.looked(job, type(progress).__name__.lower())
    return progress
