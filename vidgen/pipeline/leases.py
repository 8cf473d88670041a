"""
The right to write jobs: one heartbeat per process, however many jobs it holds.

Whoever could not renew for 0.8 of the ttl stops its own work before the sweep of a peer frees its
jobs; `lease_epoch` in every write fences out whoever did not notice.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from importlib.metadata import version
from types import TracebackType
from typing import TypeVar
from uuid import UUID, uuid4

from loguru import logger

from vidgen import lifecycle, live, metrics
from vidgen.dispatch import Dispatch
from vidgen.errors import (
    DatabaseError,
    DispatchError,
    InternalError,
    LeaseLostError,
    StorageError,
)
from vidgen.job import EventType, VideoJob
from vidgen.lifecycle import Hold, Transition
from vidgen.pipeline.departures import Departures
from vidgen.resources import Resources
from vidgen.store import jobs, workers
from vidgen.store.jobs import Write
from vidgen.store.pool import Urgency
from vidgen.store.workers import Worker
from vidgen.store.writer import Writer

T = TypeVar("T")

TRUST = 0.8  # of the ttl, counted from before the heartbeat was sent
BEATS_PER_TTL = 10
# A cancel of which nobody called reaches the worker with the next beat, however long the ttl.
LONGEST_BEAT_S = 1.5
GATHER_WISHES_S = 0.02
RECONCILE_BEATS = 10
CLAIM_PATIENCE_S = 30.0
# What was taken from Redis and is not claimed soon counts as lost with its worker: more than can be
# claimed at once stays there, for peers as well.
CLAIMS = 200
RETRY_BASE_S = 0.1
KEEP_AFTER_TRIES = 5  # about three seconds without PostgreSQL
KEEP_TIMEOUT_S = 5.0
RETRY_CAP_S = 2.0
RECORD_TRIES = 30  # about a minute


class Interruption(StrEnum):
    """Why a worker stops before the end of a job."""

    HAND_OVER = "hand_over"
    CANCEL = "cancel"
    LEASE_LOST = "lease_lost"


class InterruptedStageError(Exception):
    """Leaves a stage at a place where it may be left; never an outcome of the job by itself."""

    def __init__(self, why: Interruption) -> None:
        """Tell why."""
        super().__init__(why)
        self.why = why


class Held:
    """
    One job that this worker holds, and the only way to write it.

    Attributes:
        job: The row as we last wrote it.
        progressed: Its stage has got on since the claim: errors in a row begin anew.
    """

    __slots__ = (
        "_cancel",
        "_cancel_ignored",
        "_freed",
        "_leases",
        "_scopes",
        "_urgent",
        "_why",
        "job",
        "progressed",
    )

    def __init__(self, leases: "Leases", job: VideoJob) -> None:
        """Made by `Leases.claim`."""
        self._leases = leases
        self._scopes: list[_Interruptible] = []
        self._why: Interruption | None = None
        self._urgent = False
        self._cancel = job.cancel_requested_at is not None
        self._cancel_ignored = False
        self._freed = False
        self.job = job
        self.progressed = False

    @property
    def is_ours(self) -> bool:
        """Whether we still hold the job, as far as we know."""
        return not self._freed and not self.job.is_final and self.job.worker_id == self._leases.id

    @property
    def cancel_wanted(self) -> bool:
        """Whether somebody asked for a cancel that has not been answered yet."""
        return self._cancel and not self._cancel_ignored

    def ignore_cancel(self) -> None:
        """It came too late: the job goes on to its end."""
        self._cancel_ignored = True
        if self._why is Interruption.CANCEL:
            self._why = None

    async def apply(self, change: Transition) -> VideoJob:
        """
        Write *change* as long as we can trust our lease, tell watchers, and dispatch what
        is due then.

        Raises:
            LeaseLostError: Somebody else holds the job, or may soon.
        """
        self.job = await self._leases.persist(self.job, change)
        self._freed = change.hold is Hold.FREE
        await self._leases.announce(self.job)
        return self.job

    def interruptible(self, *, only_if_urgent: bool = False) -> "_Interruptible":
        """
        Mark work that may be left at any await, for the length of an `async with`.

        Args:
            only_if_urgent: A hand-over lets this finish; the end of the grace time does not.

        Raises:
            InterruptedStageError: Somebody wanted it left.
        """
        return _Interruptible(self, only_if_urgent=only_if_urgent)

    def interrupt(self, why: Interruption, *, urgent: bool) -> None:
        """Have the job's work left: at once if *urgent*, else where waiting is all it does."""
        if why is Interruption.CANCEL:
            self._cancel = True
            if self._cancel_ignored and not urgent:
                return
            self._cancel_ignored = False
            self._why = self._why or why
        elif self._why is not Interruption.LEASE_LOST:
            self._why = why
        self._urgent = self._urgent or urgent
        for scope in self._scopes:
            scope.heed(self._why, urgent=self._urgent)

    def enter(self, scope: "_Interruptible") -> None:
        """Have *scope* left once that is wanted; it may be by now."""
        self._scopes.append(scope)
        scope.heed(self._why, urgent=self._urgent)

    def exit(self, scope: "_Interruptible") -> Interruption | None:
        """Why it was to be left, if it was; it has been."""
        self._scopes.remove(scope)
        return self._why


class _Interruptible:
    """
    The context of `Held.interruptible`; thousands wait in one, and a generator would be larger.
    """

    __slots__ = ("_held", "_only_if_urgent", "_scope")

    def __init__(self, held: Held, *, only_if_urgent: bool) -> None:
        self._held = held
        self._only_if_urgent = only_if_urgent
        self._scope = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        self._held.enter(self)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        why = self._held.exit(self)
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError:
            self._raise_if_cut(why)
            raise
        if isinstance(error, TimeoutError):  # the work's own, and perhaps for the same reason
            self._raise_if_cut(why)

    def heed(self, why: Interruption | None, *, urgent: bool) -> None:
        # One that is being left already cannot be left once more.
        if why is not None and (urgent or not self._only_if_urgent) and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    def _raise_if_cut(self, why: Interruption | None) -> None:
        if why is not None and self._scope.expired():
            raise InterruptedStageError(why) from None


class Leases:
    """
    All jobs that this worker process holds, under one id.

    Attributes:
        teller: Where watchers hear what happens to them.
        departures: Take their dispatches off.
    """

    def __init__(
        self,
        resources: Resources,
        group: asyncio.TaskGroup,
        wishes: asyncio.Event | None = None,
    ) -> None:
        """
        Hold nothing yet; `run` keeps the heartbeat. *group* owns what must outlive a job's task,
        *wishes* is set when somebody called to have a job of ours cancelled.
        """
        settings = resources.settings
        self._resources = resources
        self._group = group
        self._writer = Writer(resources.database, group)
        self._wishes = wishes or asyncio.Event()
        self.teller = live.Teller(resources.redis)
        self.departures = Departures(resources.dispatcher)
        self._ttl_s = settings.lease_ttl_s
        self._worker = Worker(
            id=uuid4(),
            hostname=socket.gethostname(),
            pid=os.getpid(),
            version=version("vidgen"),
            concurrency=settings.concurrency,
        )
        self._claiming: set[UUID] = set()
        self._held: dict[UUID, Held] = {}
        self._trusted_until = 0.0
        self._handing_over: bool = False
        self._urgent = False

    @property
    def id(self) -> UUID:
        """This process, in `workers` and in every lease."""
        return self._worker.id

    @property
    def count(self) -> int:
        """How many jobs we hold."""
        return len(self._held)

    @property
    def under_way(self) -> int:
        """How many jobs we hold or are about to."""
        return len(self._claiming)

    @property
    def room(self) -> int:
        """How many more jobs may be taken to be claimed now."""
        return CLAIMS - (len(self._claiming) - len(self._held))

    @property
    def trusted_until(self) -> float:
        """The loop's time until which no peer can have freed our jobs."""
        return self._trusted_until

    @property
    def trusted(self) -> bool:
        """Whether no peer can have freed our jobs yet."""
        return asyncio.get_running_loop().time() < self._trusted_until

    @property
    def handing_over(self) -> bool:
        """Whether this process is on its way out."""
        return self._handing_over

    def is_claiming(self, job_id: UUID) -> bool:
        """Whether we hold *job_id* or are about to."""
        return job_id in self._claiming

    async def join(self) -> None:
        """
        Become known to the peers with the first heartbeat.

        Raises:
            DatabaseError: PostgreSQL is away.
        """
        await self._beat()

    async def run(self) -> None:
        """Renew until cancelled; tell watchers what happens to our jobs, and Redis who has them."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            group.create_task(self._stop_in_time())
            group.create_task(self.teller.run())
            group.create_task(self.departures.run())

    async def _renew(self) -> None:
        beats = 0
        while True:
            await self._next_beat()
            beats += 1
            try:
                async with asyncio.timeout(self._ttl_s / 3):
                    await self._beat()
                    if beats % RECONCILE_BEATS == 0:
                        await self._reconcile()
            except (DatabaseError, InternalError, TimeoutError) as error:
                logger.warning("heartbeat failed", reason=str(error) or "no answer in time")
            metrics.held(held.job.stage for held in self._held.values())

    async def _stop_in_time(self) -> None:
        """
        Stop our own work at the moment at which our leases can no longer be trusted.

        Heartbeats have no part in it but to put that moment off: one that is slow would be late.
        """
        while True:
            left_s = self._trusted_until - asyncio.get_running_loop().time()
            if left_s > 0:
                await asyncio.sleep(left_s)
                continue
            if self._held:
                logger.error("leases can no longer be trusted, stopping own work", jobs=self.count)
                self._interrupt_all(Interruption.LEASE_LOST, urgent=True)
            await asyncio.sleep(self._ttl_s / BEATS_PER_TTL)  # then what was claimed meanwhile

    async def _next_beat(self) -> None:
        """Wait until it is time, or until somebody wants a job cancelled: a beat brings that in."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(self._ttl_s / BEATS_PER_TTL, LONGEST_BEAT_S)):
                await self._wishes.wait()
                await asyncio.sleep(GATHER_WISHES_S)
        self._wishes.clear()

    async def leave(self) -> None:
        """Tell the peers that we are gone; they need not wait for a ttl."""
        with suppress(DatabaseError, TimeoutError):
            async with (
                asyncio.timeout(self._ttl_s / 3),
                self._resources.database.connection(Urgency.LEASE) as connection,
            ):
                await workers.leave(connection, self.id)

    def hand_over(self, *, urgent: bool) -> None:
        """Give everything back: polls at once, transfers only if *urgent*."""
        self._handing_over = True
        self._urgent = self._urgent or urgent
        self._interrupt_all(Interruption.HAND_OVER, urgent=urgent)

    @asynccontextmanager
    async def claim(self, job_id: UUID) -> AsyncIterator[Held | None]:
        """
        Hold a job for the length of the context; None when it is not due, or somebody else's.

        What is still ours at the end, whatever happened, is given back.

        Raises:
            DatabaseError: PostgreSQL stays away.
        """
        if job_id in self._claiming or job_id in self._held:
            yield None
            return
        self._claiming.add(job_id)
        try:
            held = await self._taken(job_id)
            if held is None:
                yield None
                return
            try:
                if self._handing_over:
                    held.interrupt(Interruption.HAND_OVER, urgent=self._urgent)
                yield held
            finally:
                await self._give_back(held)
        finally:
            self._held.pop(job_id, None)
            self._claiming.discard(job_id)

    async def persist(self, job: VideoJob, change: Transition) -> VideoJob:
        """
        Write *change* to a job we hold; PostgreSQL may be away as long as our lease can be trusted.

        Raises:
            LeaseLostError: The guard did not hold, or we must stop before it can be written.
        """
        # Thousands may be ready in one moment: the first are stored before the last is written.
        urgency = Urgency.LATER if change.event is EventType.GENERATED else Urgency.USUAL
        write = Write(job_id=job.id, change=change, lease=job.lease)
        tries = 0
        while True:
            try:
                after = await self._writer.write(write, urgency)
            except LeaseLostError:
                written = await self._written(job, change) if tries else None
                if written is None:
                    raise
                after = written
            except DatabaseError as error:
                tries += 1
                if not self.trusted:
                    raise LeaseLostError(f"job {job.id}: the lease ran out unrenewed") from error
                await self._pause(tries)
                continue
            metrics.written(job, change, after)
            return after

    async def receive(
        self, job: VideoJob, change: Transition, keep: Callable[[], Awaitable[None]] | None = None
    ) -> VideoJob:
        """
        Store the receipt of a paid submit: whoever holds the job now, and however long it takes.

        Args:
            keep: Puts it into a second place, should PostgreSQL stay away. None where it can be
                had again.

        Raises:
            LeaseLostError: The job is past that attempt; or we must end, and the second place
                has it.
        """
        write = Write(job_id=job.id, change=change, lease=job.lease, worker_id=self.id)
        tries = 0
        while True:
            try:
                after = await self._writer.write(write, Urgency.RECEIPT)
            except LeaseLostError:
                written = await self._written(job, change) if tries else None
                if written is None:
                    raise
                after = written
            except DatabaseError as error:
                tries += 1
                logger.warning("receipt not stored yet", tries=tries, reason=error.message)
                if keep is not None and (tries >= KEEP_AFTER_TRIES or self._handing_over):
                    keep = await self._kept(keep)
                if keep is None and self._urgent:
                    raise LeaseLostError(f"job {job.id}: its receipt waits elsewhere") from error
                await self._pause(tries)
                continue
            metrics.written(job, change, after)
            return after

    async def _kept(
        self, keep: Callable[[], Awaitable[None]]
    ) -> Callable[[], Awaitable[None]] | None:
        """None once the second place has the receipt, else what to try again."""
        try:
            # PostgreSQL may be back while the bucket hangs: neither may hold the other up.
            async with asyncio.timeout(KEEP_TIMEOUT_S):
                await keep()
        except (StorageError, TimeoutError) as error:
            reason = error.message if isinstance(error, StorageError) else "no answer in time"
            logger.warning("receipt not kept in the bucket either", reason=reason)
            return keep
        return None

    async def record(self, job: VideoJob, change: Transition) -> VideoJob:
        """
        Write *change* to a job that nobody needs to hold for it, and tell watchers; PostgreSQL may
        be away for a while.

        Raises:
            LeaseLostError: The guard did not hold.
            DatabaseError: PostgreSQL stays away.
        """
        write = Write(job_id=job.id, change=change, worker_id=self.id)
        tries = 0
        while True:
            try:
                after = await self._writer.write(write)
            except DatabaseError:
                tries += 1
                if tries >= RECORD_TRIES or self._handing_over:
                    raise
                await self._pause(tries)
                continue
            metrics.written(job, change, after)
            await self.announce(after)
            return after

    def begin(self, work: Coroutine[None, None, T]) -> asyncio.Future[T]:
        """Let *work* go on to its end, whoever waits for its outcome."""
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._group.create_task(_settle(outcome, work))
        return outcome

    async def shielded(self, work: Coroutine[None, None, T]) -> T:
        """The outcome of *work*, which goes on to its end even if the caller is cancelled."""
        return await asyncio.shield(self.begin(work))

    async def announce(self, job: VideoJob) -> None:
        """Tell watchers, and send the dispatch if the job is due for somebody."""
        self.teller.happened(job.id)
        if job.due_at is None:
            return
        with suppress(DispatchError):  # the sweep sends it again
            await self._resources.dispatcher.send(
                [Dispatch.for_job(job)], now=self._resources.clock.now()
            )

    async def _taken(self, job_id: UUID) -> Held | None:
        # By itself, so that no frame keeps the row as it was for as long as the job lasts.
        job = await self._claim(job_id)
        if job is None:
            return None
        held = self._held[job_id] = Held(self, job)
        return held

    async def _claim(self, job_id: UUID) -> VideoJob | None:
        change = lifecycle.claimed()
        write = Write(job_id=job_id, change=change, worker_id=self.id)
        tries, until = 0, asyncio.get_running_loop().time() + CLAIM_PATIENCE_S
        while True:
            try:
                job = await self._writer.write(write, Urgency.LATER)
            except LeaseLostError:
                return None
            except DatabaseError:
                tries += 1
                if asyncio.get_running_loop().time() > until or self._handing_over:
                    raise
                await self._pause(tries)
                continue
            metrics.written(None, change, job)
            return job

    async def _give_back(self, held: Held) -> None:
        if not held.is_ours:
            return
        with suppress(LeaseLostError):
            await held.apply(lifecycle.released(held.job, "left"))

    async def _written(self, job: VideoJob, change: Transition) -> VideoJob | None:
        # The answer to an earlier try may have been lost after its commit.
        async with self._resources.database.connection() as connection:
            now = await jobs.get(connection, job.id)
        if now is None or now.lease_epoch != job.lease_epoch:
            return None
        if change.stage is not None and now.stage is not change.stage:
            return None
        if change.status is not None and now.status is not change.status:
            return None
        freed = change.hold is Hold.FREE
        return now if now.worker_id == (None if freed else self.id) else None

    async def _beat(self) -> None:
        # Counted from before the statement is sent, and short of the ttl: a slow round trip must
        # not make us trust a lease that the database has already let go.
        trusted_until = asyncio.get_running_loop().time() + self._ttl_s * TRUST
        async with self._resources.database.connection(Urgency.LEASE) as connection:
            beat = await workers.heartbeat(connection, self._worker)
        self._trusted_until = trusted_until
        self._resources.clock.set(beat.now)
        for job_id, discards in beat.cancels.items():
            if job_id in self._held:
                self._held[job_id].interrupt(Interruption.CANCEL, urgent=discards)

    async def _reconcile(self) -> None:
        """Give back what is ours by the books only: the answer to its claim never reached us."""
        async with self._resources.database.connection(Urgency.LEASE) as connection:
            # Every job that is held is one that was claimed.
            unknown = await jobs.held_by(connection, self.id, but=list(self._claiming))
        forgotten = [job for job in unknown if job.id not in self._claiming]
        for job in forgotten:
            try:
                await self.announce(await self.persist(job, lifecycle.released(job, "forgotten")))
            except LeaseLostError:
                pass
            except InternalError as error:  # the others are given back all the same
                if self._resources.complaints.is_new(f"forgotten {job.id}"):
                    logger.error("job not given back", jobId=str(job.id), reason=error.message)

    def _interrupt_all(self, why: Interruption, *, urgent: bool) -> None:
        for held in list(self._held.values()):
            held.interrupt(why, urgent=urgent)

    async def _pause(self, tries: int) -> None:
        wait_s = min(RETRY_BASE_S * 2.0 ** min(tries, 10), RETRY_CAP_S)
        await asyncio.sleep(wait_s * (0.5 + self._resources.jitter() / 2))


async def _settle(outcome: asyncio.Future[T], work: Coroutine[None, None, T]) -> None:
    try:
        result = await work
    except asyncio.CancelledError:
        outcome.cancel()  # the process ends: whoever waits must not wait for ever
        raise
    except Exception as error:  # noqa: BLE001  carried over to whoever waits for the outcome
        outcome.set_exception(error)
        outcome.exception()  # nobody may be waiting any more; that is no mistake
    else:
        outcome.set_result(result)
