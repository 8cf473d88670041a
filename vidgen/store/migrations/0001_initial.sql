-- The truth of vidgen. Stays inside PostgreSQL 14, needs no extension.

CREATE TABLE video_jobs (
    id                    uuid PRIMARY KEY,
    status                text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    stage                 text NOT NULL DEFAULT 'queued'
        CHECK (stage IN ('queued', 'submitting', 'generating', 'transferring')),
    provider              text NOT NULL,
    model                 text NOT NULL,
    prompt                text NOT NULL,
    parameters            jsonb NOT NULL DEFAULT '{}',
    fingerprint           text NOT NULL,
    scene_id              text,
    user_id               text,
    idempotency_key       text,
    priority              smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 9),
    due_at                timestamptz DEFAULT now(),
    attempt               integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    max_attempts          integer NOT NULL CHECK (max_attempts >= 1),
    failures              integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    operation             jsonb,
    progress              smallint NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 100),
    error_code            text,
    error_message         text,
    storage_key           text,
    size_bytes            bigint CHECK (size_bytes > 0),
    sha256                text CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    content_type          text,
    duration_s            double precision,
    width                 integer,
    height                integer,
    thumbnail_key         text,
    spritesheet_key       text,
    estimated_cost_micros bigint CHECK (estimated_cost_micros >= 0),
    actual_cost_micros    bigint CHECK (actual_cost_micros >= 0),
    worker_id             uuid,
    lease_epoch           bigint NOT NULL DEFAULT 0,
    created_at            timestamptz NOT NULL DEFAULT now(),
    started_at            timestamptz,
    intent_at             timestamptz,
    submitted_at          timestamptz,
    generated_at          timestamptz,
    completed_at          timestamptz,
    deadline_s            integer NOT NULL CHECK (deadline_s > 0),
    deadline_at           timestamptz,
    slot_at               timestamptz,
    result_expires_at     timestamptz,
    cancel_requested_at   timestamptz,
    cancel_discards       boolean NOT NULL DEFAULT false,
    archived_at           timestamptz,
    webhook_url           text,
    metadata              jsonb NOT NULL DEFAULT '{}',

    CONSTRAINT pending_is_queued CHECK (status <> 'pending' OR (stage = 'queued' AND worker_id IS NULL)),
    CONSTRAINT only_processing_is_leased CHECK (worker_id IS NULL OR status = 'processing'),
    -- Whoever is neither final nor held is due at some time: the sweep can always find it.
    CONSTRAINT unheld_is_due CHECK (
        (due_at IS NOT NULL) = (worker_id IS NULL AND status IN ('pending', 'processing'))
    ),
    CONSTRAINT final_has_an_end CHECK (
        (completed_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled'))
    ),
    CONSTRAINT intent_counts_an_attempt CHECK (
        stage = 'queued' OR (attempt >= 1 AND intent_at IS NOT NULL)
    ),
    CONSTRAINT generating_has_an_operation CHECK (
        stage NOT IN ('generating', 'transferring') OR (operation IS NOT NULL AND submitted_at IS NOT NULL)
    ),
    CONSTRAINT transferring_was_generated CHECK (stage <> 'transferring' OR generated_at IS NOT NULL),
    CONSTRAINT completed_has_a_video CHECK (
        status <> 'completed'
        OR (stage = 'transferring' AND storage_key IS NOT NULL AND sha256 IS NOT NULL
            AND size_bytes IS NOT NULL AND progress = 100)
    ),
    CONSTRAINT failed_has_a_reason CHECK (
        status <> 'failed' OR (error_code IS NOT NULL AND error_message IS NOT NULL)
    )
);

-- Claim and sweep: what nobody holds and somebody should.
CREATE INDEX video_jobs_due ON video_jobs (due_at) WHERE due_at IS NOT NULL;
-- Heartbeat and sweep: what each worker holds.
CREATE INDEX video_jobs_held ON video_jobs (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX video_jobs_cancels ON video_jobs (worker_id)
    WHERE worker_id IS NOT NULL AND cancel_requested_at IS NOT NULL;
-- Lists, newest first (ids are UUIDv7).
CREATE INDEX video_jobs_by_status ON video_jobs (status, id DESC);
CREATE INDEX video_jobs_by_user ON video_jobs (user_id, id DESC) WHERE user_id IS NOT NULL;
CREATE INDEX video_jobs_by_scene ON video_jobs (scene_id, id DESC) WHERE scene_id IS NOT NULL;
-- Retention.
CREATE INDEX video_jobs_kept ON video_jobs (completed_at)
    WHERE status IN ('failed', 'cancelled') AND archived_at IS NULL;
-- One video per key and user.
CREATE UNIQUE INDEX video_jobs_idempotency ON video_jobs ((coalesce(user_id, '')), idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE job_inputs (
    job_id       uuid NOT NULL REFERENCES video_jobs (id) ON DELETE CASCADE,
    position     smallint NOT NULL,
    content_type text NOT NULL,
    data         bytea NOT NULL,
    PRIMARY KEY (job_id, position)
);

CREATE TABLE job_events (
    seq       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id    uuid NOT NULL REFERENCES video_jobs (id) ON DELETE CASCADE,
    type      text NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    status    text NOT NULL,
    stage     text NOT NULL,
    attempt   integer NOT NULL,
    progress  smallint NOT NULL,
    worker_id uuid,
    detail    jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX job_events_by_job ON job_events (job_id, seq);
-- One operation belongs to one attempt of one job, whoever found it first.
CREATE UNIQUE INDEX job_events_operation ON job_events ((detail ->> 'endpoint'), (detail ->> 'operation_id'))
    WHERE type = 'submitted';

CREATE TABLE workers (
    id           uuid PRIMARY KEY,
    hostname     text NOT NULL,
    pid          integer NOT NULL,
    version      text NOT NULL,
    concurrency  integer NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);

-- When each periodic duty last ran, so that a late or doubled cron tick changes nothing.
CREATE TABLE upkeep (
    duty   text PRIMARY KEY,
    ran_at timestamptz NOT NULL
);
