"""What happened, in order; `store.jobs` writes each event in the statement of its transition."""

from uuid import UUID

from vidgen.job import JobEvent
from vidgen.store.pool import Connection
from vidgen.store.rows import event_of


async def of_job(connection: Connection, job_id: UUID, after: int = 0) -> list[JobEvent]:
    """All events of a job behind number *after*, in the order in which they happened."""
    rows = await connection.fetch(
        """
        SELECT seq, job_id, type, at, status, stage, attempt, progress, detail
        FROM job_events WHERE job_id = $1 AND seq > $2 ORDER BY seq
        """,
        job_id,
        after,
    )
    return [event_of(row) for row in rows]
