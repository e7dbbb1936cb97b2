-- Clips that are being handed in, so that all processes count them among those that a key has open. A place goes when the
-- job's row is there, or when there will be none. Places of a process that has ended count no more.

CREATE TABLE job_places (
    request_id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL,
    instance INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
