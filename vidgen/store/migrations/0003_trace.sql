-- Where the trace of a job goes on, in whichever process: W3C traceparent, NULL if nobody traces.

ALTER TABLE video_jobs ADD COLUMN traceparent text;
