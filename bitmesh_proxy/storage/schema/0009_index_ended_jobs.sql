-- Jobs that have ended go after jobs.keep_s, the oldest first. Their rows may be long, so that they are found without
-- reading any.
CREATE INDEX jobs_ended ON jobs (completed_at_ms) WHERE completed_at_ms IS NOT NULL;
