"""Who is alive, by the clock of the database: one row and one heartbeat per process."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from vidgen.store.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker process."""

    id: UUID
    hostname: str
    pid: int
    version: str
    concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """
    What a heartbeat brings back.

    Attributes:
        now: The time of the database.
        cancels: Jobs of this worker that somebody wants cancelled, and whether a finished video
            is to be thrown away, too.
    """

    now: datetime
    cancels: Mapping[UUID, bool]


async def heartbeat(connection: Connection, worker: Worker) -> Beat:
    """Renew every lease of *worker* at once, and see what it should stop."""
    row = await connection.fetchrow(
        """
        INSERT INTO workers (id, hostname, pid, version, concurrency)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (id) DO UPDATE SET heartbeat_at = now()
        RETURNING heartbeat_at, ARRAY(
            SELECT (id, cancel_discards) FROM video_jobs
            WHERE worker_id = $1 AND cancel_requested_at IS NOT NULL
        ) AS cancels
        """,
        worker.id,
        worker.hostname,
        worker.pid,
        worker.version,
        worker.concurrency,
    )
    assert row is not None  # an upsert always answers
    return Beat(now=row["heartbeat_at"], cancels=dict(row["cancels"]))


async def leave(connection: Connection, worker_id: UUID) -> None:
    """Strike a worker that stops in good order off the list."""
    await connection.execute("DELETE FROM workers WHERE id = $1", worker_id)


async def alive(connection: Connection, ttl_s: float) -> int:
    """How many workers gave a heartbeat within *ttl_s* seconds."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM workers WHERE heartbeat_at > now() - make_interval(secs => $1)", ttl_s
    )
    return count


async def slots(connection: Connection, ttl_s: float) -> int:
    """How many videos all workers that are alive may have in flight together."""
    count: int = await connection.fetchval(
        """
        SELECT coalesce(sum(concurrency), 0) FROM workers
        WHERE heartbeat_at > now() - make_interval(secs => $1)
        """,
        ttl_s,
    )
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedWorker:
    """
    One worker process, as the books have it.

    Attributes:
        held: Jobs it holds.
        alive: Whether it gave a heartbeat within the lease's time.
    """

    id: UUID
    hostname: str
    pid: int
    version: str
    concurrency: int
    held: int
    started_at: datetime
    heartbeat_at: datetime
    alive: bool


async def listed(connection: Connection, ttl_s: float) -> list[ListedWorker]:
    """Every worker that is not forgotten, the living ones first, then the newest."""
    rows = await connection.fetch(
        """
        SELECT id, hostname, pid, version, concurrency, started_at, heartbeat_at,
               heartbeat_at > now() - make_interval(secs => $1) AS alive,
               (SELECT count(*) FROM video_jobs WHERE worker_id = workers.id) AS held
        FROM workers ORDER BY alive DESC, started_at DESC
        """,
        ttl_s,
    )
    return [ListedWorker(**row) for row in rows]


async def forget_dead(connection: Connection, ttl_s: float) -> int:
    """Strike workers off that have been silent for *ttl_s* seconds and hold nothing any more."""
    deleted: str = await connection.execute(
        """
        DELETE FROM workers
        WHERE heartbeat_at < now() - make_interval(secs => $1)
          AND NOT EXISTS (SELECT FROM video_jobs WHERE video_jobs.worker_id = workers.id)
        """,
        ttl_s,
    )
    return int(deleted.rpartition(" ")[2])
