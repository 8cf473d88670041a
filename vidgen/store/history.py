"""What the past tells: how long videos take, when they ended, what they cost, where they wait."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from vidgen.forecast import Duration, Kind, Place
from vidgen.job import USUAL_SECONDS
from vidgen.store.pool import Connection

# The newest videos say how long the next one takes; what is older is another season.
LEARNT_FROM = 5_000
LEARNT_WITHIN = timedelta(days=7)
# Of one kind fewer will do, and follow a drift the sooner.
LEARNT_PER_KIND = 300


async def learn(connection: Connection) -> int:
    """Look at the newest videos and note how long each kind takes; how many kinds there were."""
    learnt: str = await connection.execute(
        """
        INSERT INTO durations (
            provider, model, seconds, size, samples, generated_p10, generated_p50, generated_p90,
            stored_p50, stored_p90
        )
        SELECT provider, model, seconds, size, count(*),
               percentile_cont(0.1) WITHIN GROUP (ORDER BY generated),
               percentile_cont(0.5) WITHIN GROUP (ORDER BY generated),
               percentile_cont(0.9) WITHIN GROUP (ORDER BY generated),
               percentile_cont(0.5) WITHIN GROUP (ORDER BY stored),
               percentile_cont(0.9) WITHIN GROUP (ORDER BY stored)
        FROM (
            SELECT *, row_number() OVER (
                PARTITION BY provider, model, seconds, size ORDER BY completed_at DESC
            ) AS number
            FROM (
                SELECT provider, model, completed_at,
                       coalesce((parameters ->> 'seconds')::integer, 0) AS seconds,
                       coalesce(
                           parameters ->> 'size',
                           concat_ws(
                               ' ', parameters ->> 'aspect_ratio', parameters ->> 'resolution'
                           )
                       ) AS size,
                       extract(epoch FROM generated_at - submitted_at) AS generated,
                       extract(epoch FROM completed_at - generated_at) AS stored
                FROM video_jobs
                WHERE completed_at > now() - $1::interval AND status = 'completed'
                ORDER BY completed_at DESC LIMIT $2
            ) AS newest
        ) AS numbered
        WHERE number <= $3
        GROUP BY provider, model, seconds, size
        ON CONFLICT (provider, model, seconds, size) DO UPDATE SET
            samples = excluded.samples, generated_p10 = excluded.generated_p10,
            generated_p50 = excluded.generated_p50, generated_p90 = excluded.generated_p90,
            stored_p50 = excluded.stored_p50, stored_p90 = excluded.stored_p90, learnt_at = now()
        """,
        LEARNT_WITHIN,
        LEARNT_FROM,
        LEARNT_PER_KIND,
    )
    return int(learnt.rpartition(" ")[2])


async def now(connection: Connection) -> datetime:
    """What time it is by the clock that decides."""
    at: datetime = await connection.fetchval("SELECT now()")
    return at


async def durations(connection: Connection) -> dict[Kind, Duration]:
    """How long each kind takes, as far as it is known."""
    rows = await connection.fetch(
        """
        SELECT provider, model, seconds, size, samples, generated_p10, generated_p50,
               generated_p90, stored_p50, stored_p90
        FROM durations
        """
    )
    names = ("provider", "model", "seconds", "size")
    return {
        Kind(**{name: row[name] for name in names}): Duration(
            **{name: value for name, value in row.items() if name not in names}
        )
        for row in rows
    }


async def places(
    connection: Connection, job_ids: Sequence[UUID], *, head_start_s: float
) -> dict[UUID, Place]:
    """
    The place of those of *job_ids* that wait and are due, as `vidgen.line` makes them share: behind
    as many seconds of video of others as of their own user.

    Args:
        head_start_s: Of video, what a job goes before for each step of its priority.
    """
    rows = await connection.fetch(
        """
        WITH due AS (
            -- Users are told apart, and need not be sorted by the rules of a language.
            SELECT id, provider, user_id COLLATE "C" AS user_id, priority, due_at,
                   stage <> 'queued' OR slot_at IS NOT NULL AS ahead,
                   CASE jsonb_typeof(parameters -> 'seconds')
                       WHEN 'number' THEN (parameters ->> 'seconds')::float8
                       ELSE $3
                   END AS seconds
            FROM video_jobs WHERE status IN ('pending', 'processing') AND due_at <= now()
        ), line AS (
            SELECT id, provider, due_at, ahead, sum(seconds) OVER (
                PARTITION BY user_id, priority, ahead ORDER BY due_at, id
                ROWS UNBOUNDED PRECEDING
            ) - seconds - priority * $2 AS turn
            FROM due
        )
        SELECT id, position, same_provider FROM (
            SELECT id, position,
                   row_number() OVER (PARTITION BY provider ORDER BY position) AS same_provider
            FROM (
                SELECT id, provider,
                       row_number() OVER (ORDER BY ahead DESC, turn, due_at, id) AS position
                FROM line
            ) AS everybody
        ) AS numbered
        WHERE id = ANY($1::uuid[])
        """,
        job_ids,
        head_start_s,
        float(USUAL_SECONDS),
    )
    return {
        row["id"]: Place(position=row["position"], same_provider=row["same_provider"])
        for row in rows
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """
    What ended within a stretch of time that begins *at*.

    Attributes:
        p50_s: From request to stored video, of completed ones; None without any.
        spend_micros: What all attempts of these jobs cost, as far as it is known.
    """

    at: datetime
    completed: int
    failed: int
    p50_s: float | None
    p90_s: float | None
    spend_micros: int


async def buckets(connection: Connection, *, hours: int, bucket_s: int) -> list[Bucket]:
    """The last *hours* in stretches of *bucket_s* seconds, the oldest first, without gaps."""
    rows = await connection.fetch(
        """
        -- Floats, and both percentiles by one sort: numeric ones and two sorts take twice as long.
        WITH ended AS (
            SELECT floor(extract(epoch FROM completed_at)::float8 / $2::integer)::bigint AS bucket,
                   count(*) FILTER (WHERE status = 'completed') AS completed,
                   count(*) FILTER (WHERE status = 'failed') AS failed,
                   percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (
                       ORDER BY extract(epoch FROM completed_at - created_at)::float8
                   ) FILTER (WHERE status = 'completed') AS took_s,
                   sum(actual_cost_micros)::bigint AS spend_micros
            FROM video_jobs WHERE completed_at > now() - make_interval(hours => $1)
            GROUP BY 1
        )
        SELECT to_timestamp(bucket * $2::integer) AS at, coalesce(completed, 0) AS completed,
               coalesce(failed, 0) AS failed, took_s[1] AS p50_s, took_s[2] AS p90_s,
               coalesce(spend_micros, 0) AS spend_micros
        FROM generate_series(
            floor(extract(epoch FROM now() - make_interval(hours => $1))::float8 / $2)::bigint,
            floor(extract(epoch FROM now())::float8 / $2)::bigint
        ) AS stretch (bucket)
        LEFT JOIN ended USING (bucket)
        ORDER BY bucket
        """,
        hours,
        bucket_s,
    )
    return [Bucket(**row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """
    Micro-dollars of jobs that ended since midnight UTC, over all their attempts.

    Attributes:
        spend_micros: Paid, as far as it is known.
        waste_micros: Paid, or possibly paid, for attempts that delivered no video.
        unknown_micros: The part of the waste that is only possibly paid: it is not in the spend.
    """

    spend_micros: int
    waste_micros: int
    unknown_micros: int


async def spend_today(connection: Connection) -> Spend:
    """What jobs that ended today cost."""
    row = await connection.fetchrow(
        """
        WITH ended AS (
            SELECT coalesce(actual_cost_micros, 0) AS spend_micros,
                   CASE status
                       WHEN 'completed' THEN lost_cost_micros
                       ELSE coalesce(actual_cost_micros, 0)
                   END AS lost_micros,
                   -- At the prices of the targets that it was: the job may have moved on since.
                   CASE WHEN vidgen_unknown_attempts(video_jobs) > 0 THEN (
                       SELECT coalesce(sum(micros), 0) FROM ledger
                       WHERE job_id = video_jobs.id AND uncertain
                   ) ELSE 0 END AS unknown_micros
            FROM video_jobs
            WHERE completed_at >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
        )
        SELECT coalesce(sum(spend_micros), 0)::bigint AS spend_micros,
               coalesce(sum(lost_micros + unknown_micros), 0)::bigint AS waste_micros,
               coalesce(sum(unknown_micros), 0)::bigint AS unknown_micros
        FROM ended
        """
    )
    assert row is not None  # an aggregate always answers
    return Spend(**row)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedGroup:
    """Failed jobs of one provider with one reason."""

    code: str
    provider: str
    jobs: int
    oldest_at: datetime
    newest_at: datetime


async def failed_groups(connection: Connection) -> list[FailedGroup]:
    """The failed jobs that are still kept, by reason and provider, the most frequent first."""
    rows = await connection.fetch(
        """
        SELECT error_code AS code, provider, count(*) AS jobs,
               min(completed_at) AS oldest_at, max(completed_at) AS newest_at
        FROM video_jobs WHERE status = 'failed' AND archived_at IS NULL
        GROUP BY error_code, provider ORDER BY jobs DESC, code, provider
        """
    )
    return [FailedGroup(**row) for row in rows]
