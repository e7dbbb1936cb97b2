-- Long work, answers kept for repetition, results handed out, and nonces. Times are Unix milliseconds (…_ms) or seconds (…_s).

-- A job keeps its request open: the hold is the request's, and both are closed in one transaction.
-- facts and state are small JSON objects: what pricing needs of the call, and what the provider said last.
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    account INTEGER NOT NULL REFERENCES accounts (number),
    key INTEGER NOT NULL REFERENCES keys (number),
    request_id TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    offer TEXT NOT NULL,
    provider_job_id TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('queued', 'in_progress', 'completed', 'failed', 'cancelled')),
    facts TEXT NOT NULL CHECK (json_type(facts) = 'object'),
    state TEXT NOT NULL CHECK (json_type(state) = 'object'),
    polls INTEGER NOT NULL DEFAULT 0,
    refusals INTEGER NOT NULL DEFAULT 0,
    created_at_ms INTEGER NOT NULL,
    next_poll_at_ms INTEGER,
    completed_at_ms INTEGER,
    -- A finished job is never polled again; an open one always has its next poll.
    CHECK ((completed_at_ms IS NULL) = (next_poll_at_ms IS NOT NULL))
) STRICT;

CREATE INDEX jobs_by_account ON jobs (account, provider_job_id);
CREATE INDEX jobs_due ON jobs (next_poll_at_ms) WHERE next_poll_at_ms IS NOT NULL;
CREATE INDEX jobs_open_by_key ON jobs (key) WHERE next_poll_at_ms IS NOT NULL;

-- Apart from the ledger: these rows hold answers, are few, and go after a day.
CREATE TABLE idempotency (
    key_id TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
    request_id TEXT NOT NULL,
    instance INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'finished', 'stream')),
    status INTEGER,
    content_type TEXT,
    headers TEXT,
    body BLOB,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (key_id, idempotency_key),
    CHECK ((state = 'finished') = (body IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_age ON idempotency (created_at_ms);

CREATE TABLE media (
    id TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    account_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('image', 'video', 'audio')),
    url TEXT,
    is_short INTEGER NOT NULL CHECK (is_short IN (0, 1)),
    needs_credential INTEGER NOT NULL CHECK (needs_credential IN (0, 1)),
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX media_by_age ON media (created_at_ms);

-- A nonce is good once; the row goes when its timestamp has left the window.
CREATE TABLE nonces (
    consumer_key TEXT NOT NULL,
    nonce TEXT NOT NULL,
    timestamp_s INTEGER NOT NULL,
    PRIMARY KEY (consumer_key, nonce)
) STRICT, WITHOUT ROWID;

CREATE INDEX nonces_by_time ON nonces (timestamp_s);
