-- What is to be told to the webhook of a job, and how that goes: written with the transition, sent
-- by whichever worker sees it first. The previous release neither writes nor reads it.

CREATE TABLE webhook_deliveries (
    -- The webhook-id header, the same for every try; UUIDv7, so newer ones are greater.
    id           uuid PRIMARY KEY,
    job_id       uuid NOT NULL REFERENCES video_jobs (id) ON DELETE CASCADE,
    type         text NOT NULL
        CHECK (type IN ('video.completed', 'video.failed', 'video.cancelled')),
    event_seq    bigint NOT NULL UNIQUE,
    url          text NOT NULL,
    -- Who must not be called too often at once.
    host         text NOT NULL GENERATED ALWAYS AS (
        coalesce(lower(substring(url FROM '^[^:]*://([^/?#]*)')), '')
    ) STORED,
    -- The job as of the transition, without prompt and parameters.
    snapshot     jsonb NOT NULL,
    state        text NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'delivered', 'failed', 'gone')),
    -- Counted when a worker takes it, so it also tells a late result from the latest one.
    attempts     integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_at      timestamptz DEFAULT now(),
    last_status  integer,
    last_error   text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz,

    CONSTRAINT pending_is_due CHECK ((next_at IS NOT NULL) = (state = 'pending')),
    CONSTRAINT delivered_has_a_time CHECK ((delivered_at IS NOT NULL) = (state = 'delivered')),
    CONSTRAINT given_up_has_a_reason CHECK (
        state NOT IN ('failed', 'gone') OR last_error IS NOT NULL
    )
);

CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_at) WHERE state = 'pending';
-- For the claim alone, which asks for next_at; whoever counts takes the narrower one.
CREATE INDEX webhook_deliveries_by_host ON webhook_deliveries (host, next_at)
    WHERE state = 'pending' AND next_at IS NOT NULL;
CREATE INDEX webhook_deliveries_by_job ON webhook_deliveries (job_id, id DESC);
CREATE INDEX webhook_deliveries_by_state ON webhook_deliveries (state, id DESC);
