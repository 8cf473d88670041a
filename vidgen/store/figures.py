"""What dashboards and alerts ask of the queue, cheap however many rows there are."""

from collections.abc import Mapping
from dataclasses import dataclass

from vidgen.store.pool import Connection

# A backlog of this size is an alert in itself. Measured: 100,000 take PostgreSQL 300 ms, each time
# any of the workers is scraped.
COUNTED_AT_MOST = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """
    The queue at one moment.

    Attributes:
        jobs: How many there are by (status, provider); waiting are due, delayed will be, active
            are under way, failed can still be retried. Each stops near *COUNTED_AT_MOST*.
        oldest_s: Seconds since the longest waiting job became due that no pause holds back; 0
            when none waits.
        workers: How many gave a heartbeat in time.
        webhooks: How many are still to be delivered; stops as *jobs*.
        paused: Providers that take no new jobs; `*` is all of them.
    """

    jobs: Mapping[tuple[str, str], int]
    oldest_s: float
    workers: int
    webhooks: int
    paused: frozenset[str]


async def figures(connection: Connection, ttl_s: float) -> Figures:
    """
    Count all that is not completed, in one statement over the partial indexes.

    Args:
        ttl_s: A worker silent for so long is dead.
    """
    rows = await connection.fetch(
        """
        WITH unheld AS (
            SELECT status, due_at, provider FROM video_jobs WHERE due_at IS NOT NULL
            ORDER BY due_at LIMIT $2
        ), held AS (
            SELECT provider FROM video_jobs WHERE worker_id IS NOT NULL LIMIT $2
        ), failed AS (
            -- As `video_jobs_kept` has it: archived ones stay for ever, and are not looked at.
            SELECT status, provider FROM video_jobs
            WHERE status IN ('failed', 'cancelled') AND archived_at IS NULL
            LIMIT $2
        ), counted AS (
            SELECT
                CASE WHEN status = 'processing' THEN 'active'
                     WHEN due_at <= now() THEN 'waiting'
                     ELSE 'delayed' END AS status,
                provider, count(*) AS jobs
            FROM unheld GROUP BY 1, 2
            UNION ALL
            SELECT 'active', provider, count(*) FROM held GROUP BY 2
            UNION ALL
            SELECT 'failed', provider, count(*) FROM failed WHERE status = 'failed' GROUP BY 2
        )
        SELECT status, provider, sum(jobs) AS jobs FROM counted GROUP BY 1, 2
        UNION ALL
        SELECT 'oldest', NULL, extract(epoch FROM now() - min(due_at)) FROM unheld
        WHERE status <> 'pending'
           OR NOT ARRAY[provider, '*'] && ARRAY(SELECT pauses.provider FROM pauses)
        UNION ALL
        SELECT 'workers', NULL, count(*) FROM workers
        WHERE heartbeat_at > now() - make_interval(secs => $1)
        UNION ALL
        SELECT 'webhooks', NULL, count(*) FROM (
            SELECT FROM webhook_deliveries WHERE state = 'pending' LIMIT $2
        ) AS pending
        UNION ALL
        SELECT 'paused', provider, 1 FROM pauses
        """,
        ttl_s,
        COUNTED_AT_MOST,
    )
    alone = {row["status"]: row["jobs"] for row in rows if row["provider"] is None}
    return Figures(
        jobs={
            (row["status"], row["provider"]): int(row["jobs"])
            for row in rows
            if row["provider"] is not None and row["status"] != "paused"
        },
        oldest_s=max(float(alone["oldest"] or 0), 0.0),
        workers=int(alone["workers"]),
        webhooks=int(alone["webhooks"]),
        paused=frozenset(row["provider"] for row in rows if row["status"] == "paused"),
    )
