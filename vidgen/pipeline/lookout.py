"""
Looking at operations for all jobs of a process: as few questions as it takes, at the right time.

    a job alone          its own look, planned by how long such videos took
    several at a server  that lists its videos: one list answers for up to a hundred of them

When is said by `vidgen.schedule`, from what looks and lists of this process have seen, at once, and
from what all workers learnt, once a minute.

A list only ever helps. What it says of a running video saves that video's own look for a while; a
finished one wakes its job at once; a failed one is believed only by its own look, since a new
attempt may be paid for it. Servers whose lists are no use are asked one by one, as ever.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from loguru import logger

from vidgen import forecast, live, metrics, schedule
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
from vidgen.providers.registry import WORTH_A_PAGE, ListsVideos
from vidgen.resources import Resources
from vidgen.schedule import Experience, Trail
from vidgen.store import history

K = TypeVar("K")
V = TypeVar("V")

LEARN_EVERY_S = 60.0
VIDEOS_PER_PAGE = 100
# A list may be a stale copy: so often every job is looked at by itself all the same.
OWN_LOOK_EVERY_S = 120.0
# A server that cannot list, or not what is wanted, is not asked to for so long.
USELESS_FOR_S = 600.0
# Of a burst of submits a list may show only those that came after it was wanted: so many in a row
# have to lack most of what is looked for.
FRUITLESS_LISTS = 3
MIN_WAIT_S = 0.01
EARLY_S = 0.05
# A video is followed from its receipt on, if it is no older.
FRESH_S = 5.0
# Kinds and accounts that this process remembers; who makes up sizes must not fill its memory.
MAX_REMEMBERED = 500
# A provider that called about so many videos in a row will call about the next one; until one is
# ready without a call, looks are for lost calls only.
CALLS_IN_A_ROW = 5
CALLED_LOOK_S = 60.0


@dataclass(slots=True)
class Account:
    """
    Operations at one server with one credential.

    Attributes:
        calls: About so many videos in a row the provider itself called first.
    """

    calls: int = 0

    @property
    def is_calling(self) -> bool:
        """Whether it will call about the next video, too."""
        return self.calls >= CALLS_IN_A_ROW


@dataclass(slots=True, kw_only=True)
class Follower:
    """
    One job that waits for its operation.

    Attributes:
        trail: What was seen of its video.
        account: Where it is made.
        begun_at: When its operation began, by the loop's clock.
        next_at: When it wants to be looked at, by the loop's clock; never before it naps.
        looked_at: When it was last looked at by itself.
        listed: What a list last told of it.
        good_until: For how long that will do in place of a look.
        was_called: The provider itself has news of it.
        disbelieved: A list said that it failed, and its own look did not.
    """

    job: VideoJob
    kind: Kind
    trail: Trail
    account: Account
    begun_at: float
    looked_at: float
    next_at: float = math.inf
    listed: Progress | None = None
    good_until: float = 0.0
    was_called: bool = False
    disbelieved: bool = False


@dataclass(slots=True)
class _Shelf:
    """The operations that one list can answer for: one server, one credential."""

    pace_s: float
    followers: dict[str, Follower] = field(default_factory=dict)
    useless_until: float = 0.0
    fruitless: int = 0
    is_read: bool = False

    @property
    def is_worth_a_list(self) -> bool:
        """Whether there are enough of them."""
        return len(self.followers) >= WORTH_A_PAGE


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
        self._experiences: dict[Kind, Experience] = {}
        self._accounts: dict[tuple[str, str, str], Account] = {}
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
        kind = forecast.kind_of(job)
        key = (job.provider, job.operation.endpoint, job.operation.credential_id)
        now, gone_s = asyncio.get_running_loop().time(), self._gone_s(job)
        follower = Follower(
            job=job,
            kind=kind,
            trail=Trail(
                _remembered(self._experiences, kind, Experience), 0.0 if gone_s <= FRESH_S else None
            ),
            account=_remembered(self._accounts, key, Account),
            begun_at=now - gone_s,
            looked_at=now,
        )
        if not isinstance(self._resources.providers.get(job.provider), ListsVideos):
            yield follower
            return
        interval_s = self._resources.settings.poll_interval_s
        shelf = self._shelves.setdefault(key, _Shelf(pace_s=interval_s))
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
        will_do, was_called = self._will_do(follower), follower.was_called
        follower.was_called = False
        match follower.listed:
            case Succeeded() as listed:
                follower.account.calls = 0
                return listed
            case Running() as listed if will_do:
                return listed
            case Running() | Failed() | None as listed:
                follower.looked_at = asyncio.get_running_loop().time()
                follower.listed = None
                progress = await look(self._resources, follower.job)
                self._remember(follower, progress)
                if isinstance(progress, Succeeded):
                    follower.account.calls = follower.account.calls + 1 if was_called else 0
                follower.disbelieved = isinstance(listed, Failed) and isinstance(progress, Running)
                return progress

    def wait_s(self, follower: Follower, wish_s: float | None) -> float:
        """How long to wait before the next look: as the server wishes, else as such videos take."""
        if wish_s is not None:
            return max(wish_s, MIN_WAIT_S)
        wait_s = follower.trail.look_in_s(
            _age_s(follower),
            self._resources.settings.poll_interval_s,
            self._learnt.get(follower.kind),
            self._resources.jitter(),
        )
        return max(wait_s, CALLED_LOOK_S) if follower.account.is_calling else wait_s

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
            now = loop.time()
            follower.next_at = now + wait_s
            if isinstance(follower.listed, Running) and self._will_do(follower):
                wait_s = max(wait_s, min(follower.good_until, ends_at) - now)
            await live.nap(wait_s)
            # Timers may come a little early.
            follower.was_called = loop.time() < now + wait_s - min(EARLY_S, wait_s / 2)
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

    def _gone_s(self, job: VideoJob) -> float:
        """The age of the operation of *job*."""
        assert job.submitted_at is not None  # CHECK promises it
        return (self._resources.clock.now() - job.submitted_at) / timedelta(seconds=1)

    def _remember(self, follower: Follower, progress: Progress) -> None:
        """Learn from what a look or a list told."""
        gone_s = _age_s(follower)
        match progress:
            case Running(percent=percent):
                follower.trail.saw_running(gone_s, percent)
            case Succeeded():
                follower.trail.saw_ready(gone_s)
            case Failed():
                pass  # it says nothing of how long a video takes

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
            wanted, ready_per_s = self._wanted(shelf)
            if len(wanted) >= WORTH_A_PAGE and loop.time() >= shelf.useless_until:
                await self._list(shelf, wanted, ready_per_s)
            await asyncio.sleep(shelf.pace_s)
        shelf.is_read = False

    def _wanted(self, shelf: _Shelf) -> tuple[dict[str, Follower], float]:
        """
        Those who may be ready, or whose look will be due with the next list; and how many of them
        become ready a second, by expectation.
        """
        interval_s = self._resources.settings.poll_interval_s
        now = asyncio.get_running_loop().time()
        soon = now + max(shelf.pace_s, interval_s)
        wanted, ready_per_s = dict[str, Follower](), 0.0
        for name, each in shelf.followers.items():
            chance = each.trail.ready_per_s(
                now - each.begun_at, interval_s, self._learnt.get(each.kind)
            )
            is_likely = chance * interval_s >= schedule.WORTH_LISTING
            if each.next_at <= soon or (is_likely and not each.account.is_calling):
                wanted[name] = each
                ready_per_s += chance
        return wanted, ready_per_s

    async def _list(self, shelf: _Shelf, wanted: dict[str, Follower], ready_per_s: float) -> None:
        job = next(iter(wanted.values())).job
        begun = asyncio.get_running_loop().time()
        lister = self._resources.providers.get(job.provider)
        assert isinstance(lister, ListsVideos)  # else there is no shelf
        operations = [each.job.operation for each in wanted.values()]
        try:
            credential = await credentials.resolve(self._resources, job)
            overview = await lister.look_through(
                [operation for operation in operations if operation is not None],
                credential,
                # One page must not cost more than the looks that it saves.
                pages=max(1 + len(shelf.followers) // VIDEOS_PER_PAGE, len(wanted) // WORTH_A_PAGE),
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
        found, interval_s = overview.found, self._resources.settings.poll_interval_s
        shelf.pace_s = max(schedule.list_in_s(ready_per_s, overview.pages, interval_s), MIN_WAIT_S)
        shelf.fruitless = shelf.fruitless + 1 if len(found) * 2 < len(wanted) else 0
        if shelf.fruitless >= FRUITLESS_LISTS:
            self._give_up(shelf, reason=f"{len(found)} of {len(wanted)} videos were in the list")
        now = asyncio.get_running_loop().time()
        # A list is a look as well, so none for an interval; nor while the next one is on its way.
        good_until = now + max(interval_s, 2 * shelf.pace_s + (now - begun))
        for name, progress in found.items():
            if (follower := shelf.followers.get(name)) is not None:
                follower.listed, follower.good_until = progress, good_until
                self._take_in(follower, progress)

    def _take_in(self, follower: Follower, progress: Progress) -> None:
        self._remember(follower, progress)
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
        shelf.fruitless = 0
        logger.info("lists are no use here, looking one by one", reason=reason)


def _remembered(places: dict[K, V], key: K, make: Callable[[], V]) -> V:
    """What is at *key*, made if need be; the last used ones are kept."""
    places[key] = found = places.pop(key, None) or make()
    if len(places) > MAX_REMEMBERED:
        del places[next(iter(places))]
    return found


def _age_s(follower: Follower) -> float:
    return asyncio.get_running_loop().time() - follower.begun_at


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
