-- Money over all attempts of a job, who did what by hand, what an idempotency key stood for, and
-- videos that nobody wants any more. The previous release neither writes nor reads any of it.

-- `actual_cost_micros` is the total over all attempts, as far as it is known; NULL as long as
-- nothing is, and at the end when only the provider knows.
ALTER TABLE video_jobs
    -- The latest attempt of which it is known what it cost; its price is in the total.
    ADD COLUMN settled_attempt integer,
    -- Earlier attempts of which only the provider knows; none of them is in the total.
    ADD COLUMN unknown_attempts integer NOT NULL DEFAULT 0,
    -- The part of the total that was given up for a new video.
    ADD COLUMN lost_cost_micros bigint NOT NULL DEFAULT 0,
    -- How often a stored video was thrown away: part of the next one's key.
    ADD COLUMN discards integer NOT NULL DEFAULT 0,
    -- Something of the last one may still be in the bucket.
    ADD COLUMN discarding boolean NOT NULL DEFAULT false,
    -- What was asked for beside the video, a hash for each field; NULL without a key.
    ADD COLUMN wish jsonb;

-- What could not be stopped was counted as paid.
UPDATE video_jobs SET settled_attempt = attempt
WHERE status = 'cancelled' AND actual_cost_micros > 0;

CREATE INDEX video_jobs_discarding ON video_jobs (completed_at) WHERE discarding;

-- The person who did it, NULL for workers and services.
ALTER TABLE job_events ADD COLUMN by text;
