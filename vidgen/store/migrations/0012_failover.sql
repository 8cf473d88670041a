-- Fail-over: who may make a video besides the one it was asked of. The previous release neither
-- writes nor reads any of it; jobs with targets or a ceiling are kept from its workers below.

ALTER TABLE video_jobs
    -- Who may make it, in order: provider, model, api, estimated_cost_micros, mapped. The first one is what
    -- was asked for; empty if nobody else may.
    ADD COLUMN targets jsonb NOT NULL DEFAULT '[]',
    -- What each of them is asked for; without words of the customer where those are sealed.
    ADD COLUMN target_parameters jsonb NOT NULL DEFAULT '[]',
    -- Which of them is in force: `provider`, `model`, `parameters` and `estimated_cost_micros` are its.
    ADD COLUMN target smallint NOT NULL DEFAULT 0,
    ADD COLUMN route text,
    -- The reasons that move it on.
    ADD COLUMN reroute_on jsonb NOT NULL DEFAULT '[]',
    -- What all attempts together may cost at most.
    ADD COLUMN max_cost_micros bigint,
    -- The worker that took the job and knows of all this: written by the claim of this release.
    ADD COLUMN router_id uuid;

-- Not valid: rows that are there need no look, and new ones get one all the same.
ALTER TABLE video_jobs ADD CONSTRAINT target_is_one_of_them CHECK (
    target = 0 OR (target > 0 AND target < jsonb_array_length(targets))
) NOT VALID;
ALTER TABLE video_jobs ADD CONSTRAINT ceiling_is_positive CHECK (max_cost_micros > 0) NOT VALID;

-- A worker of the previous release would let such a job fail where it has to move on, and heeds no
-- ceiling: it does not say that it knows of them, so its claim finds no row. What it archives loses
-- the words in the parameters, too.
CREATE FUNCTION vidgen_guard_targets() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.archived_at IS NOT NULL THEN
        NEW.target_parameters := '[]';
    ELSIF NEW.router_id IS DISTINCT FROM NEW.worker_id THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER video_jobs_guard_targets BEFORE UPDATE ON video_jobs FOR EACH ROW
    WHEN (
        (NEW.targets <> '[]' OR NEW.max_cost_micros IS NOT NULL) AND (
            (NEW.archived_at IS NOT NULL AND OLD.archived_at IS NULL)
            OR (NEW.worker_id IS NOT NULL AND NEW.worker_id IS DISTINCT FROM OLD.worker_id)
        )
    )
    EXECUTE FUNCTION vidgen_guard_targets();
