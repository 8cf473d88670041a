-- Videos that are handed out again: to whom, under which key, and only as long as they are there. The
-- previous release neither writes nor reads any of it; what it inserts under a key of a video that was
-- handed out again is left out, as where the key has a job of its own.

ALTER TABLE video_jobs
    -- Since when the files of a completed job are not in the bucket, or are being deleted there.
    ADD COLUMN gone_at timestamptz,
    -- What its route said when the job was accepted, as a hash; NULL without a route.
    ADD COLUMN route_version text;

CREATE TABLE reuses (
    seq             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT now(),
    -- Whose video it is.
    job_id          uuid NOT NULL REFERENCES video_jobs (id) ON DELETE CASCADE,
    user_id         text,
    -- Of the request that it was the answer to, with what else was asked for: a hash for each field.
    idempotency_key text,
    wish            jsonb,
    -- When a worker had a look that it is there.
    seen_at         timestamptz
);
CREATE UNIQUE INDEX reuses_by_key ON reuses ((coalesce(user_id, '')), idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX reuses_by_job ON reuses (job_id);
CREATE INDEX reuses_unseen ON reuses (seq) WHERE seen_at IS NULL;

-- A key belongs to a job of its own or to the video of another one. Which of the two is decided under
-- this lock, until the end of the transaction: no index spans two tables.
CREATE FUNCTION vidgen_hold_key(user_id text, key text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(
        hashtext('vidgen:idempotency'), hashtext(coalesce(user_id, '') || E'\n' || key)
    )
$$;

CREATE FUNCTION vidgen_heed_reuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM vidgen_hold_key(NEW.user_id, NEW.idempotency_key);
    /* A statement of its own: it sees what those have committed who had the lock before us. */
    IF EXISTS (
        SELECT FROM reuses
        WHERE coalesce(user_id, '') = coalesce(NEW.user_id, '')
          AND idempotency_key = NEW.idempotency_key
    ) THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER video_jobs_heed_reuses BEFORE INSERT ON video_jobs FOR EACH ROW
    WHEN (NEW.idempotency_key IS NOT NULL)
    EXECUTE FUNCTION vidgen_heed_reuses();
