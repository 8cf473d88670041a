"""
A worker in the test's own loop: the real way of each job, without arq and without a rhythm.

Nothing runs between two calls of `drain`, so a test decides when its videos are made.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from vidgen import prompts
from vidgen.breaker import Breakers
from vidgen.dispatch import Dispatch
from vidgen.errors import VidgenError
from vidgen.job import VideoJob
from vidgen.pipeline.carry import carry
from vidgen.pipeline.leases import Leases
from vidgen.pipeline.lookout import Lookout
from vidgen.resources import Resources
from vidgen.store.rows import job_of

DRAIN_TIMEOUT_S = 30.0
LOOK_EVERY_S = 0.05  # for what others do meanwhile: a new job, a cancel


class InlineWorker:
    """Makes videos when it is told to, and only then."""

    def __init__(self, resources: Resources) -> None:
        """Work with *resources*, and hold no job between two calls."""
        self._resources = replace(resources, breakers=_ClosedBreakers(resources.redis))

    async def drain(
        self, *, scheduled: bool = False, timeout_s: float = DRAIN_TIMEOUT_S
    ) -> list[VideoJob]:
        """
        Carry every video that is due to its end, new attempts and those enqueued meanwhile
        included; the ones that ended, in the order they were enqueued.

        What is not committed yet is not seen. Waits between attempts are real, and short.

        Args:
            scheduled: Those with a `run_at` in the future, too, as if its time had come.

        Raises:
            AssertionError: Some are not at their end after *timeout_s*; it tells where each is.
        """
        __tracebackhide__ = True
        if scheduled:
            await self._bring_forward()
        round_ = await self._round(timeout_s)
        if round_.defect is not None:
            raise round_.defect
        if round_.left:
            raise AssertionError(_told(round_.left, timeout_s))
        return [job for job in await self._jobs(round_.carried) if job.is_final]

    async def _round(self, timeout_s: float) -> "_Round":
        leases: Leases | None = None
        try:
            async with asyncio.TaskGroup() as group:
                leases = Leases(self._resources, group)
                await leases.join()
                lookout = Lookout(self._resources, leases)
                loops = [group.create_task(leases.run()), group.create_task(lookout.run())]
                round_ = _Round(self._resources, leases, lookout)
                await round_.run(timeout_s)
                for loop in loops:
                    loop.cancel()
        finally:
            if leases is not None:
                await leases.leave()
        return round_

    async def _bring_forward(self) -> None:
        async with self._resources.database.connection() as connection:
            await connection.execute(
                """
                UPDATE video_jobs SET due_at = now()
                WHERE status = 'pending' AND started_at IS NULL AND due_at > now()
                """
            )

    async def _jobs(self, job_ids: set[UUID]) -> list[VideoJob]:
        async with self._resources.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT * FROM video_jobs WHERE id = ANY($1::uuid[]) ORDER BY id", list(job_ids)
            )
        return [prompts.shown(self._resources.vault, job_of(row)) for row in rows]


class _ClosedBreakers(Breakers):
    """They never open: the pause after five scripted failures would hold a test up for 15 s."""

    async def failed(self, provider: str, credential_id: str) -> float:
        return 0.0


class _Round:
    """
    One call of `drain`.

    Attributes:
        carried: The jobs that were worked on.
        left: What was not at its end when the time was over.
        defect: What went wrong beside the jobs themselves, e.g. PostgreSQL away.
    """

    def __init__(self, resources: Resources, leases: Leases, lookout: Lookout) -> None:
        self._resources = resources
        self._leases = leases
        self._lookout = lookout
        self._under_way: set[UUID] = set()
        self._news = asyncio.Event()
        self.carried: set[UUID] = set()
        self.left: list[VideoJob] = []
        self.defect: VidgenError | None = None

    async def run(self, timeout_s: float) -> None:
        try:
            # Inside the time: whoever is cut by its end gives the job back before this returns.
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as carriers:
                while self.defect is None and (jobs := await self._open()):
                    for job in jobs:
                        if self._wait_s(job) <= 0 and job.id not in self._under_way:
                            self._under_way.add(job.id)
                            self.carried.add(job.id)
                            carriers.create_task(self._carry(job))
                    await self._next(jobs)
        except TimeoutError:
            self.left = await self._open()

    async def _open(self) -> list[VideoJob]:
        """Everything that is due, under way or will be tried again; not what waits for its day."""
        async with self._resources.database.connection() as connection:
            rows = await connection.fetch(
                """
                SELECT * FROM video_jobs
                WHERE status IN ('pending', 'processing')
                  AND (started_at IS NOT NULL OR due_at <= now())
                ORDER BY priority DESC, id
                """
            )
        return [job_of(row) for row in rows]

    async def _carry(self, job: VideoJob) -> None:
        dispatch = Dispatch.for_job(job)
        try:
            await carry(self._resources, self._leases, self._lookout, dispatch)
        except VidgenError as error:
            self.defect = error
        finally:
            self._under_way.discard(job.id)
            self._news.set()

    async def _next(self, jobs: list[VideoJob]) -> None:
        """Return when a job is due, or one under way has ended, and soon in any case."""
        waits_s = [self._wait_s(job) for job in jobs if job.id not in self._under_way]
        with suppress(TimeoutError):
            async with asyncio.timeout(max(min([*waits_s, LOOK_EVERY_S]), 0)):
                await self._news.wait()
        self._news.clear()  # before the next look, which sees all that was told until here

    def _wait_s(self, job: VideoJob) -> float:
        if job.due_at is None:
            return LOOK_EVERY_S  # a worker holds it: we ourselves, or somebody else
        return (job.due_at - self._resources.clock.now()) / timedelta(seconds=1)


def _told(left: list[VideoJob], timeout_s: float) -> str:
    lines = [f"{len(left)} not at their end after {timeout_s:g} s:"]
    for job in left:
        reason = f"; last: {job.error_code}: {job.error_message}" if job.error_code else ""
        lines.append(
            f"  job {job.id}: {job.provider}, {job.status} ({job.stage}), attempt {job.attempt} of"
            f" {job.max_attempts}, {job.failures} errors in a row{reason}"
        )
    return "\n".join(lines)
