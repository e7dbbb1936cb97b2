-- What each account has stored, so that nobody has to read all responses to know whether there is room for more: their
-- contents lie between a row's key and its size, and a gigabyte took ten seconds, in which nothing else was written.

CREATE TABLE response_totals (
    account_id TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0)
) STRICT, WITHOUT ROWID;

-- The oldest of an account, found without reading any of them.
CREATE INDEX responses_of_account ON responses (account_id, created_at_ms, size_bytes);

INSERT INTO response_totals (account_id, size_bytes)
SELECT account_id, sum(size_bytes) FROM responses GROUP BY account_id;

CREATE TRIGGER responses_add_to_total AFTER INSERT ON responses
BEGIN
    INSERT INTO response_totals (account_id, size_bytes) VALUES (NEW.account_id, NEW.size_bytes)
    ON CONFLICT (account_id) DO UPDATE SET size_bytes = size_bytes + excluded.size_bytes;
END;

CREATE TRIGGER responses_change_total AFTER UPDATE OF size_bytes ON responses
BEGIN
    UPDATE response_totals SET size_bytes = size_bytes - OLD.size_bytes + NEW.size_bytes
    WHERE account_id = NEW.account_id;
END;

CREATE TRIGGER responses_take_from_total AFTER DELETE ON responses
BEGIN
    UPDATE response_totals SET size_bytes = size_bytes - OLD.size_bytes WHERE account_id = OLD.account_id;
END;
