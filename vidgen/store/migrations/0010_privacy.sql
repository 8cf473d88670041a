-- Prompts and images sealed at rest, and users who are to be forgotten. The previous release neither
-- writes nor reads any of it; what it would do to a sealed job is turned down below.

-- Prompt, negative prompt, images by reference and fields of the provider's own: one envelope. The
-- columns `prompt` and `parameters` then hold what is left.
ALTER TABLE video_jobs ADD COLUMN sealed bytea;
-- The worker that took the job and knows of envelopes: written by the claim of this release.
ALTER TABLE video_jobs ADD COLUMN opener_id uuid;
ALTER TABLE job_inputs ADD COLUMN sealed boolean NOT NULL DEFAULT false;

-- Whose jobs are to be deleted, until none that was asked for before that moment is left.
CREATE TABLE erasures (
    user_id  text PRIMARY KEY,
    asked_at timestamptz NOT NULL DEFAULT now()
);

-- Operations of deleted jobs: nobody who looks for a lost receipt may take one of them for theirs.
CREATE TABLE erased_operations (
    endpoint     text NOT NULL,
    operation_id text NOT NULL,
    erased_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (endpoint, operation_id)
);
CREATE INDEX erased_operations_old ON erased_operations (erased_at);

-- What a rotation has left, and whether an old encryption key may be dropped.
CREATE INDEX video_jobs_sealed ON video_jobs (substring(sealed FROM 2 FOR 8), id)
    WHERE sealed IS NOT NULL;
-- Retention of results.
CREATE INDEX video_jobs_results ON video_jobs (completed_at)
    WHERE status = 'completed' AND archived_at IS NULL;

-- A worker of the previous release would send an empty prompt to a provider, and pay for it: it does
-- not say that it can open the envelope, so its claim finds no row. What it archives loses the
-- envelope with the prompt.
CREATE FUNCTION vidgen_guard_sealed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.archived_at IS NOT NULL THEN
        NEW.sealed := NULL;
    ELSIF NEW.opener_id IS DISTINCT FROM NEW.worker_id THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER video_jobs_guard_sealed BEFORE UPDATE ON video_jobs FOR EACH ROW
    WHEN (
        NEW.sealed IS NOT NULL AND (
            NEW.archived_at IS NOT NULL
            OR (NEW.worker_id IS NOT NULL AND NEW.worker_id IS DISTINCT FROM OLD.worker_id)
        )
    )
    EXECUTE FUNCTION vidgen_guard_sealed();
