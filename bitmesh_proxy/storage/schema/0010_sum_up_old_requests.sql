-- The ledger does not grow for ever: requests that ended long ago (ledger.keep_s) are summed up by month, a few hundred
-- at a time, and go, with their charges (storage/months.py). Always those with the lowest numbers, and never the newest
-- one: rows get the number behind the last, and numbers must not come again, for entries have them too.

-- Up to which request, and the latest beginning of a request so far. It only moves forward; only what it has passed goes.
CREATE TABLE summed_up (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    last_request INTEGER NOT NULL,
    last_started_at_ms INTEGER NOT NULL
) STRICT;

INSERT INTO summed_up (one, last_request, last_started_at_ms) VALUES (1, 0, 0);

-- All that reports may ask of requests, for the month ('2026-08') in which they began. 0: no provider was asked.
CREATE TABLE request_months (
    month TEXT NOT NULL,
    key INTEGER NOT NULL,
    model INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    provider INTEGER NOT NULL,
    upstream_model INTEGER NOT NULL,
    live INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    requests INTEGER NOT NULL CHECK (requests > 0),
    input_tokens INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    images INTEGER NOT NULL,
    characters INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    cost_nano_usd INTEGER NOT NULL CHECK (cost_nano_usd >= 0),
    charge_nano_usd INTEGER NOT NULL CHECK (charge_nano_usd >= 0),
    PRIMARY KEY (month, key, model, endpoint, provider, upstream_model, live, outcome)
) STRICT, WITHOUT ROWID;

-- Charges that were entries, for the month in which they were entered: a balance is the sum of its account's entries and
-- of these.
CREATE TABLE charge_months (
    month TEXT NOT NULL,
    account INTEGER NOT NULL,
    charges INTEGER NOT NULL CHECK (charges > 0),
    amount_nano_usd INTEGER NOT NULL CHECK (amount_nano_usd < 0),
    PRIMARY KEY (month, account)
) STRICT, WITHOUT ROWID;

-- ------------------------------------------------------------ what may go, and when

DROP TRIGGER entries_are_not_deleted;
DROP TRIGGER requests_open_are_not_deleted;
DROP TRIGGER requests_deleted_move_the_mark;
DROP TRIGGER keys_in_use_are_not_deleted;

CREATE TRIGGER summed_up_moves_forward BEFORE UPDATE ON summed_up
BEGIN
    SELECT RAISE(ABORT, 'summed_up_moves_forward')
    WHERE NEW.last_request < OLD.last_request OR NEW.last_started_at_ms < OLD.last_started_at_ms;
    SELECT RAISE(ABORT, 'the_newest_request_stays')
    WHERE NEW.last_request >= (SELECT number FROM requests ORDER BY number DESC LIMIT 1);
END;

CREATE TRIGGER summed_up_is_not_deleted BEFORE DELETE ON summed_up
BEGIN
    SELECT RAISE(ABORT, 'summed_up_is_not_deleted');
END;

CREATE TRIGGER requests_are_summed_up_before_they_go BEFORE DELETE ON requests
WHEN OLD.state = 'open' OR OLD.number > (SELECT last_request FROM summed_up)
BEGIN
    SELECT RAISE(ABORT, 'requests_are_summed_up_before_they_go');
END;

CREATE TRIGGER entries_are_summed_up_before_they_go BEFORE DELETE ON entries
WHEN OLD.number <= 0 OR OLD.number > (SELECT last_request FROM summed_up)
BEGIN
    SELECT RAISE(ABORT, 'entries_are_append_only');
END;

CREATE TRIGGER request_months_are_not_deleted BEFORE DELETE ON request_months
BEGIN
    SELECT RAISE(ABORT, 'request_months_are_not_deleted');
END;

CREATE TRIGGER charge_months_are_not_deleted BEFORE DELETE ON charge_months
BEGIN
    SELECT RAISE(ABORT, 'charge_months_are_not_deleted');
END;

CREATE TRIGGER charge_months_only_grow BEFORE UPDATE ON charge_months
WHEN NEW.account <> OLD.account OR NEW.charges <= OLD.charges OR NEW.amount_nano_usd >= OLD.amount_nano_usd
BEGIN
    SELECT RAISE(ABORT, 'charge_months_only_grow');
END;

CREATE TRIGGER keys_in_use_are_not_deleted BEFORE DELETE ON keys
WHEN EXISTS (SELECT 1 FROM requests WHERE key = OLD.number) OR EXISTS (SELECT 1 FROM request_months WHERE key = OLD.number)
BEGIN
    SELECT RAISE(ABORT, 'keys_in_use_are_not_deleted');
END;
