-- Who holds submits back, who did what by hand, and how long videos take.

-- No new job of a paused provider is claimed; '*' pauses all of them.
CREATE TABLE pauses (
    provider  text PRIMARY KEY,
    by        text NOT NULL,
    reason    text NOT NULL DEFAULT '',
    paused_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE audit (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    who     text NOT NULL,
    role    text NOT NULL,
    address text NOT NULL,
    action  text NOT NULL,
    target  text NOT NULL DEFAULT '',
    detail  jsonb NOT NULL DEFAULT '{}'
);

-- Learnt from the newest videos of each kind; seconds.
CREATE TABLE durations (
    provider      text NOT NULL,
    model         text NOT NULL,
    seconds       integer NOT NULL,
    size          text NOT NULL,
    samples       integer NOT NULL CHECK (samples > 0),
    generated_p10 double precision NOT NULL,
    generated_p50 double precision NOT NULL,
    generated_p90 double precision NOT NULL,
    stored_p50    double precision NOT NULL,
    stored_p90    double precision NOT NULL,
    learnt_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, model, seconds, size)
);

-- The newest ends first: charts, spend of the day, and what there is to learn.
CREATE INDEX video_jobs_ended ON video_jobs (completed_at DESC) WHERE completed_at IS NOT NULL;
