-- What a request costs no longer grows with the number of keys, and its rules take fewer statements.
--
-- Requests of a key were found by an index, which takes a page of its own for nearly every row once there are many keys.
-- Now that index is made behind the rows, in runs of some thousands (storage/runs.py): within a run by key, and each run
-- behind the one before, so that only the end is ever written. What is newer than the last run is read as it is. Rows
-- get their numbers in order and keep key and time of beginning, so that a run is right for ever.

CREATE TABLE request_runs (
    number INTEGER PRIMARY KEY,
    first_request INTEGER NOT NULL,
    last_request INTEGER NOT NULL CHECK (last_request >= first_request),
    -- The earliest and the latest beginning: reports leave out runs of other times.
    first_started_at_ms INTEGER NOT NULL,
    last_started_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE requests_by_run (
    run INTEGER NOT NULL,
    key INTEGER NOT NULL,
    request INTEGER NOT NULL,
    PRIMARY KEY (run, key, request)
) STRICT, WITHOUT ROWID;

-- What is there already becomes one run: the index that goes has it nearly in that order, so that ten million rows take
-- half a minute; sorted into runs they took several.
INSERT INTO requests_by_run (run, key, request) SELECT 1, key, number FROM requests ORDER BY key, number;

INSERT INTO request_runs (number, first_request, last_request, first_started_at_ms, last_started_at_ms)
SELECT 1, min(number), max(number), min(started_at_ms), max(started_at_ms) FROM requests HAVING count(*) > 0;

DROP TRIGGER keys_budget_counts_anew;
DROP INDEX requests_by_key;

-- ------------------------------------------------------------ constraints

-- Seven parents were looked up for each request. Its account is there, or taking the hold fails, and entering the charge
-- does too; so is its key, for its budget is looked at. Names come from names.py, and doctor looks whether all are there.
-- The checks are the same in another order: the common case first, and texts compared only where they decide.
-- (Changed in place, for the tables are long: https://sqlite.org/lang_altertable.html#otheralter, read 2026-11-22. The
-- drops above tell other connections that the schema has changed.)

-- A charge says how much of its account's holds it ends, so that both are one update of the account.
ALTER TABLE entries ADD COLUMN released_nano_usd INTEGER NOT NULL DEFAULT 0;

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = 'CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    kind TEXT NOT NULL,
    amount_nano_usd INTEGER NOT NULL,
    note TEXT NOT NULL DEFAULT '''',
    created_at_ms INTEGER NOT NULL,
    released_nano_usd INTEGER NOT NULL DEFAULT 0,
    CHECK (
        (number > 0 AND amount_nano_usd < 0 AND released_nano_usd >= 0 AND kind = ''charge'')
        OR (number <= 0 AND released_nano_usd = 0 AND (
            (amount_nano_usd > 0 AND kind = ''credit'')
            OR (amount_nano_usd <> 0 AND note <> '''' AND kind = ''correction'')
        ))
    )
) STRICT' WHERE type = 'table' AND name = 'entries';

UPDATE sqlite_schema SET sql = 'CREATE TABLE requests (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    account INTEGER NOT NULL,
    key INTEGER NOT NULL,
    instance INTEGER NOT NULL,
    endpoint INTEGER NOT NULL,
    model INTEGER NOT NULL,
    provider INTEGER,
    upstream_model INTEGER,
    provider_request_id TEXT,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    cached_input_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    images INTEGER NOT NULL DEFAULT 0,
    characters INTEGER NOT NULL DEFAULT 0,
    duration_ms INTEGER NOT NULL DEFAULT 0,
    hold_nano_usd INTEGER NOT NULL CHECK (hold_nano_usd >= 0),
    -- What was delivered so far, for the case that this process dies.
    accrued_cost_nano_usd INTEGER NOT NULL DEFAULT 0 CHECK (accrued_cost_nano_usd >= 0),
    accrued_charge_nano_usd INTEGER NOT NULL DEFAULT 0 CHECK (accrued_charge_nano_usd >= 0),
    cost_nano_usd INTEGER NOT NULL DEFAULT 0 CHECK (cost_nano_usd >= 0),
    charge_nano_usd INTEGER NOT NULL DEFAULT 0 CHECK (charge_nano_usd >= 0),
    basis TEXT CHECK (basis IS NULL OR basis = ''reported'' OR basis = ''measured'' OR basis = ''estimated''),
    live INTEGER NOT NULL CHECK (live = 1 OR live = 0),
    state TEXT NOT NULL DEFAULT ''open'' CHECK (state = ''open'' OR state = ''settled'' OR state = ''released''),
    http_status INTEGER,
    outcome TEXT,
    first_byte_ms INTEGER,
    total_ms INTEGER,
    address TEXT NOT NULL,
    started_at_ms INTEGER NOT NULL,
    CHECK (live = 1 OR hold_nano_usd = 0),
    CHECK (charge_nano_usd <= hold_nano_usd),
    CHECK (charge_nano_usd = 0 OR state = ''settled''),
    CHECK (basis IS NOT NULL OR state <> ''settled'')
) STRICT' WHERE type = 'table' AND name = 'requests';

PRAGMA writable_schema = RESET;

-- What names stand for does not change, and what requests belong to does not go.

CREATE TRIGGER names_are_not_deleted BEFORE DELETE ON names
BEGIN
    SELECT RAISE(ABORT, 'names_are_not_deleted');
END;

CREATE TRIGGER names_keep_their_numbers BEFORE UPDATE ON names
BEGIN
    SELECT RAISE(ABORT, 'names_keep_their_numbers');
END;

CREATE TRIGGER accounts_are_not_deleted BEFORE DELETE ON accounts
BEGIN
    SELECT RAISE(ABORT, 'accounts_are_not_deleted');
END;

CREATE TRIGGER accounts_keep_their_numbers BEFORE UPDATE OF number ON accounts
BEGIN
    SELECT RAISE(ABORT, 'accounts_keep_their_numbers');
END;

CREATE TRIGGER keys_in_use_are_not_deleted BEFORE DELETE ON keys
WHEN EXISTS (SELECT 1 FROM requests WHERE key = OLD.number)
BEGIN
    SELECT RAISE(ABORT, 'keys_in_use_are_not_deleted');
END;

CREATE TRIGGER keys_keep_their_numbers BEFORE UPDATE OF number, account ON keys
BEGIN
    SELECT RAISE(ABORT, 'keys_keep_their_numbers');
END;

-- ------------------------------------------------------------ opening

-- One look at the key says all for one that is there and has no budget.
DROP TRIGGER requests_hold_key_budget;

CREATE TRIGGER requests_hold_key_budget AFTER INSERT ON requests
WHEN NOT EXISTS (
    SELECT 1 FROM keys WHERE number = NEW.key AND budget_day_nano_usd IS NULL AND budget_month_nano_usd IS NULL
)
BEGIN
    SELECT RAISE(ABORT, 'requests_have_a_key') WHERE NOT EXISTS (SELECT 1 FROM keys WHERE number = NEW.key);
    INSERT INTO key_spend (key, period, held_nano_usd)
    VALUES (NEW.key, strftime('%Y-%m-%d', NEW.started_at_ms / 1000, 'unixepoch'), NEW.hold_nano_usd),
           (NEW.key, strftime('%Y-%m', NEW.started_at_ms / 1000, 'unixepoch'), NEW.hold_nano_usd)
    ON CONFLICT (key, period) DO UPDATE SET held_nano_usd = held_nano_usd + excluded.held_nano_usd;
    SELECT RAISE(ABORT, 'budget_day_exceeded')
    FROM keys JOIN key_spend ON key_spend.key = keys.number
    WHERE keys.number = NEW.key
      AND key_spend.period = strftime('%Y-%m-%d', NEW.started_at_ms / 1000, 'unixepoch')
      AND key_spend.spent_nano_usd + key_spend.held_nano_usd > keys.budget_day_nano_usd;
    SELECT RAISE(ABORT, 'budget_month_exceeded')
    FROM keys JOIN key_spend ON key_spend.key = keys.number
    WHERE keys.number = NEW.key
      AND key_spend.period = strftime('%Y-%m', NEW.started_at_ms / 1000, 'unixepoch')
      AND key_spend.spent_nano_usd + key_spend.held_nano_usd > keys.budget_month_nano_usd;
END;

-- ------------------------------------------------------------ closing

DROP TRIGGER entries_move_the_balance;
DROP TRIGGER requests_close;
DROP TRIGGER requests_charge;
DROP TRIGGER requests_close_key_budget;

CREATE TRIGGER entries_move_the_balance AFTER INSERT ON entries
BEGIN
    UPDATE accounts
    SET balance_nano_usd = balance_nano_usd + NEW.amount_nano_usd, held_nano_usd = held_nano_usd - NEW.released_nano_usd
    WHERE number = NEW.account;
    SELECT RAISE(ABORT, 'entries_have_an_account') WHERE changes() = 0;
END;

-- Each closing is the work of one of these two, whole, for which of two triggers comes first is not defined.
-- (+period: found by key alone, so that nothing is reckoned for the many keys that have no budget.)
CREATE TRIGGER requests_close AFTER UPDATE ON requests WHEN OLD.state <> 'open' OR NEW.charge_nano_usd = 0
BEGIN
    SELECT RAISE(ABORT, 'requests_close_once') WHERE OLD.state <> 'open';
    UPDATE accounts SET held_nano_usd = held_nano_usd - OLD.hold_nano_usd
    WHERE number = OLD.account AND NEW.state <> 'open';
    UPDATE key_spend SET held_nano_usd = held_nano_usd - OLD.hold_nano_usd
    WHERE key = OLD.key AND NEW.state <> 'open'
      AND +period IN (strftime('%Y-%m-%d', OLD.started_at_ms / 1000, 'unixepoch'),
                      strftime('%Y-%m', OLD.started_at_ms / 1000, 'unixepoch'));
END;

-- What is charged is settled: a check of the table's.
CREATE TRIGGER requests_charge AFTER UPDATE OF state ON requests WHEN OLD.state = 'open' AND NEW.charge_nano_usd > 0
BEGIN
    INSERT INTO entries (number, account, kind, amount_nano_usd, created_at_ms, released_nano_usd)
    VALUES (OLD.number, OLD.account, 'charge', -NEW.charge_nano_usd, OLD.started_at_ms + coalesce(NEW.total_ms, 0),
            OLD.hold_nano_usd);
    UPDATE key_spend
    SET held_nano_usd = held_nano_usd - OLD.hold_nano_usd, spent_nano_usd = spent_nano_usd + NEW.charge_nano_usd
    WHERE key = OLD.key
      AND +period IN (strftime('%Y-%m-%d', OLD.started_at_ms / 1000, 'unixepoch'),
                      strftime('%Y-%m', OLD.started_at_ms / 1000, 'unixepoch'));
END;

-- ------------------------------------------------------------ budgets

-- Spending is counted only for keys with a budget; when one gets, changes or loses its budget, the count is made anew
-- from the ledger: from the beginning of the month before that of the newest request on.
CREATE TRIGGER keys_budget_counts_anew AFTER UPDATE OF budget_day_nano_usd, budget_month_nano_usd ON keys
BEGIN
    DELETE FROM key_spend WHERE key = NEW.number;
    INSERT INTO key_spend (key, period, spent_nano_usd, held_nano_usd)
    SELECT NEW.number, strftime(form, started_at_ms / 1000, 'unixepoch'), sum(charge_nano_usd),
           sum(CASE state WHEN 'open' THEN hold_nano_usd ELSE 0 END)
    FROM (
        SELECT 1000 * strftime('%s', started_at_ms / 1000, 'unixepoch', 'start of month', '-1 month') AS since_ms
        FROM requests ORDER BY number DESC LIMIT 1
    ) AS counted
    CROSS JOIN (
        SELECT request FROM request_runs CROSS JOIN requests_by_run ON run = request_runs.number AND key = NEW.number
        WHERE NEW.budget_day_nano_usd IS NOT NULL OR NEW.budget_month_nano_usd IS NOT NULL
        UNION ALL
        SELECT number FROM requests
        WHERE number > coalesce((SELECT last_request FROM request_runs ORDER BY number DESC LIMIT 1), 0)
          AND key = NEW.number
          AND (NEW.budget_day_nano_usd IS NOT NULL OR NEW.budget_month_nano_usd IS NOT NULL)
    ) AS found
    CROSS JOIN requests ON requests.number = found.request AND requests.started_at_ms >= counted.since_ms
    CROSS JOIN (SELECT '%Y-%m-%d' AS form UNION ALL SELECT '%Y-%m') AS forms
    GROUP BY 2;
END;
