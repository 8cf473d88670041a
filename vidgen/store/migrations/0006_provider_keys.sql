-- Provider keys of users, sealed; and which credential each attempt was made with. The previous
-- release neither writes nor reads any of it: it goes on with the server's own keys.

CREATE TABLE provider_keys (
    id         uuid PRIMARY KEY,
    user_id    text NOT NULL,
    provider   text NOT NULL,
    -- The interface it opens: a user may have one key for the Gemini API and one for Vertex AI.
    api        text NOT NULL,
    sealed     bytea NOT NULL CHECK (length(sealed) >= 49),
    -- Which encryption key opens it: part of the envelope, so the two cannot disagree.
    key_id     bytea NOT NULL GENERATED ALWAYS AS (substring(sealed FROM 2 FOR 8)) STORED,
    hint       text NOT NULL DEFAULT '' CHECK (length(hint) <= 4),
    created_at timestamptz NOT NULL DEFAULT now(),
    sealed_at  timestamptz NOT NULL DEFAULT now(),
    -- Since when no job may begin with it; the row goes once no running job needs it.
    removed_at timestamptz
);

-- One key for each user and interface.
CREATE UNIQUE INDEX provider_keys_current ON provider_keys (user_id, provider, api)
    WHERE removed_at IS NULL;
CREATE INDEX provider_keys_removed ON provider_keys (removed_at) WHERE removed_at IS NOT NULL;
-- When may an old encryption key be dropped?
CREATE INDEX provider_keys_by_key ON provider_keys (key_id, id);

-- `server`, or the id of a provider key: written with the intent of an attempt, NULL before it.
ALTER TABLE video_jobs ADD COLUMN credential_id text;
-- Since when a job waits for a key that can be opened.
ALTER TABLE video_jobs ADD COLUMN parked_at timestamptz;

-- Which running jobs need a key that was removed.
CREATE INDEX video_jobs_by_credential ON video_jobs (credential_id)
    WHERE credential_id IS NOT NULL AND credential_id <> 'server' AND completed_at IS NULL;
CREATE INDEX video_jobs_parked ON video_jobs (parked_at) WHERE parked_at IS NOT NULL;
