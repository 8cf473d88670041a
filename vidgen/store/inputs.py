"""The bytes of input images that came with a request, until the job has ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from vidgen.store.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInput:
    """
    One image; *position* is its index in the request's images.

    Attributes:
        sealed: *data* is an envelope around the image.
    """

    job_id: UUID
    position: int
    content_type: str
    data: bytes = field(repr=False)
    sealed: bool = False


async def insert(connection: Connection, inputs: Sequence[StoredInput]) -> None:
    """Store *inputs*; their jobs must exist, or exist in the same transaction."""
    await connection.executemany(
        """
        INSERT INTO job_inputs (job_id, position, content_type, data, sealed)
        VALUES ($1, $2, $3, $4, $5)
        """,
        [
            (item.job_id, item.position, item.content_type, item.data, item.sealed)
            for item in inputs
        ],
    )


async def of_job(connection: Connection, job_id: UUID) -> dict[int, StoredInput]:
    """All stored images of a job, by position."""
    rows = await connection.fetch(
        "SELECT job_id, position, content_type, data, sealed FROM job_inputs WHERE job_id = $1",
        job_id,
    )
    return {row["position"]: StoredInput(**row) for row in rows}


async def delete_of_ended(connection: Connection) -> int:
    """Forget the images of jobs that completed; failed ones keep them for a retry by hand."""
    deleted: str = await connection.execute(
        """
        DELETE FROM job_inputs USING video_jobs AS job
        WHERE job.id = job_inputs.job_id AND job.status = 'completed'
        """
    )
    return int(deleted.rpartition(" ")[2])
