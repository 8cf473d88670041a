"""All SQL on envelopes of prompts and images: which encryption keys they need, and new ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from vidgen.store.inputs import StoredInput
from vidgen.store.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPrompt:
    """The envelope of a job's prompt and parameters."""

    job_id: UUID
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptsUnder:
    """How many jobs' prompts one encryption key opens."""

    key_id: bytes
    prompts: int


async def under(connection: Connection) -> list[PromptsUnder]:
    """Which encryption keys are needed, and by the prompts of how many jobs."""
    rows = await connection.fetch(
        """
        SELECT substring(sealed FROM 2 FOR 8) AS key_id, count(*) AS prompts
        FROM video_jobs WHERE sealed IS NOT NULL
        GROUP BY 1 ORDER BY 1
        """
    )
    return [PromptsUnder(**row) for row in rows]


async def is_job(connection: Connection, job_id: UUID) -> bool:
    """Whether there is a job with this id."""
    found = await connection.fetchval("SELECT true FROM video_jobs WHERE id = $1", job_id)
    return bool(found)


async def to_reseal(
    connection: Connection, key_ids: Sequence[bytes], *, after: UUID | None, limit: int
) -> list[SealedPrompt]:
    """At most *limit* prompts of jobs behind *after* that one of *key_ids* opens."""
    rows = await connection.fetch(
        """
        SELECT id AS job_id, sealed FROM video_jobs
        WHERE sealed IS NOT NULL AND substring(sealed FROM 2 FOR 8) = ANY($1::bytea[])
          AND ($2::uuid IS NULL OR id > $2)
        ORDER BY id LIMIT $3
        """,
        list(key_ids),
        after,
        limit,
    )
    return [SealedPrompt(**row) for row in rows]


async def images_to_reseal(
    connection: Connection, job_id: UUID, key_ids: Sequence[bytes]
) -> list[StoredInput]:
    """The images of a job that one of *key_ids* opens."""
    rows = await connection.fetch(
        """
        SELECT job_id, position, content_type, data, sealed FROM job_inputs
        WHERE job_id = $1 AND sealed AND substring(data FROM 2 FOR 8) = ANY($2::bytea[])
        """,
        job_id,
        list(key_ids),
    )
    return [StoredInput(**row) for row in rows]


async def reseal_image(connection: Connection, fresh: StoredInput) -> None:
    """Put a new envelope around an image that is still there."""
    await connection.execute(
        "UPDATE job_inputs SET data = $3 WHERE job_id = $1 AND position = $2 AND sealed",
        fresh.job_id,
        fresh.position,
        fresh.data,
    )


async def reseal(
    connection: Connection, resealed: Sequence[tuple[SealedPrompt, bytes, str]]
) -> int:
    """
    Put new envelopes, and new fingerprints, in the place of those that were read; how many it were.

    One that was resealed, archived or deleted meanwhile is left alone.
    """
    rows = await connection.fetch(
        """
        -- In one order, so that two rotations at once wait for each other instead of in a circle.
        WITH locked AS MATERIALIZED (
            SELECT job.id, fresh.sealed, fresh.fingerprint FROM video_jobs AS job
            JOIN unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::text[])
                AS fresh (id, old, sealed, fingerprint)
              ON job.id = fresh.id AND job.sealed = fresh.old
            ORDER BY job.id
            FOR UPDATE OF job
        )
        UPDATE video_jobs AS job SET sealed = locked.sealed, fingerprint = locked.fingerprint
        FROM locked WHERE job.id = locked.id
        RETURNING job.id
        """,
        [prompt.job_id for prompt, _, _ in resealed],
        [prompt.sealed for prompt, _, _ in resealed],
        [sealed for _, sealed, _ in resealed],
        [fingerprint for _, _, fingerprint in resealed],
    )
    return len(rows)
