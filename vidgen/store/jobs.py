"""
All SQL on `video_jobs`. After the insert one statement writes status and stage: `apply`.

Database time decides due dates; `lease_epoch` fences out whoever lost the job.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import orjson
from asyncpg import Record, UniqueViolationError
from uuid_utils.compat import uuid7

from vidgen.errors import LeaseLostError, OperationTakenError, UserLimitError
from vidgen.job import (
    EventType,
    JobStatus,
    JsonValue,
    Lease,
    RerouteReason,
    Stage,
    Target,
    VideoJob,
)
from vidgen.lifecycle import ACTIVE, Transition
from vidgen.store.budgets import money_errors
from vidgen.store.pool import Connection
from vidgen.store.rows import DueJob, due_job_of, job_of, json_of
from vidgen.store.sharing import has_room


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """
    What `enqueue` inserts; everything else starts at its default.

    Attributes:
        route_version: What the route said, as a hash.
        api: The interface that a key of the user has to be for, if they are to pay.
        allow_unknown_price: It is accepted without a price, whatever the budgets.
    """

    id: UUID
    provider: str
    model: str
    prompt: str
    parameters: Mapping[str, JsonValue]
    fingerprint: str
    scene_id: str | None
    user_id: str | None
    idempotency_key: str | None
    priority: int
    run_at: datetime | None
    max_attempts: int
    deadline_s: int
    estimated_cost_micros: int | None
    webhook_url: str | None
    metadata: Mapping[str, JsonValue]
    traceparent: str | None
    wish: Mapping[str, JsonValue] | None
    targets: tuple[Target, ...] = ()
    target_parameters: tuple[Mapping[str, JsonValue], ...] = field(default=(), repr=False)
    route: str | None = None
    route_version: str | None = None
    reroute_on: tuple[RerouteReason, ...] = ()
    max_cost_micros: int | None = None
    sealed: bytes | None = field(default=None, repr=False)
    api: str | None = None
    allow_unknown_price: bool = False


async def insert(connection: Connection, jobs: Sequence[NewJob]) -> list[VideoJob]:
    """
    Write *jobs* and their `created` events in one statement; those whose idempotency key is
    taken are left out. What they are estimated to cost is reserved with it.

    The answer is in the order of *jobs*.

    Raises:
        BudgetExceededError, PriceUnknownError: None was written.
    """
    async with money_errors():
        return await _insert(connection, jobs)


async def _insert(connection: Connection, jobs: Sequence[NewJob]) -> list[VideoJob]:
    rows = await connection.fetch(
        """
        WITH created AS (
            INSERT INTO video_jobs (
                id, provider, model, prompt, parameters, fingerprint, scene_id, user_id,
                idempotency_key, priority, due_at, max_attempts, deadline_s,
                estimated_cost_micros, webhook_url, metadata, traceparent, wish, sealed,
                reservations, payer, allow_unknown_price,
                targets, target_parameters, route, reroute_on, max_cost_micros, route_version
            )
            SELECT n.id, n.provider, n.model, n.prompt, n.parameters, n.fingerprint, n.scene_id,
                   n.user_id, n.idempotency_key, n.priority, coalesce(n.run_at, now()),
                   n.max_attempts, n.deadline_s, n.estimated_cost_micros, n.webhook_url, n.metadata,
                   n.traceparent, n.wish, n.sealed, 1,
                   CASE
                       WHEN n.user_id IS NOT NULL AND EXISTS (
                           SELECT FROM provider_keys AS key
                           WHERE key.user_id = n.user_id AND key.provider = n.provider
                             AND key.api = n.api AND key.removed_at IS NULL
                       ) THEN 'user'
                       ELSE 'server'
                   END,
                   n.allow_unknown_price,
                   n.targets, n.target_parameters, n.route, n.reroute_on, n.max_cost_micros,
                   n.route_version
            FROM unnest(
                $1::uuid[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::text[], $7::text[],
                $8::text[], $9::text[], $10::smallint[], $11::timestamptz[], $12::integer[],
                $13::integer[], $14::bigint[], $15::text[], $16::jsonb[], $17::text[],
                $18::jsonb[], $19::bytea[], $20::text[], $21::boolean[],
                $22::jsonb[], $23::jsonb[], $24::text[], $25::jsonb[], $26::bigint[], $27::text[]
            ) AS n (
                id, provider, model, prompt, parameters, fingerprint, scene_id,
                user_id, idempotency_key, priority, run_at, max_attempts,
                deadline_s, estimated_cost_micros, webhook_url, metadata, traceparent, wish,
                sealed, api, allow_unknown_price,
                targets, target_parameters, route, reroute_on, max_cost_micros, route_version
            )
            ON CONFLICT DO NOTHING
            RETURNING *
        ), event AS (
            INSERT INTO job_events (job_id, type, status, stage, attempt, progress)
            SELECT id, 'created', status, stage, attempt, progress FROM created
        )
        SELECT * FROM created ORDER BY id
        """,
        *zip(*(_values(job) for job in jobs), strict=True),
    )
    position = {job.id: number for number, job in enumerate(jobs)}
    return sorted((job_of(row) for row in rows), key=lambda job: position[job.id])


def _values(job: NewJob) -> tuple[object, ...]:
    return (
        job.id,
        job.provider,
        job.model,
        job.prompt,
        json_of(job.parameters),
        job.fingerprint,
        job.scene_id,
        job.user_id,
        job.idempotency_key,
        job.priority,
        job.run_at,
        job.max_attempts,
        job.deadline_s,
        job.estimated_cost_micros,
        job.webhook_url,
        json_of(job.metadata),
        job.traceparent,
        None if job.wish is None else json_of(job.wish),
        job.sealed,
        job.api,
        job.allow_unknown_price,
        orjson.dumps(job.targets).decode(),
        orjson.dumps([dict(each) for each in job.target_parameters]).decode(),
        job.route,
        orjson.dumps(job.reroute_on).decode(),
        job.max_cost_micros,
        job.route_version,
    )


async def traceparent(connection: Connection, job_id: UUID) -> str | None:
    """Where the trace of a job goes on; None if none has begun."""
    found: str | None = await connection.fetchval(
        "SELECT traceparent FROM video_jobs WHERE id = $1", job_id
    )
    return found


async def begin_trace(connection: Connection, job_id: UUID, traceparent: str | None) -> str | None:
    """Note where the trace of a job goes on, unless one has begun; where it does then."""
    found: str | None = await connection.fetchval(
        """
        UPDATE video_jobs SET traceparent = coalesce(traceparent, $2)
        WHERE id = $1
        RETURNING traceparent
        """,
        job_id,
        traceparent,
    )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """
    One transition that is to be written.

    Attributes:
        lease: What proves that we hold the job, for transitions that need it.
        worker_id: Who takes the job, for the claim; who acts, for the event.
        by: The person who wants it, for the event.
    """

    job_id: UUID
    change: Transition
    lease: Lease | None = None
    worker_id: UUID | None = None
    by: str | None = None

    @property
    def is_sociable(self) -> bool:
        """
        Whether it waits for nothing but its own row, so that it holds up nobody in its company: no
        count of others, no key, no budget.
        """
        change = self.change
        admits = change.reserves and change.event is not EventType.SUBMITTING
        return change.user_limit is None and change.needs_key is None and not admits


async def apply(
    connection: Connection,
    job_id: UUID,
    change: Transition,
    *,
    lease: Lease | None = None,
    worker_id: UUID | None = None,
    by: str | None = None,
) -> VideoJob:
    """
    Write *change*, its event and, at the end of a job, its webhook in one statement, if the guard
    holds, and return the job as it is then; as `Write` has it.

    Raises:
        LeaseLostError: The row has another holder, epoch, status, stage or attempt; nothing
            was written.
        BudgetExceededError, PriceUnknownError: It reserves money, and may not; nothing was written.
        UserLimitError: Nor was it because of other videos of the user.
    """
    return await apply_one(
        connection, Write(job_id=job_id, change=change, lease=lease, worker_id=worker_id, by=by)
    )


async def apply_one(connection: Connection, write: Write) -> VideoJob:
    """As `apply`."""
    try:
        async with money_errors():
            rows = await _within_limit(connection, write)
    except UniqueViolationError as error:
        raise OperationTakenError(
            f"job {write.job_id}: another attempt already follows this operation"
        ) from error
    if not rows:
        raise LeaseLostError(
            f"job {write.job_id} cannot be {write.change.event} now:"
            " it was changed by somebody else"
        )
    return job_of(rows[0])


async def apply_all(connection: Connection, writes: Sequence[Write]) -> dict[UUID, Record]:
    """
    Write what can be written of *writes* in one statement that waits for nobody's lock; the rows
    that it wrote, by the ids of their jobs. Whoever reads one that nobody can read, reads it alone.

    What is missing then has to be tried by `apply`, which says why; likewise everything if one of
    them raises, since then nothing was written.

    Args:
        writes: Of different jobs, each `is_sociable`.
    """
    return {row["id"]: row for row in await _apply(connection, writes, waits=False)}


async def _within_limit(connection: Connection, write: Write) -> list[Record]:
    limit = write.change.user_limit
    if limit is None:
        return await _apply(connection, [write], waits=True)
    async with connection.transaction():
        if not await has_room(connection, write.job_id, limit):
            raise UserLimitError(f"job {write.job_id} waits for another one of its user")
        return await _apply(connection, [write], waits=True)


async def _apply(connection: Connection, writes: Sequence[Write], *, waits: bool) -> list[Record]:
    return await connection.fetch(
        """
        WITH asked AS (
            -- By a SELECT of its own the plan does not depend on how many they are: it is made
            -- once, and making it takes longer than all the rest.
            SELECT c.* FROM unnest((SELECT $1::jsonb[])) AS given (write)
            CROSS JOIN LATERAL jsonb_to_record(given.write) AS c (
                job_id uuid, event text, statuses text[], stages text[], holder text,
                holder_id uuid, epoch integer, attempt integer, settled_attempt integer,
                only_due boolean, unless_cancelled boolean, needs_key uuid, status text, stage text,
                hold text, due_in_s double precision, reserves boolean, changes jsonb, detail jsonb,
                actor_id uuid, by text, delivery_id uuid, waits boolean
            )
            -- All have one; the planner thinks of a single row by it, so that it looks for rows of
            -- jobs by their ids also where a table that is still small could be read as a whole.
            WHERE given.write ? 'job_id'
        ), changed AS (
            UPDATE video_jobs AS job SET
                status = coalesce(c.status, job.status),
                stage = coalesce(c.stage, job.stage),
                worker_id = CASE c.hold
                    WHEN 'take' THEN c.actor_id
                    WHEN 'keep' THEN job.worker_id
                END,
                opener_id = CASE c.hold WHEN 'take' THEN c.actor_id ELSE job.opener_id END,
                router_id = CASE c.hold WHEN 'take' THEN c.actor_id ELSE job.router_id END,
                lease_epoch = job.lease_epoch + (c.hold = 'take')::integer,
                due_at = CASE
                    WHEN (c.hold = 'free' OR (c.hold = 'keep' AND job.worker_id IS NULL))
                         AND coalesce(c.status, job.status) IN ('pending', 'processing')
                    THEN now() + make_interval(secs => c.due_in_s)
                END,
                started_at = CASE c.event
                    WHEN 'claimed' THEN coalesce(job.started_at, now())
                    ELSE job.started_at
                END,
                intent_at = CASE c.event WHEN 'submitting' THEN now() ELSE job.intent_at END,
                submitted_at = CASE c.event WHEN 'submitted' THEN now() ELSE job.submitted_at END,
                generated_at = CASE c.event WHEN 'generated' THEN now() ELSE job.generated_at END,
                completed_at = CASE
                    WHEN coalesce(c.status, job.status) IN ('completed', 'failed', 'cancelled')
                    THEN coalesce(job.completed_at, now())
                END,
                cancel_requested_at = CASE c.event
                    WHEN 'cancel_requested' THEN coalesce(job.cancel_requested_at, now())
                    WHEN 'retried' THEN NULL
                    ELSE job.cancel_requested_at
                END,
                -- The deadline covers all stages and starts with the first of them, or with the
                -- first trouble before it. Waiting for a turn is no stage and puts it off: until
                -- the job is due, and then until somebody takes it. A retry by hand of a later
                -- stage gets a fresh one at its claim. A job that waits for a key to open does not
                -- get older by it either.
                deadline_at = CASE
                    WHEN c.event = 'retried' THEN NULL
                    WHEN c.event IN ('postponed', 'parked')
                    THEN job.deadline_at + make_interval(secs => c.due_in_s)
                    WHEN c.event = 'claimed' AND job.stage = 'queued'
                    THEN job.deadline_at + greatest(now() - job.due_at, interval '0')
                    WHEN c.event IN ('submitting', 'claimed')
                         OR (c.event IN ('errored', 'released') AND job.stage = 'queued')
                    THEN coalesce(job.deadline_at, now() + make_interval(secs => job.deadline_s))
                    ELSE job.deadline_at
                END,
                parked_at = CASE c.event WHEN 'parked' THEN now() END,
                reservations = job.reservations + c.reserves::integer,
                parameters = CASE WHEN c.changes ? 'target'
                    THEN job.target_parameters -> (c.changes ->> 'target')::integer
                    ELSE job.parameters
                END,
                -- As at the enqueue: whether the user has a key for whom it goes to.
                payer = CASE
                    WHEN NOT c.changes ? 'target' THEN job.payer
                    WHEN job.user_id IS NOT NULL AND EXISTS (
                        SELECT FROM provider_keys AS key
                        WHERE key.user_id = job.user_id AND key.removed_at IS NULL
                          AND key.provider
                              = job.targets -> (c.changes ->> 'target')::integer ->> 'provider'
                          AND key.api
                              = job.targets -> (c.changes ->> 'target')::integer ->> 'api'
                    ) THEN 'user'
                    ELSE 'server'
                END,
                (
                    attempt, max_attempts, failures, operation, progress, error_code, error_message,
                    storage_key, size_bytes, sha256, content_type, duration_s, width, height,
                    thumbnail_key, spritesheet_key, actual_cost_micros, slot_at, result_expires_at,
                    cancel_discards, credential_id, settled_attempt, unknown_attempts,
                    lost_cost_micros, discards, discarding, capped, target, provider, model,
                    estimated_cost_micros
                ) = (
                    SELECT next.attempt, next.max_attempts, next.failures, next.operation,
                           next.progress, next.error_code, next.error_message, next.storage_key,
                           next.size_bytes, next.sha256, next.content_type, next.duration_s,
                           next.width, next.height, next.thumbnail_key, next.spritesheet_key,
                           next.actual_cost_micros, next.slot_at, next.result_expires_at,
                           next.cancel_discards, next.credential_id, next.settled_attempt,
                           next.unknown_attempts, next.lost_cost_micros, next.discards,
                           next.discarding, next.capped, next.target, next.provider, next.model,
                           next.estimated_cost_micros
                    -- Who is in force by a new target stands in the row, not in the change.
                    FROM jsonb_populate_record(job, c.changes || coalesce(
                        job.targets -> (c.changes ->> 'target')::integer, '{}'
                    )) AS next
                )
            FROM asked AS c
            -- As an array it can be looked up, and not be hashed: what is the best plan for a table
            -- that is nearly empty would be kept while a million come.
            WHERE job.id = ANY (ARRAY[c.job_id])
              AND job.status = ANY(c.statuses)
              AND job.stage = ANY(c.stages)
              AND CASE c.holder
                  WHEN 'lease' THEN job.worker_id = c.holder_id AND job.lease_epoch = c.epoch
                  WHEN 'nobody' THEN job.worker_id IS NULL
                  ELSE true
              END
              AND (c.attempt IS NULL OR job.attempt = c.attempt)
              AND (
                  c.settled_attempt IS NULL OR coalesce(job.settled_attempt, 0) = c.settled_attempt
              )
              -- Its prompt is gone. Beside what is written, as all of this is: a guard on the row
              -- alone could be a reason to read the table.
              AND (c.event IS NULL OR job.archived_at IS NULL)
              AND (NOT c.unless_cancelled OR job.cancel_requested_at IS NULL)
              -- Locked: a removal that comes now waits for us, and then sees that we need the key;
              -- one that came before is seen by us.
              AND (c.needs_key IS NULL OR EXISTS (
                  SELECT FROM provider_keys
                  WHERE provider_keys.id = c.needs_key AND provider_keys.removed_at IS NULL
                  FOR SHARE
              ))
              -- Redis and the database do not share a clock: a dispatch may come a little early.
              AND (NOT c.only_due OR job.due_at <= now() + interval '1 second')
              AND (c.event <> 'claimed' OR job.stage <> 'queued' OR NOT EXISTS (
                  SELECT FROM pauses WHERE pauses.provider IN (job.provider, '*')
              ))
              -- In company neither row nor budget is waited for. An intent reserves money, and
              -- locks a budget, only if the user was to pay and does not.
              AND (c.waits OR (
                  (NOT c.reserves OR coalesce(job.payer, 'server') = 'server')
                  AND EXISTS (
                      SELECT FROM video_jobs AS own
                      WHERE own.id = job.id FOR NO KEY UPDATE SKIP LOCKED
                  )
              ))
            RETURNING job.*
        ), event AS (
            INSERT INTO job_events (
                job_id, type, status, stage, attempt, progress, worker_id, detail, by
            )
            SELECT changed.id, c.event, changed.status, changed.stage, changed.attempt,
                   changed.progress, c.actor_id, c.detail, c.by
            FROM changed JOIN asked AS c ON c.job_id = changed.id
            RETURNING job_id, seq
        ), delivery AS (
            INSERT INTO webhook_deliveries (id, job_id, type, event_seq, url, snapshot)
            SELECT c.delivery_id, changed.id, 'video.' || changed.status, event.seq,
                   changed.webhook_url,
                   to_jsonb(changed) - ARRAY[
                       'prompt', 'parameters', 'fingerprint', 'webhook_url', 'wish', 'sealed',
                       'opener_id', 'target_parameters', 'router_id'
                   ]
            FROM changed
            JOIN asked AS c ON c.job_id = changed.id
            JOIN event ON event.job_id = changed.id
            WHERE c.status IN ('completed', 'failed', 'cancelled')
              AND changed.webhook_url IS NOT NULL
        )
        SELECT * FROM changed
        """,
        [_text_of(write, waits=waits) for write in writes],
    )


def _text_of(write: Write, *, waits: bool) -> str:
    """*write* as the statement of `_apply` reads it."""
    change, lease = write.change, write.lease
    return orjson.dumps(
        {
            "job_id": write.job_id,
            "event": change.event,
            "statuses": change.statuses,
            "stages": change.stages,
            "holder": change.holder,
            "holder_id": lease.worker_id if lease else None,
            "epoch": lease.epoch if lease else None,
            "attempt": change.attempt,
            "settled_attempt": change.settled_attempt,
            "only_due": change.only_due,
            "unless_cancelled": change.unless_cancelled,
            "needs_key": change.needs_key,
            "status": change.status,
            "stage": change.stage,
            "hold": change.hold,
            "due_in_s": change.due_in_s,
            "reserves": change.reserves,
            "changes": dict(change.changes),
            "detail": dict(change.detail),
            "actor_id": write.worker_id or (lease.worker_id if lease else None),
            "by": write.by,
            "delivery_id": uuid7(),
            "waits": waits,
        },
        default=_plain,
    ).decode()


def _plain(value: object) -> object:
    if isinstance(value, UUID):  # asyncpg has its own
        return str(value)
    assert isinstance(value, frozenset)
    return list(value)


async def get(connection: Connection, job_id: UUID) -> VideoJob | None:
    """The job with this id."""
    row = await connection.fetchrow("SELECT * FROM video_jobs WHERE id = $1", job_id)
    return None if row is None else job_of(row)


async def recent(
    connection: Connection,
    *,
    status: JobStatus | None = None,
    provider: str | None = None,
    model: str | None = None,
    code: str | None = None,
    user_id: str | None = None,
    scene_id: str | None = None,
    before: UUID | None = None,
    limit: int = 50,
) -> list[VideoJob]:
    """
    At most *limit* jobs, newest first, older than the job *before*; archived ones are not listed.
    """
    async with connection.transaction():
        # A plan for all filters at once reads the whole table for what is rare.
        await connection.execute("SET LOCAL plan_cache_mode = force_custom_plan")
        rows = await connection.fetch(
            """
            SELECT * FROM video_jobs
            WHERE ($1::text IS NULL OR status = $1)
              AND ($2::text IS NULL OR provider = $2)
              AND ($3::text IS NULL OR user_id = $3)
              AND ($4::text IS NULL OR scene_id = $4)
              AND ($5::uuid IS NULL OR id < $5)
              AND ($7::text IS NULL OR model = $7)
              AND ($8::text IS NULL OR error_code = $8)
              AND archived_at IS NULL
            ORDER BY id DESC
            LIMIT $6
            """,
            status,
            provider,
            user_id,
            scene_id,
            before,
            limit,
            model,
            code,
        )
    return [job_of(row) for row in rows]


async def failed(
    connection: Connection,
    *,
    provider: str | None,
    code: str | None,
    user_id: str | None,
    scene_id: str | None,
    limit: int,
) -> list[VideoJob]:
    """At most *limit* failed jobs that can still be retried, the oldest failure first."""
    rows = await connection.fetch(
        """
        SELECT * FROM video_jobs
        WHERE status = 'failed' AND archived_at IS NULL AND stage = ANY($6::text[])
          AND ($1::text IS NULL OR provider = $1)
          AND ($2::text IS NULL OR error_code = $2)
          AND ($3::text IS NULL OR user_id = $3)
          AND ($4::text IS NULL OR scene_id = $4)
        ORDER BY completed_at, id
        LIMIT $5
        """,
        provider,
        code,
        user_id,
        scene_id,
        limit,
        list(Stage),
    )
    return [job_of(row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many jobs are where, counted at one moment."""

    waiting: int
    active: int
    completed: int
    failed: int
    delayed: int
    cancelled: int

    @property
    def total(self) -> int:
        """All jobs there are."""
        return (
            self.waiting
            + self.active
            + self.completed
            + self.failed
            + self.delayed
            + self.cancelled
        )


async def counts(connection: Connection) -> Counts:
    """Pending jobs that are due are waiting, those for later delayed, processing ones active."""
    row = await connection.fetchrow(
        """
        -- Each by an index of its own: over all of them at once PostgreSQL reads the whole table,
        -- a second for a million rows.
        SELECT
            (SELECT count(*) FROM video_jobs WHERE status = 'pending' AND due_at <= now())
                AS waiting,
            (SELECT count(*) FROM video_jobs WHERE status = 'pending' AND due_at > now())
                AS delayed,
            (SELECT count(*) FROM video_jobs WHERE status = 'processing') AS active,
            (SELECT count(*) FROM video_jobs WHERE status = 'completed') AS completed,
            kept.failed, kept.cancelled
        FROM (
            -- As `video_jobs_kept` has it: archived ones stay for ever, and are not looked at.
            SELECT count(*) FILTER (WHERE status = 'failed') AS failed,
                   count(*) FILTER (WHERE status = 'cancelled') AS cancelled
            FROM video_jobs WHERE status IN ('failed', 'cancelled') AND archived_at IS NULL
        ) AS kept
        """
    )
    assert row is not None  # an aggregate always answers
    return Counts(**row)


async def parked(connection: Connection) -> int:
    """How many jobs wait because their provider key or prompt does not open."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM video_jobs WHERE parked_at IS NOT NULL AND completed_at IS NULL"
    )
    return count


async def oldest_due_s(connection: Connection) -> float:
    """Seconds since the longest waiting job became due; 0 when none waits."""
    age = await connection.fetchval(
        "SELECT extract(epoch FROM now() - min(due_at)) FROM video_jobs"
    )
    return max(float(age or 0), 0.0)


async def write_progress(
    connection: Connection, worker_id: UUID, percents: Mapping[UUID, int]
) -> None:
    """Write the progress of many jobs in one statement; those we no longer hold are left alone."""
    await connection.execute(
        """
        UPDATE video_jobs AS job SET progress = seen.percent
        FROM unnest($2::uuid[], $3::smallint[]) AS seen (id, percent)
        WHERE job.id = seen.id AND job.worker_id = $1 AND job.stage = 'generating'
          AND job.progress < seen.percent
        """,
        worker_id,
        list(percents),
        list(percents.values()),
    )


async def orphaned(
    connection: Connection, ttl_s: float, limit: int, after: UUID | None = None
) -> list[VideoJob]:
    """
    The next *limit* jobs behind *after* whose worker gave no heartbeat for *ttl_s* seconds, or is
    not there at all.
    """
    rows = await connection.fetch(
        """
        SELECT job.* FROM video_jobs AS job
        WHERE job.worker_id IS NOT NULL AND ($3::uuid IS NULL OR job.id > $3)
          AND job.status = ANY($4::text[]) AND job.stage = ANY($5::text[])
          AND NOT EXISTS (
              SELECT FROM workers
              WHERE workers.id = job.worker_id
                AND workers.heartbeat_at > now() - make_interval(secs => $1)
          )
        ORDER BY job.id
        LIMIT $2
        """,
        ttl_s,
        limit,
        after,
        list(ACTIVE),
        list(Stage),
    )
    return [job_of(row) for row in rows]


async def held_by(
    connection: Connection, worker_id: UUID, *, but: Sequence[UUID] = ()
) -> list[VideoJob]:
    """Every job that *worker_id* holds by the books, *but* those of which it knows."""
    rows = await connection.fetch(
        """
        SELECT * FROM video_jobs
        WHERE worker_id = $1 AND status = ANY($2::text[]) AND stage = ANY($3::text[])
          AND id <> ALL ($4::uuid[])
        """,
        worker_id,
        list(ACTIVE),
        list(Stage),
        but,
    )
    return [job_of(row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A state of a newer release, and how many jobs are in it that somebody should work on."""

    status: str
    stage: str
    jobs: int


async def unknown(connection: Connection) -> list[Unknown]:
    """States that this release does not know and leaves alone."""
    rows = await connection.fetch(
        """
        SELECT status, stage, count(*) AS jobs FROM video_jobs
        WHERE (due_at IS NOT NULL OR worker_id IS NOT NULL)
          AND NOT (status = ANY($1::text[]) AND stage = ANY($2::text[]))
        GROUP BY status, stage
        """,
        list(ACTIVE),
        list(Stage),
    )
    return [Unknown(**row) for row in rows]


async def due(
    connection: Connection, *, overdue_s: float, after: DueJob | None, limit: int
) -> list[DueJob]:
    """
    The next *limit* jobs that have been due for *overdue_s* seconds, longest first, behind
    *after*; without those that a pause holds back.
    """
    rows = await connection.fetch(
        """
        SELECT id, lease_epoch, priority, due_at, user_id, parameters -> 'seconds' AS seconds,
               stage <> 'queued' OR slot_at IS NOT NULL AS ahead
        FROM video_jobs AS job
        WHERE due_at <= now() - make_interval(secs => $1)
          AND ($2::timestamptz IS NULL OR (due_at, id) > ($2, $3::uuid))
          AND status = ANY($5::text[]) AND stage = ANY($6::text[])
          AND (stage <> 'queued' OR NOT EXISTS (
              SELECT FROM pauses WHERE pauses.provider IN (job.provider, '*')
          ))
        ORDER BY due_at, id
        LIMIT $4
        """,
        overdue_s,
        after.due_at if after else None,
        after.id if after else None,
        limit,
        list(ACTIVE),
        list(Stage),
    )
    return [due_job_of(row) for row in rows]


async def due_now(connection: Connection, job_ids: Sequence[UUID]) -> list[DueJob]:
    """Those of *job_ids* that nobody holds and that are due."""
    rows = await connection.fetch(
        """
        SELECT id, lease_epoch, priority, due_at, user_id, parameters -> 'seconds' AS seconds,
               stage <> 'queued' OR slot_at IS NOT NULL AS ahead
        FROM video_jobs
        WHERE id = ANY($1::uuid[]) AND due_at <= now()
          AND status = ANY($2::text[]) AND stage = ANY($3::text[])
        """,
        job_ids,
        list(ACTIVE),
        list(Stage),
    )
    return [due_job_of(row) for row in rows]


async def raise_epoch(connection: Connection, job_ids: Sequence[UUID]) -> list[DueJob]:
    """
    Give unheld jobs a new epoch, and with it the name of a new dispatch.

    A worker that died between taking a dispatch and the claim leaves one behind that nobody can
    take.
    """
    rows = await connection.fetch(
        """
        UPDATE video_jobs SET lease_epoch = lease_epoch + 1
        WHERE id = ANY($1::uuid[]) AND due_at IS NOT NULL
        RETURNING id, lease_epoch, priority, due_at, user_id, parameters -> 'seconds' AS seconds,
                  stage <> 'queued' OR slot_at IS NOT NULL AS ahead
        """,
        job_ids,
    )
    return [due_job_of(row) for row in rows]


async def epochs(connection: Connection, job_ids: Sequence[UUID]) -> dict[UUID, int | None]:
    """
    The epoch that a dispatch must be of for each of *job_ids*; None for those that wait for none.
    """
    rows = await connection.fetch(
        """
        SELECT id, CASE WHEN due_at IS NOT NULL THEN lease_epoch END AS epoch
        FROM video_jobs WHERE id = ANY($1::uuid[])
        """,
        job_ids,
    )
    return {row["id"]: row["epoch"] for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How many jobs of a user and model were told to come back for their turn to be submitted."""

    provider: str
    model: str
    user_id: str | None
    jobs: int


async def told(connection: Connection) -> list[Told]:
    """The lines that jobs wait in; without those that a pause holds back."""
    rows = await connection.fetch(
        """
        SELECT provider, model, user_id, count(*) AS jobs FROM video_jobs AS job
        -- What was never claimed is for later by its own wish.
        WHERE due_at > now() AND status = 'pending' AND stage = 'queued'
          AND lease_epoch > 0 AND slot_at IS NULL AND failures = 0 AND NOT capped
          AND parked_at IS NULL
          AND NOT EXISTS (SELECT FROM pauses WHERE pauses.provider IN (job.provider, '*'))
        GROUP BY provider, model, user_id
        """
    )
    return [Told(**row) for row in rows]


async def recall(
    connection: Connection,
    provider: str,
    models: Sequence[str],
    *,
    limit: int,
    head_start_s: float,
) -> list[DueJob]:
    """
    Make jobs due now that were told to come back: so many that with those that are due already
    there are *limit*.

    Users take turns. Of one user's who asked first is first, and each step of priority is worth
    *head_start_s* seconds.
    """
    rows = await connection.fetch(
        """
        WITH due AS (
            SELECT FROM video_jobs
            WHERE due_at <= now() AND status = 'pending' AND stage = 'queued'
              AND provider = $1 AND model = ANY($2::text[])
            LIMIT $3
        ), line AS MATERIALIZED (
            SELECT id, row_number() OVER (
                PARTITION BY user_id
                ORDER BY started_at - priority * make_interval(secs => $4), id
            ) AS place
            FROM video_jobs
            -- Without a failure: a back-off is none of our business.
            WHERE due_at > now() AND status = 'pending' AND stage = 'queued'
              AND lease_epoch > 0 AND slot_at IS NULL AND failures = 0 AND NOT capped
              AND parked_at IS NULL
              AND provider = $1 AND model = ANY($2::text[])
        ), first AS MATERIALIZED (
            SELECT id FROM video_jobs JOIN line USING (id)
            WHERE due_at > now() AND status = 'pending' -- still, once they are locked
            ORDER BY place, started_at - priority * make_interval(secs => $4), id
            LIMIT $3 - (SELECT count(*) FROM due)
            FOR UPDATE OF video_jobs SKIP LOCKED
        )
        UPDATE video_jobs AS job SET due_at = now() FROM first WHERE job.id = first.id
        RETURNING job.id, job.lease_epoch, job.priority, job.due_at, job.user_id,
                  job.parameters -> 'seconds' AS seconds,
                  job.stage <> 'queued' OR job.slot_at IS NOT NULL AS ahead
        """,
        provider,
        models,
        limit,
        head_start_s,
    )
    return [due_job_of(row) for row in rows]


async def archive_ended(connection: Connection, keep: timedelta, limit: int) -> int:
    """
    Keep only a summary of failed and cancelled jobs that ended longer than *keep* ago; how many
    it were.

    Prompt, parameters, metadata, events, images and webhooks go; reason, cost, ids and times stay,
    and webhooks that are still on their way: their schedule may be longer than jobs are kept. So do
    the receipts: an operation belongs to its job for good, or one that looks for its own among
    equal ones could adopt it.
    """
    archived: int = await connection.fetchval(
        """
        -- Materialized: as a subquery the plan may run it again, and past its limit.
        WITH old AS MATERIALIZED (
            SELECT id FROM video_jobs
            WHERE status IN ('failed', 'cancelled') AND archived_at IS NULL
              AND completed_at < now() - $1::interval
            LIMIT $2
            -- One that is being retried by hand right now is no longer ours to archive.
            FOR UPDATE SKIP LOCKED
        ), archived AS (
            UPDATE video_jobs AS job
            SET archived_at = now(), prompt = '', parameters = '{}', metadata = '{}',
                webhook_url = NULL, sealed = NULL, target_parameters = '[]'
            FROM old WHERE job.id = old.id
            RETURNING job.id
        ), events AS (
            DELETE FROM job_events USING archived
            WHERE job_events.job_id = archived.id AND job_events.type <> 'submitted'
        ), inputs AS (
            DELETE FROM job_inputs USING archived WHERE job_inputs.job_id = archived.id
        ), deliveries AS (
            DELETE FROM webhook_deliveries AS delivery USING archived
            WHERE delivery.job_id = archived.id AND delivery.state <> 'pending'
        )
        SELECT count(*) FROM archived
        """,
        keep,
        limit,
    )
    return archived


async def discarding(connection: Connection, settled_s: float, limit: int) -> list[VideoJob]:
    """
    Jobs at rest for *settled_s* seconds whose discarded videos may still be in the bucket, the
    longest first.
    """
    rows = await connection.fetch(
        """
        SELECT * FROM video_jobs
        WHERE discarding AND completed_at < now() - make_interval(secs => $1)
        ORDER BY completed_at LIMIT $2
        """,
        settled_s,
        limit,
    )
    return [job_of(row) for row in rows]


async def discarded(connection: Connection, job_id: UUID, discards: int) -> None:
    """Note that nothing is left of the first *discards* videos that the job threw away."""
    await connection.execute(
        "UPDATE video_jobs SET discarding = false WHERE id = $1 AND discards = $2",
        job_id,
        discards,
    )
