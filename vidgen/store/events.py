"""What happened, in order; `store.jobs` writes each event in the statement of its transition."""

from collections.abc import Mapping, Sequence
from datetime import datetime
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


async def call_ended_at(connection: Connection, job_id: UUID) -> datetime | None:
    """When the latest paid call of a job ended without an answer; None if nobody saw its end."""
    ended_at: datetime | None = await connection.fetchval(
        """
        SELECT at FROM job_events
        WHERE job_id = $1 AND type = 'errored' AND detail ->> 'call_ended' = 'true'
          AND seq > (SELECT max(seq) FROM job_events WHERE job_id = $1 AND type = 'submitting')
        ORDER BY seq DESC LIMIT 1
        """,
        job_id,
    )
    return ended_at


async def owner_of(
    connection: Connection, endpoint: str, operation_id: str
) -> tuple[UUID, int] | None:
    """The job and its attempt that an operation belongs to; None if it belongs to nobody."""
    row = await connection.fetchrow(
        """
        SELECT job_id, attempt FROM job_events
        WHERE type = 'submitted' AND detail ->> 'endpoint' = $1 AND detail ->> 'operation_id' = $2
        """,
        endpoint,
        operation_id,
    )
    return None if row is None else (row["job_id"], row["attempt"])


async def of_job(connection: Connection, job_id: UUID, after: int = 0) -> list[JobEvent]:
    """
    All events of a job behind number *after*, in the order in which they happened.

    Those of a newer release, of which we do not know what they are, are left out.
    """
    rows = await connection.fetch(
        """
        SELECT seq, job_id, type, at, status, stage, attempt, progress, detail, worker_id, by
        FROM job_events WHERE job_id = $1 AND seq > $2 AND type = ANY($3::text[]) ORDER BY seq
        """,
        job_id,
        after,
        list(EventType),
    )
    return [event_of(row) for row in rows]


async def of_jobs(connection: Connection, after: Mapping[UUID, int]) -> list[JobEvent]:
    """All events of several jobs, each behind a number of its own, in the order of all events."""
    rows = await connection.fetch(
        """
        SELECT happened.* FROM unnest($1::uuid[], $2::bigint[]) AS watched (job_id, after)
        CROSS JOIN LATERAL (
            SELECT seq, job_id, type, at, status, stage, attempt, progress, detail, worker_id, by
            FROM job_events
            WHERE job_id = watched.job_id AND seq > watched.after AND type = ANY($3::text[])
        ) AS happened
        ORDER BY seq
        """,
        list(after),
        list(after.values()),
        list(EventType),
    )
    return [event_of(row) for row in rows]


async def newest(connection: Connection) -> int:
    """The number of the last event there is; 0 without any."""
    seq: int = await connection.fetchval("SELECT coalesce(max(seq), 0) FROM job_events")
    return seq


async def behind(
    connection: Connection, after: int, missing: Sequence[int], limit: int
) -> list[JobEvent]:
    """
    At most *limit* events of all jobs behind number *after*, and those of *missing* that are there.

    Numbers are given before the commit: one may appear after its successors.
    """
    rows = await connection.fetch(
        """
        SELECT seq, job_id, type, at, status, stage, attempt, progress, detail, worker_id, by
        FROM job_events
        WHERE (seq > $1 OR seq = ANY($2::bigint[])) AND type = ANY($3::text[])
        ORDER BY seq LIMIT $4
        """,
        after,
        missing,
        list(EventType),
        limit,
    )
    return [event_of(row) for row in rows]
