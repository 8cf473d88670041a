-- Lists by what is rare, and the figures of a month, over a million rows. Each index takes about a
-- second to build; writes wait for it, reads do not.

CREATE INDEX video_jobs_by_provider ON video_jobs (provider, id DESC);
CREATE INDEX video_jobs_by_model ON video_jobs (model, id DESC);
CREATE INDEX video_jobs_by_code ON video_jobs (error_code, id DESC) WHERE error_code IS NOT NULL;

-- All that charts and spend of the day want to know is in the index; the narrower one is idle then.
CREATE INDEX video_jobs_ended_figures ON video_jobs (completed_at DESC)
    INCLUDE (status, created_at, actual_cost_micros) WHERE completed_at IS NOT NULL;
DROP INDEX video_jobs_ended;
