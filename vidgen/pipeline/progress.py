"""Progress of all jobs of a process: one message and one statement per tick, however many jobs."""

import asyncio
from uuid import UUID

from loguru import logger

from vidgen.errors import DatabaseError
from vidgen.job import VideoJob
from vidgen.pipeline.leases import Leases
from vidgen.resources import Resources
from vidgen.store import jobs


class ProgressBoard:
    """What is new since the last tick."""

    def __init__(self, resources: Resources, leases: Leases) -> None:
        """Write for the jobs that *leases* hold."""
        self._resources = resources
        self._leases = leases
        self._percents: dict[UUID, int] = {}
        self._told: dict[UUID, int] = {}

    def note(self, job: VideoJob, percent: int) -> None:
        """
        Take in what a provider said; it never goes backwards, and 100 is for the stored video.
        """
        percent = max(0, min(percent, 99))
        if percent <= self._told.get(job.id, job.progress):
            return
        self._told[job.id] = self._percents[job.id] = percent
        self._leases.teller.progressed(job.id, percent)

    def forget(self, job_id: UUID) -> None:
        """Nobody here works on *job_id* any more."""
        self._told.pop(job_id, None)
        self._percents.pop(job_id, None)

    async def run(self) -> None:
        """Write what is new every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(self._resources.settings.progress_interval_s)
            await self._flush()

    async def _flush(self) -> None:
        if not self._percents:
            return
        percents, self._percents = self._percents, {}
        try:
            async with self._resources.database.connection() as connection:
                await jobs.write_progress(connection, self._leases.id, percents)
        except DatabaseError as error:
            logger.debug("progress not written", reason=error.message)
            self._percents = percents | self._percents
