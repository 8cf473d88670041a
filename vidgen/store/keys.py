"""All SQL on `provider_keys`: what users sealed here, and which running jobs still need it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from vidgen.store.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One sealed provider key."""

    id: UUID
    user_id: str
    provider: str
    api: str
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedKey:
    """
    What may be told of a stored key.

    Attributes:
        hint: The end of the key, four characters at most; empty for short ones.
        key_id: Which encryption key opens it.
        jobs: Running jobs that began with it.
    """

    id: UUID
    user_id: str
    provider: str
    api: str
    hint: str
    key_id: bytes
    created_at: datetime
    sealed_at: datetime
    removed_at: datetime | None
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedUnder:
    """How many provider keys one encryption key opens."""

    key_id: bytes
    keys: int


async def put(connection: Connection, key: StoredKey, hint: str) -> UUID | None:
    """
    Store *key* as the one its user has for this interface, and return the id of the one before.

    Within a transaction of the caller's.
    """
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtext('vidgen:provider_keys'), hashtext($1))",
        key.user_id,
    )
    replaced: UUID | None = await connection.fetchval(
        """
        UPDATE provider_keys SET removed_at = now()
        WHERE user_id = $1 AND provider = $2 AND api = $3 AND removed_at IS NULL
        RETURNING id
        """,
        key.user_id,
        key.provider,
        key.api,
    )
    await connection.execute(
        """
        INSERT INTO provider_keys (id, user_id, provider, api, sealed, hint)
        VALUES ($1, $2, $3, $4, $5, $6)
        """,
        key.id,
        key.user_id,
        key.provider,
        key.api,
        key.sealed,
        hint,
    )
    return replaced


async def current(
    connection: Connection, user_id: str, provider: str, api: str
) -> StoredKey | None:
    """The key of a user for one interface of a provider."""
    row = await connection.fetchrow(
        """
        SELECT id, user_id, provider, api, sealed FROM provider_keys
        WHERE user_id = $1 AND provider = $2 AND api = $3 AND removed_at IS NULL
        """,
        user_id,
        provider,
        api,
    )
    return None if row is None else StoredKey(**row)


async def get(connection: Connection, key_id: UUID) -> StoredKey | None:
    """The key with this id, also if it was removed and running jobs still need it."""
    row = await connection.fetchrow(
        "SELECT id, user_id, provider, api, sealed FROM provider_keys WHERE id = $1", key_id
    )
    return None if row is None else StoredKey(**row)


async def listed(
    connection: Connection,
    *,
    user_id: str | None = None,
    provider: str | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[ListedKey]:
    """At most *limit* keys, newest first, older than *before*; removed ones that are kept, too."""
    rows = await connection.fetch(
        """
        SELECT id, user_id, provider, api, hint, key_id, created_at, sealed_at, removed_at,
               (
                   SELECT count(*) FROM video_jobs AS job
                   WHERE job.credential_id = key.id::text AND job.credential_id <> 'server'
                     AND job.completed_at IS NULL AND job.stage <> 'queued'
               ) AS jobs
        FROM provider_keys AS key
        WHERE ($1::text IS NULL OR user_id = $1)
          AND ($2::text IS NULL OR provider = $2)
          AND ($3::uuid IS NULL OR id < $3)
        ORDER BY id DESC LIMIT $4
        """,
        user_id,
        provider,
        before,
        limit,
    )
    return [ListedKey(**row) for row in rows]


async def remove(connection: Connection, key_id: UUID) -> bool:
    """
    Let no job begin with this key any more; whether it was in use until now.

    Waits for intents that are being written with it, so that `needed_by` sees them afterwards.
    """
    removed = await connection.fetchval(
        """
        UPDATE provider_keys SET removed_at = now()
        WHERE id = $1 AND removed_at IS NULL
        RETURNING true
        """,
        key_id,
    )
    return bool(removed)


async def needed_by(connection: Connection, key_id: UUID) -> int:
    """How many running jobs began with this key, and can be followed with no other."""
    count: int = await connection.fetchval(
        """
        SELECT count(*) FROM video_jobs
        WHERE credential_id = $1::uuid::text AND credential_id <> 'server'
          AND completed_at IS NULL AND stage <> 'queued'
        """,
        key_id,
    )
    return count


async def forget_removed(connection: Connection) -> int:
    """Delete removed keys that no running job needs; how many it were."""
    rows = await connection.fetch(
        """
        DELETE FROM provider_keys AS key
        WHERE removed_at IS NOT NULL AND NOT EXISTS (
            SELECT FROM video_jobs AS job
            WHERE job.credential_id = key.id::text AND job.credential_id <> 'server'
              AND job.completed_at IS NULL AND job.stage <> 'queued'
        )
        RETURNING id
        """
    )
    return len(rows)


async def sealed_under(connection: Connection) -> list[SealedUnder]:
    """Which encryption keys are needed, and by how many provider keys."""
    rows = await connection.fetch(
        "SELECT key_id, count(*) AS keys FROM provider_keys GROUP BY key_id ORDER BY key_id"
    )
    return [SealedUnder(**row) for row in rows]


async def to_reseal(
    connection: Connection, key_ids: Sequence[bytes], *, after: UUID | None, limit: int
) -> list[StoredKey]:
    """At most *limit* provider keys behind *after* that one of *key_ids* opens."""
    rows = await connection.fetch(
        """
        SELECT id, user_id, provider, api, sealed FROM provider_keys
        WHERE key_id = ANY($1::bytea[]) AND ($2::uuid IS NULL OR id > $2)
        ORDER BY id LIMIT $3
        """,
        list(key_ids),
        after,
        limit,
    )
    return [StoredKey(**row) for row in rows]


async def reseal(connection: Connection, resealed: Sequence[tuple[StoredKey, bytes]]) -> int:
    """
    Put new envelopes in the place of those that were read; how many it were.

    One that was resealed or deleted meanwhile is left alone.
    """
    rows = await connection.fetch(
        """
        -- In one order, so that two rotations at once wait for each other instead of in a circle.
        WITH locked AS MATERIALIZED (
            SELECT key.id, fresh.sealed FROM provider_keys AS key
            JOIN unnest($1::uuid[], $2::bytea[], $3::bytea[]) AS fresh (id, old, sealed)
              ON key.id = fresh.id AND key.sealed = fresh.old
            ORDER BY key.id
            FOR UPDATE OF key
        )
        UPDATE provider_keys AS key SET sealed = locked.sealed, sealed_at = now()
        FROM locked WHERE key.id = locked.id
        RETURNING key.id
        """,
        [key.id for key, _ in resealed],
        [key.sealed for key, _ in resealed],
        [sealed for _, sealed in resealed],
    )
    return len(rows)
