"""A worker of single steps: each is one statement and one notice, when the test says so."""

from tests.builders import WORKER, a_video, an_operation
from vidgen import lifecycle, live
from vidgen.errors import InternalError, VidgenError
from vidgen.job import VideoJob
from vidgen.lifecycle import Transition
from vidgen.queue import VideoQueue
from vidgen.store import jobs


class Hand:
    """Writes transitions of jobs as their worker would, and tells watchers."""

    def __init__(self, queue: VideoQueue) -> None:
        self._database = queue._database
        self._redis = queue._redis

    async def write(self, job: VideoJob, change: Transition) -> VideoJob:
        lease = job.lease if job.worker_id else None
        async with self._database.connection() as connection:
            job = await jobs.apply(connection, job.id, change, lease=lease, worker_id=WORKER)
        await live.tell(self._redis, job.id)
        return job

    async def progress(self, job: VideoJob, percent: int) -> None:
        await live.tell(self._redis, job.id, percent)

    async def claim(self, job: VideoJob) -> VideoJob:
        return await self.write(job, lifecycle.claimed())

    async def submit(self, job: VideoJob) -> VideoJob:
        job = await self.write(job, lifecycle.submitting(job))
        return await self.write(job, lifecycle.submitted(job.attempt, an_operation(f"of_{job.id}")))

    async def generate(self, job: VideoJob) -> VideoJob:
        return await self.write(job, lifecycle.generated(job, expires_at=None, cost_micros=None))

    async def complete(self, job: VideoJob) -> VideoJob:
        return await self.write(job, lifecycle.completed(job, a_video()))

    async def carry(self, job: VideoJob) -> VideoJob:
        """All steps to the stored video."""
        return await self.complete(await self.generate(await self.submit(await self.claim(job))))

    async def fail(self, job: VideoJob, error: VidgenError | None = None) -> VideoJob:
        """Claim *job* unless it is held, and let it fail."""
        if job.worker_id is None:
            job = await self.claim(job)
        return await self.write(job, lifecycle.failed(job, error or InternalError("a defect")))
