"""
Rows as two months of work would leave them, for benches that want many.

Most are completed, some of them failed long ago and are archived, a few can be retried. What is
rare is what a list looks for longest.
"""

# $1 rows are there; so many that there are $2, the last $3 of which wait.
ROWS = """
INSERT INTO video_jobs (
    id, status, stage, provider, model, prompt, parameters, fingerprint, scene_id, user_id, due_at,
    attempt, max_attempts, operation, progress, error_code, error_message, storage_key, size_bytes,
    sha256, actual_cost_micros, created_at, started_at, intent_at, submitted_at, generated_at,
    completed_at, deadline_s, archived_at, metadata
)
SELECT
    (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
        || lpad(to_hex(n % 4096), 3, '0') || '8' || lpad(to_hex(n), 15, '0'))::uuid,
    status, CASE status WHEN 'completed' THEN 'transferring' ELSE 'queued' END,
    CASE WHEN n % 10 < 7 THEN 'sora' ELSE 'veo' END,
    CASE WHEN n % 10 >= 7 THEN 'veo-3.1-generate-001' WHEN n % 50000 = 5 THEN 'sora-2-pro'
         ELSE 'sora-2' END,
    'a tram in the rain, number ' || n, '{"seconds": 8, "size": "1280x720", "images": []}',
    'f', 'scene-' || n % 100000, 'user-' || n % 1000,
    CASE status WHEN 'pending' THEN at END,
    (status <> 'pending')::integer, 3,
    CASE status WHEN 'completed'
        THEN jsonb_build_object('provider', 'sora', 'id', 'v' || n, 'endpoint', 'https://x/v1',
                                'model', 'sora-2', 'credential_id', 'server') END,
    CASE status WHEN 'completed' THEN 100 ELSE 0 END,
    CASE WHEN status <> 'failed' THEN NULL WHEN n % 1000 = 7 THEN 'quota_exhausted'
         ELSE 'content_blocked' END,
    CASE status WHEN 'failed' THEN 'The provider refused it.' END,
    CASE status WHEN 'completed' THEN 'videos/' || n || '.mp4' END,
    CASE status WHEN 'completed' THEN 2000000 END,
    CASE status WHEN 'completed' THEN repeat('ab', 32) END,
    CASE status WHEN 'pending' THEN NULL ELSE 800000 END,
    at, at, at, CASE status WHEN 'completed' THEN at END, CASE status WHEN 'completed' THEN at END,
    CASE status WHEN 'pending' THEN NULL ELSE at + interval '90 seconds' END,
    1800,
    CASE WHEN status IN ('failed', 'cancelled') AND at < now() - interval '1 day' THEN now() END,
    '{"order": 4711}'
FROM (
    SELECT n, now() - (interval '60 days') * (1 - n / $2::float8) - interval '2 minutes' AS at,
           CASE WHEN n > $2 - $3::bigint THEN 'pending' WHEN n % 25 = 7 THEN 'failed'
                WHEN n % 100 = 11 THEN 'cancelled' ELSE 'completed' END AS status
    FROM generate_series($1::bigint + 1, $2::bigint) AS n
) AS made
"""

# What happened to those of them of whom nothing is told: the events of a life without troubles.
EVENTS = """
INSERT INTO job_events (job_id, type, at, status, stage, attempt, progress)
SELECT id, type, created_at + after * interval '1 second', 'processing', 'generating', 1, 0
FROM video_jobs, (VALUES ('created', 0), ('claimed', 1), ('generated', 60), ('completed', 61))
    AS event (type, after)
WHERE NOT EXISTS (SELECT FROM job_events WHERE job_id = video_jobs.id)
ORDER BY id
"""
