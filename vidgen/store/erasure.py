"""
All SQL on users who are to be forgotten, and on results that are kept no longer.

The wish is a row; it goes when nothing it covers is left. Rows of jobs are deleted last of all:
until then whoever comes again finds what there is to delete elsewhere.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from vidgen.store.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """
    What there is of a user.

    Attributes:
        jobs: All of them, archived ones included.
        running: Those that have not ended.
        paid: Running ones whose video was bought, or may have been: that is not given back.
        paid_micros: What these are estimated to cost, as far as it is known.
        videos: Jobs whose video is in the bucket.
        inputs: Images that came along with requests.
        keys: Provider keys they brought.
        asked_at: Since when they are to be forgotten; None if nobody asked, or it is done.
    """

    jobs: int
    running: int
    paid: int
    paid_micros: int
    videos: int
    events: int
    deliveries: int
    inputs: int
    keys: int
    asked_at: datetime | None


def pseudonym(user_id: str) -> str:
    """What the record of actions calls somebody who is forgotten."""
    return "user-" + hashlib.sha256(b"vidgen user\0" + user_id.encode()).hexdigest()[:16]


async def traces(connection: Connection, user_id: str) -> Traces:
    """What there is of a user."""
    row = await connection.fetchrow(
        """
        WITH theirs AS MATERIALIZED (
            SELECT id, status, stage, storage_key, archived_at, estimated_cost_micros
            FROM video_jobs WHERE user_id = $1
        ), paid AS (
            SELECT estimated_cost_micros FROM theirs
            WHERE status = 'processing' AND stage <> 'queued'
        )
        SELECT
            (SELECT count(*) FROM theirs) AS jobs,
            (SELECT count(*) FROM theirs WHERE status IN ('pending', 'processing')) AS running,
            (SELECT count(*) FROM paid) AS paid,
            (SELECT coalesce(sum(estimated_cost_micros), 0)::bigint FROM paid) AS paid_micros,
            (
                SELECT count(*) FROM theirs WHERE storage_key IS NOT NULL AND archived_at IS NULL
            ) AS videos,
            (SELECT count(*) FROM job_events WHERE job_id IN (SELECT id FROM theirs)) AS events,
            (SELECT count(*) FROM webhook_deliveries WHERE job_id IN (SELECT id FROM theirs))
                AS deliveries,
            (SELECT count(*) FROM job_inputs WHERE job_id IN (SELECT id FROM theirs)) AS inputs,
            (SELECT count(*) FROM provider_keys WHERE user_id = $1) AS keys,
            (SELECT asked_at FROM erasures WHERE user_id = $1) AS asked_at
        """,
        user_id,
    )
    assert row is not None  # an aggregate always answers
    return Traces(**row)


async def ask(connection: Connection, user_id: str) -> None:
    """
    Let the jobs that a user has by now be deleted, and no job begin with a key of theirs.

    Asked again it covers what came meanwhile.
    """
    await connection.execute(
        """
        WITH removed AS (
            UPDATE provider_keys SET removed_at = now()
            WHERE user_id = $1 AND removed_at IS NULL
        )
        INSERT INTO erasures (user_id) VALUES ($1)
        ON CONFLICT (user_id) DO UPDATE SET asked_at = now()
        """,
        user_id,
    )


async def asked(connection: Connection) -> list[str]:
    """Who is to be forgotten, the longest waiting first."""
    rows = await connection.fetch("SELECT user_id FROM erasures ORDER BY asked_at, user_id")
    return [row["user_id"] for row in rows]


async def running(
    connection: Connection, user_id: str, *, after: UUID | None, limit: int
) -> list[UUID]:
    """At most *limit* jobs behind *after* that have to end, since their user is to be forgotten."""
    rows = await connection.fetch(
        """
        SELECT job.id FROM erasures JOIN video_jobs AS job USING (user_id)
        WHERE user_id = $1 AND job.created_at <= erasures.asked_at
          AND job.status IN ('pending', 'processing') AND ($2::uuid IS NULL OR job.id > $2)
        ORDER BY job.id LIMIT $3
        """,
        user_id,
        after,
        limit,
    )
    return [row["id"] for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFiles:
    """An ended job, and the keys that its row has of objects in the bucket."""

    job_id: UUID
    keys: Sequence[str]


async def ended(connection: Connection, user_id: str, *, limit: int) -> list[StoredFiles]:
    """At most *limit* jobs that have ended and whose user is to be forgotten."""
    rows = await connection.fetch(
        """
        SELECT job.id AS job_id,
               array_remove(
                   ARRAY[job.storage_key, job.thumbnail_key, job.spritesheet_key], NULL
               ) AS keys
        FROM erasures JOIN video_jobs AS job USING (user_id)
        WHERE user_id = $1 AND job.created_at <= erasures.asked_at
          AND job.status IN ('completed', 'failed', 'cancelled')
        ORDER BY job.id LIMIT $2
        """,
        user_id,
        limit,
    )
    return [StoredFiles(**row) for row in rows]


async def delete(connection: Connection, job_ids: Sequence[UUID]) -> int:
    """
    Delete jobs that have ended, with events, deliveries and images; how many it were.

    Their operations are remembered as taken: a video of theirs is nobody else's lost one.
    """
    deleted: int = await connection.fetchval(
        """
        WITH operations AS (
            INSERT INTO erased_operations (endpoint, operation_id)
            SELECT DISTINCT detail ->> 'endpoint', detail ->> 'operation_id' FROM job_events
            WHERE job_id = ANY($1::uuid[]) AND type = 'submitted'
              AND detail ->> 'endpoint' IS NOT NULL AND detail ->> 'operation_id' IS NOT NULL
            ON CONFLICT DO NOTHING
        ), deleted AS (
            -- One that is being retried by hand right now is cancelled first.
            DELETE FROM video_jobs
            WHERE id = ANY($1::uuid[]) AND status IN ('completed', 'failed', 'cancelled')
            RETURNING id
        )
        SELECT count(*) FROM deleted
        """,
        job_ids,
    )
    return deleted


async def finish(connection: Connection, user_id: str, pseudonym: str) -> bool:
    """
    Delete what else there is of a user none of whose jobs is left, and the wish itself; whether it
    is done.

    In the record of actions their name gives way to *pseudonym*.
    """
    async with connection.transaction():
        done = await connection.fetchval(
            """
            DELETE FROM erasures
            WHERE user_id = $1 AND NOT EXISTS (
                SELECT FROM video_jobs AS job
                WHERE job.user_id = $1 AND job.created_at <= erasures.asked_at
            )
            RETURNING true
            """,
            user_id,
        )
        if not done:
            return False
        await connection.execute(
            """
            DELETE FROM provider_keys AS key
            WHERE user_id = $1 AND removed_at IS NOT NULL AND NOT EXISTS (
                SELECT FROM video_jobs AS job
                WHERE job.credential_id = key.id::text AND job.credential_id <> 'server'
                  AND job.completed_at IS NULL AND job.stage <> 'queued'
            )
            """,
            user_id,
        )
        await connection.execute(
            """
            UPDATE audit SET
                target = CASE target WHEN $1 THEN $2 ELSE target END,
                detail = CASE detail ->> 'user_id'
                    WHEN $1 THEN jsonb_set(detail, '{user_id}', to_jsonb($2::text)) ELSE detail
                END
            WHERE target = $1 OR detail ->> 'user_id' = $1
            """,
            user_id,
            pseudonym,
        )
    return True


async def expired(connection: Connection, keep: timedelta, *, limit: int) -> list[StoredFiles]:
    """
    At most *limit* videos that were completed longer than *keep* ago, the oldest ones; from now on
    they count as gone, so that none is handed out again while it is being deleted.
    """
    rows = await connection.fetch(
        """
        WITH oldest AS (
            SELECT id FROM video_jobs
            WHERE status = 'completed' AND archived_at IS NULL
              AND completed_at < now() - $1::interval
            ORDER BY completed_at LIMIT $2
        )
        UPDATE video_jobs AS job SET gone_at = coalesce(job.gone_at, now())
        FROM oldest WHERE job.id = oldest.id
        RETURNING job.id AS job_id,
                  array_remove(
                      ARRAY[job.storage_key, job.thumbnail_key, job.spritesheet_key], NULL
                  ) AS keys
        """,
        keep,
        limit,
    )
    return [StoredFiles(**row) for row in rows]


async def archive(connection: Connection, job_ids: Sequence[UUID]) -> int:
    """
    Keep only a summary of completed jobs whose files are gone; how many it were.

    As `jobs.archive_ended`: ids, times, cost, hash and size of the video stay, and webhooks that
    are still on their way.
    """
    archived: int = await connection.fetchval(
        """
        WITH archived AS (
            UPDATE video_jobs
            SET archived_at = now(), prompt = '', parameters = '{}', metadata = '{}',
                webhook_url = NULL, sealed = NULL, thumbnail_key = NULL, spritesheet_key = NULL,
                target_parameters = '[]'
            WHERE id = ANY($1::uuid[]) AND status = 'completed' AND archived_at IS NULL
            RETURNING id
        ), events AS (
            DELETE FROM job_events USING archived WHERE job_events.job_id = archived.id
        ), inputs AS (
            DELETE FROM job_inputs USING archived WHERE job_inputs.job_id = archived.id
        ), deliveries AS (
            DELETE FROM webhook_deliveries AS delivery USING archived
            WHERE delivery.job_id = archived.id AND delivery.state <> 'pending'
        )
        SELECT count(*) FROM archived
        """,
        job_ids,
    )
    return archived


async def forget_operations(connection: Connection, keep: timedelta) -> None:
    """Let go of operations that were erased *keep* ago: no receipt is looked for so long."""
    await connection.execute(
        "DELETE FROM erased_operations WHERE erased_at < now() - $1::interval", keep
    )
