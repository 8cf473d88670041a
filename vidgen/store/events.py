"""What happened, in order; `store.jobs` writes each event in the statement of its transition."""

from collections.abc import Sequence
from uuid import UUID

from vidgen.job import EventType, JobEvent
from vidgen.store.pool import Connection
from vidgen.store.rows import event_of


async def taken_operations(
    connection: Connection, endpoint: str, operation_ids: Sequence[str]
) -> frozenset[str]:
    """Those of *operation_ids* that belong to an attempt already, whatever became of it."""
    rows = await connection.fetch(
        """
        SELECT detail ->> 'operation_id' AS id FROM job_events
        WHERE type = 'submitted' AND detail ->> 'endpoint' = $1
          AND detail ->> 'operation_id' = ANY($2::text[])
        """,
        endpoint,
        operation_ids,
    )
    return frozenset(row["id"] for row in rows)


async def of_job(connection: Connection, job_id: UUID, after: int = 0) -> list[JobEvent]:
    """
    All events of a job behind number *after*, in the order in which they happened.

    Those of a newer release, of which we do not know what they are, are left out.
    """
    rows = await connection.fetch(
        """
        SELECT seq, job_id, type, at, status, stage, attempt, progress, detail
        FROM job_events WHERE job_id = $1 AND seq > $2 AND type = ANY($3::text[]) ORDER BY seq
        """,
        job_id,
        after,
        list(EventType),
    )
    return [event_of(row) for row in rows]
