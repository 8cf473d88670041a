-- Videos that may be used again for the same wish of the same user. The previous release does not.
CREATE INDEX video_jobs_made ON video_jobs (fingerprint, completed_at)
    WHERE status = 'completed' AND archived_at IS NULL;
