-- What is kept of each key's answers, as 0013 has it of responses: to add up their lengths took seconds of the writer's
-- time when there were many. The media type stands among the headers.

ALTER TABLE idempotency DROP COLUMN content_type;

CREATE TABLE idempotency_totals (
    key_id TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0)
) STRICT, WITHOUT ROWID;

-- The oldest of a key, found without reading any of them.
CREATE INDEX idempotency_of_key ON idempotency (key_id, created_at_ms) WHERE body IS NOT NULL;

INSERT INTO idempotency_totals (key_id, size_bytes)
SELECT key_id, sum(length(body)) FROM idempotency WHERE body IS NOT NULL GROUP BY key_id;

-- (A row is made without an answer; see the check.)
CREATE TRIGGER idempotency_adds_to_total AFTER UPDATE OF body ON idempotency WHEN NEW.body IS NOT NULL
BEGIN
    INSERT INTO idempotency_totals (key_id, size_bytes) VALUES (NEW.key_id, length(NEW.body))
    ON CONFLICT (key_id) DO UPDATE SET size_bytes = size_bytes + excluded.size_bytes;
END;

CREATE TRIGGER idempotency_changes_total AFTER UPDATE OF body ON idempotency WHEN OLD.body IS NOT NULL
BEGIN
    UPDATE idempotency_totals SET size_bytes = size_bytes - length(OLD.body) WHERE key_id = OLD.key_id;
END;

CREATE TRIGGER idempotency_takes_from_total AFTER DELETE ON idempotency WHEN OLD.body IS NOT NULL
BEGIN
    UPDATE idempotency_totals SET size_bytes = size_bytes - length(OLD.body) WHERE key_id = OLD.key_id;
END;
