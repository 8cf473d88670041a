-- How many videos a user may have under way at once. The previous release neither writes nor reads
-- it: its workers submit what they claim, whoever's it is.

-- It waits for another one of its user to end, not for a turn.
ALTER TABLE video_jobs ADD COLUMN capped boolean NOT NULL DEFAULT false;

-- Whoever waits for one, and who of each user is the last in line.
CREATE INDEX video_jobs_capped ON video_jobs (user_id, due_at)
    WHERE capped AND status = 'pending';
-- What each user has under way.
CREATE INDEX video_jobs_going ON video_jobs (user_id)
    WHERE user_id IS NOT NULL AND status = 'processing';
