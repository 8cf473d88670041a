"""How many videos each user may have under way at the provider: SQL."""

from uuid import UUID

from vidgen.job import Stage
from vidgen.store.pool import Connection
from vidgen.store.rows import DueJob, due_job_of

UNDER_WAY = (Stage.SUBMITTING, Stage.GENERATING, Stage.TRANSFERRING)


async def line_end_s(connection: Connection, user_id: str) -> float:
    """In how many seconds the last one is due that waits for others of *user_id* to end."""
    seconds: float = await connection.fetchval(
        """
        SELECT coalesce(greatest(extract(epoch FROM max(due_at) - now()), 0), 0)::float8
        FROM video_jobs WHERE user_id = $1 AND status = 'pending' AND capped
        """,
        user_id,
    )
    return seconds


async def has_room(connection: Connection, job_id: UUID, limit: int) -> bool:
    """
    Whether the user of this job has fewer than *limit* others under way.

    Nobody else is told so for the same user before the transaction ends.
    """
    # A statement of its own: the next one sees what others have written until now.
    await connection.execute(
        """
        SELECT pg_advisory_xact_lock(hashtextextended('vidgen user ' || user_id, 0))
        FROM video_jobs WHERE id = $1 AND user_id IS NOT NULL
        """,
        job_id,
    )
    has_room: bool = await connection.fetchval(
        """
        SELECT count(*) < $2 FROM video_jobs AS job JOIN video_jobs AS other USING (user_id)
        WHERE job.id = $1 AND other.id <> $1 AND other.status = 'processing'
          AND other.stage = ANY($3::text[])
        """,
        job_id,
        limit,
        list(UNDER_WAY),
    )
    return has_room


async def recall(connection: Connection, limit: int) -> list[DueJob]:
    """Make as many of each user's waiting jobs due as they may have under way now."""
    rows = await connection.fetch(
        """
        WITH line AS MATERIALIZED (
            SELECT id, user_id, due_at <= now() AS is_due, row_number() OVER (
                -- Who is due already counts as if it went.
                PARTITION BY user_id ORDER BY due_at > now(), priority DESC, started_at, id
            ) AS place
            FROM video_jobs WHERE capped AND status = 'pending'
        ), going AS (
            SELECT user_id, count(*) AS jobs FROM video_jobs
            WHERE user_id IN (SELECT user_id FROM line WHERE NOT is_due)
              AND status = 'processing' AND stage = ANY($2::text[])
            GROUP BY user_id
        ), first AS MATERIALIZED (
            SELECT id FROM video_jobs JOIN line USING (id)
            LEFT JOIN going ON going.user_id = line.user_id
            WHERE NOT is_due AND place <= $1 - coalesce(going.jobs, 0)
              AND status = 'pending' AND capped AND due_at > now()
            FOR UPDATE OF video_jobs SKIP LOCKED
        )
        UPDATE video_jobs AS job SET due_at = now() FROM first WHERE job.id = first.id
        RETURNING job.id, job.lease_epoch, job.priority, job.due_at, job.user_id,
                  job.parameters -> 'seconds' AS seconds,
                  job.stage <> 'queued' OR job.slot_at IS NOT NULL AS ahead
        """,
        limit,
        list(UNDER_WAY),
    )
    return [due_job_of(row) for row in rows]
