"""Which job an operation belongs to: asked when its provider calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from vidgen.store.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Follower:
    """Who follows an operation: a job, and the worker that holds it."""

    job_id: UUID
    worker_id: UUID


async def follower(
    connection: Connection, endpoint: str, operation_ids: Sequence[str]
) -> Follower | None:
    """The job that waits for one of *operation_ids* at *endpoint*; None if no worker polls it."""
    row = await connection.fetchrow(
        """
        SELECT job.id AS job_id, job.worker_id FROM job_events AS event
        JOIN video_jobs AS job ON job.id = event.job_id
        WHERE event.type = 'submitted' AND event.detail ->> 'endpoint' = $1
          AND event.detail ->> 'operation_id' = ANY($2::text[])
          AND job.stage = 'generating' AND job.worker_id IS NOT NULL
        """,
        endpoint,
        operation_ids,
    )
    return None if row is None else Follower(**row)
