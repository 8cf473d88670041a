"""
All SQL on finished videos that are handed out again: which, to whom, under which idempotency key,
and whether they are still in the bucket.

The client that enqueues cannot see the bucket. It goes by the rows, which tell what vidgen itself
has deleted; a worker looks after it whether the video is there, and what is not is handed out no
more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson

from vidgen.job import JsonValue, VideoJob
from vidgen.store.pool import Connection
from vidgen.store.rows import job_of, json_of


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstUse:
    """
    What an idempotency key was used for first.

    Attributes:
        job: Made for it, or made before and handed out for it again.
        fingerprint: Of the video that was asked for.
        wish: What else was asked for, a hash for each field; None if the release before wrote it.
    """

    job: VideoJob
    fingerprint: str
    wish: Mapping[str, JsonValue] | None


async def hold_key(connection: Connection, user_id: str | None, key: str) -> None:
    """Let nobody else decide what *key* of this user stands for, until our transaction ends."""
    await connection.execute("SELECT vidgen_hold_key($1, $2)", user_id, key)


async def first_use(connection: Connection, user_id: str | None, key: str) -> FirstUse | None:
    """What *key* was used for first, by this user."""
    row = await connection.fetchrow(
        """
        SELECT job.*, used.wish AS wish_of_key FROM (
            SELECT id, wish FROM video_jobs
            WHERE coalesce(user_id, '') = coalesce($1, '') AND idempotency_key = $2
            UNION ALL
            SELECT job_id, wish FROM reuses
            WHERE coalesce(user_id, '') = coalesce($1, '') AND idempotency_key = $2
        ) AS used JOIN video_jobs AS job USING (id)
        """,
        user_id,
        key,
    )
    if row is None:
        return None
    wish = None if row["wish_of_key"] is None else orjson.loads(row["wish_of_key"])
    return FirstUse(job=job_of(row), fingerprint=row["fingerprint"], wish=wish)


async def made(
    connection: Connection,
    user_id: str | None,
    wanted: Mapping[str, str | None],
    within_s: int,
) -> dict[str, VideoJob]:
    """
    By fingerprint, the newest job of *user_id* whose video was stored in the last *within_s*
    seconds and is still there, and stays there: not if its user is to be forgotten. What a fallback
    made is not what was asked for.

    Args:
        wanted: What the route says by now, by fingerprint; None without a route.
    """
    rows = await connection.fetch(
        """
        SELECT DISTINCT ON (job.fingerprint) job.*
        FROM unnest($2::text[], $3::text[]) AS wanted (fingerprint, route_version)
        JOIN video_jobs AS job ON job.fingerprint = wanted.fingerprint
        WHERE job.status = 'completed' AND job.archived_at IS NULL AND job.gone_at IS NULL
          AND job.completed_at > now() - make_interval(secs => $4)
          AND coalesce(job.user_id, '') = coalesce($1, '') AND job.storage_key IS NOT NULL
          AND job.cancel_requested_at IS NULL AND job.target = 0
          AND job.route_version IS NOT DISTINCT FROM wanted.route_version
          AND NOT EXISTS (
              SELECT FROM erasures
              WHERE erasures.user_id = job.user_id AND job.created_at <= erasures.asked_at
          )
        ORDER BY job.fingerprint, job.completed_at DESC
        """,
        user_id,
        list(wanted),
        list(wanted.values()),
        within_s,
    )
    return {row["fingerprint"]: job_of(row) for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """
    One video that is handed out again.

    Attributes:
        job_id: Whose video it is.
        wish: What else was asked for; goes with the key.
    """

    job_id: UUID
    user_id: str | None
    idempotency_key: str | None = None
    wish: Mapping[str, JsonValue] | None = None


async def note(connection: Connection, found: Sequence[Reuse]) -> None:
    """Write down *found*, so that their keys stand for it and a worker looks after the videos."""
    await connection.executemany(
        "INSERT INTO reuses (job_id, user_id, idempotency_key, wish) VALUES ($1, $2, $3, $4)",
        [
            (
                each.job_id,
                each.user_id,
                each.idempotency_key,
                None if each.wish is None else json_of(each.wish),
            )
            for each in found
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """A job whose video was handed out again; *seq* is that of its newest time."""

    job_id: UUID
    storage_key: str
    seq: int


async def unseen(
    connection: Connection, limit: int, *, without: Sequence[UUID] = ()
) -> list[Unseen]:
    """At most *limit* jobs whose videos nobody has looked for since they were handed out again."""
    rows = await connection.fetch(
        """
        SELECT job.id AS job_id, job.storage_key, max(reuse.seq) AS seq
        FROM reuses AS reuse JOIN video_jobs AS job ON job.id = reuse.job_id
        WHERE reuse.seen_at IS NULL AND job.storage_key IS NOT NULL AND job.id <> ALL($2)
        GROUP BY job.id ORDER BY min(reuse.seq) LIMIT $1
        """,
        limit,
        list(without),
    )
    return [Unseen(**row) for row in rows]


async def seen(connection: Connection, found: Sequence[Unseen]) -> None:
    """The videos of *found* are there: what has no key needs to be known no longer."""
    await connection.execute(
        """
        WITH found AS (
            SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS found (job_id, seq)
        ), noted AS (
            UPDATE reuses SET seen_at = now() FROM found
            WHERE reuses.job_id = found.job_id AND reuses.seq <= found.seq
              AND reuses.seen_at IS NULL AND reuses.idempotency_key IS NOT NULL
        )
        DELETE FROM reuses USING found
        WHERE reuses.job_id = found.job_id AND reuses.seq <= found.seq
          AND reuses.idempotency_key IS NULL
        """,
        [each.job_id for each in found],
        [each.seq for each in found],
    )


async def missed(connection: Connection, job_id: UUID) -> bool:
    """
    The video of a job is not in the bucket: it is handed out to nobody again, and the keys that it
    was the answer to are free again. False if that was known.
    """
    newly = await connection.fetchval(
        """
        WITH freed AS (DELETE FROM reuses WHERE job_id = $1)
        UPDATE video_jobs SET gone_at = now()
        WHERE id = $1 AND status = 'completed' AND archived_at IS NULL AND gone_at IS NULL
        RETURNING true
        """,
        job_id,
    )
    return bool(newly)
