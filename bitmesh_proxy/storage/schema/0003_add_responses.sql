-- Responses that callers may come back to. Times are Unix milliseconds. Apart from the ledger, and never for long.

-- input and output are compressed JSON lists of items, body the compressed response without its output, asked what is
-- needed of the request to finish it later. A response under way belongs to a process (instance), or to a job.
CREATE TABLE responses (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL,
    previous_id TEXT,
    status TEXT NOT NULL CHECK (status IN ('queued', 'in_progress', 'completed', 'incomplete', 'failed', 'cancelled')),
    background INTEGER NOT NULL CHECK (background IN (0, 1)),
    instance INTEGER NOT NULL,
    job_id TEXT,
    request_id TEXT NOT NULL,
    body BLOB NOT NULL,
    input BLOB NOT NULL,
    output BLOB NOT NULL,
    asked BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX responses_by_age ON responses (created_at_ms);
CREATE INDEX responses_under_way ON responses (account_id) WHERE status IN ('queued', 'in_progress');

-- Where an item is that a later request names.
CREATE TABLE response_items (
    account_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    response_id TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
    PRIMARY KEY (account_id, item_id, response_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX response_items_by_response ON response_items (response_id);
