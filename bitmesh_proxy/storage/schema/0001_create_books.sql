-- The books. Money is whole nano-dollars; times are Unix milliseconds (…_ms) or seconds (…_s).
--
-- The rules of money are kept here, by constraints and triggers, so that no code can break them:
--   an account never holds more than it has; a request is opened once and closed once; its charge is never above its
--   hold; entries are appended, never changed; a balance is the sum of its account's entries.
-- Opening a request takes its hold, closing it gives the hold back and enters the charge: one statement each.
-- A refusal is RAISE(ABORT, word), which undoes the statement and nothing else of the transaction.
-- (Checks spell out "a OR b OR c": for three and more values, IN builds a table at every write.)

CREATE TABLE accounts (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    balance_nano_usd INTEGER NOT NULL DEFAULT 0,
    held_nano_usd INTEGER NOT NULL DEFAULT 0 CHECK (held_nano_usd >= 0),
    created_at_ms INTEGER NOT NULL,
    disabled_at_ms INTEGER,
    CHECK (balance_nano_usd >= held_nano_usd)
) STRICT;

-- ------------------------------------------------------------ entries

-- number: of a charge, the number of its request, so that no request can be charged twice; payments and corrections
-- count downwards from -1. (Old requests may be pruned one day, entries never: so no foreign key.)
CREATE TABLE entries (
    number INTEGER PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts (number),
    kind TEXT NOT NULL CHECK (kind = 'credit' OR kind = 'charge' OR kind = 'correction'),
    amount_nano_usd INTEGER NOT NULL CHECK (amount_nano_usd <> 0),
    note TEXT NOT NULL DEFAULT '',
    created_at_ms INTEGER NOT NULL,
    CHECK (kind <> 'credit' OR amount_nano_usd > 0),
    CHECK (kind <> 'charge' OR amount_nano_usd < 0),
    CHECK ((kind = 'charge') = (number > 0)),
    CHECK (kind <> 'correction' OR note <> '')
) STRICT;

-- Charges are found by their requests.
CREATE INDEX entries_by_account ON entries (account) WHERE number < 0;

CREATE TRIGGER entries_are_not_changed BEFORE UPDATE ON entries
BEGIN
    SELECT RAISE(ABORT, 'entries_are_append_only');
END;

CREATE TRIGGER entries_are_not_deleted BEFORE DELETE ON entries
BEGIN
    SELECT RAISE(ABORT, 'entries_are_append_only');
END;

CREATE TRIGGER entries_move_the_balance AFTER INSERT ON entries
BEGIN
    UPDATE accounts SET balance_nano_usd = balance_nano_usd + NEW.amount_nano_usd WHERE number = NEW.account;
END;

-- ------------------------------------------------------------ keys

CREATE TABLE keys (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    account INTEGER NOT NULL REFERENCES accounts (number),
    name TEXT NOT NULL,
    token_digest BLOB UNIQUE CHECK (length(token_digest) = 32),
    token_hint TEXT NOT NULL DEFAULT '' CHECK (length(token_hint) <= 8),
    consumer_key TEXT UNIQUE,
    sealed_secret BLOB,
    generation INTEGER NOT NULL DEFAULT 1 CHECK (generation >= 1),
    bound_model TEXT,
    allowed_models TEXT CHECK (allowed_models IS NULL OR json_type(allowed_models) = 'array'),
    rate_per_minute INTEGER CHECK (rate_per_minute >= 0),
    max_concurrent INTEGER CHECK (max_concurrent >= 0),
    budget_day_nano_usd INTEGER CHECK (budget_day_nano_usd >= 0),
    budget_month_nano_usd INTEGER CHECK (budget_month_nano_usd >= 0),
    expires_at_ms INTEGER,
    disabled_at_ms INTEGER,
    created_at_ms INTEGER NOT NULL,
    CHECK (token_digest IS NOT NULL OR consumer_key IS NOT NULL)
) STRICT;

CREATE INDEX keys_by_account ON keys (account);

-- What a key with a budget has spent and holds, per UTC day ('2026-08-20') and month ('2026-08') in which its requests
-- began.
CREATE TABLE key_spend (
    key INTEGER NOT NULL REFERENCES keys (number),
    period TEXT NOT NULL,
    spent_nano_usd INTEGER NOT NULL DEFAULT 0 CHECK (spent_nano_usd >= 0),
    held_nano_usd INTEGER NOT NULL DEFAULT 0 CHECK (held_nano_usd >= 0),
    PRIMARY KEY (key, period)
) STRICT, WITHOUT ROWID;

-- ------------------------------------------------------------ what every process watches

-- One row. keys_version moves with everything that decides whether a key opens the door, in whatever process it happens.
CREATE TABLE versions (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    keys_version INTEGER NOT NULL
) STRICT;

INSERT INTO versions (one, keys_version) VALUES (1, 1);

CREATE TRIGGER keys_made_move_the_version AFTER INSERT ON keys
BEGIN
    UPDATE versions SET keys_version = keys_version + 1;
END;

CREATE TRIGGER keys_changed_move_the_version AFTER UPDATE ON keys
BEGIN
    UPDATE versions SET keys_version = keys_version + 1;
END;

CREATE TRIGGER keys_deleted_move_the_version AFTER DELETE ON keys
BEGIN
    UPDATE versions SET keys_version = keys_version + 1;
END;

CREATE TRIGGER accounts_switched_move_the_version AFTER UPDATE OF disabled_at_ms ON accounts
BEGIN
    UPDATE versions SET keys_version = keys_version + 1;
END;

-- ------------------------------------------------------------ requests: the ledger

-- Endpoints, models and providers by number: a request's row stays under 200 bytes. Only names that the program or its
-- catalogue knows come in here, never text of callers.
CREATE TABLE names (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- Running processes. Each keeps a lock on a file, so that another can tell whether it lives. A number never comes back.
CREATE TABLE instances (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    pid INTEGER NOT NULL,
    lock_name TEXT NOT NULL UNIQUE,
    started_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE requests (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    account INTEGER NOT NULL REFERENCES accounts (number),
    key INTEGER NOT NULL REFERENCES keys (number),
    instance INTEGER NOT NULL,
    endpoint INTEGER NOT NULL REFERENCES names (number),
    model INTEGER NOT NULL REFERENCES names (number),
    provider INTEGER REFERENCES names (number),
    upstream_model INTEGER REFERENCES names (number),
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
    basis TEXT CHECK (basis = 'reported' OR basis = 'measured' OR basis = 'estimated'),
    live INTEGER NOT NULL CHECK (live = 0 OR live = 1),
    state TEXT NOT NULL DEFAULT 'open' CHECK (state = 'open' OR state = 'settled' OR state = 'released'),
    http_status INTEGER,
    outcome TEXT,
    first_byte_ms INTEGER,
    total_ms INTEGER,
    address TEXT NOT NULL,
    started_at_ms INTEGER NOT NULL,
    CHECK (live = 1 OR hold_nano_usd = 0),
    CHECK (charge_nano_usd <= hold_nano_usd),
    CHECK (state = 'settled' OR charge_nano_usd = 0),
    CHECK (state <> 'settled' OR basis IS NOT NULL)
) STRICT;

CREATE UNIQUE INDEX requests_by_id ON requests (id);
CREATE INDEX requests_by_key ON requests (key, started_at_ms);
CREATE INDEX requests_open ON requests (instance) WHERE state = 'open';

CREATE TRIGGER requests_begin_open BEFORE INSERT ON requests WHEN NEW.state <> 'open'
BEGIN
    SELECT RAISE(ABORT, 'requests_begin_open');
END;

CREATE TRIGGER requests_hold_key_budget AFTER INSERT ON requests
WHEN EXISTS (SELECT 1 FROM keys WHERE number = NEW.key AND (budget_day_nano_usd IS NOT NULL OR budget_month_nano_usd IS NOT NULL))
BEGIN
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

-- The one conditional update of the whole program: concurrent calls can never hold more than there is.
CREATE TRIGGER requests_hold AFTER INSERT ON requests
BEGIN
    UPDATE accounts SET held_nano_usd = held_nano_usd + NEW.hold_nano_usd
    WHERE number = NEW.account AND balance_nano_usd - held_nano_usd >= NEW.hold_nano_usd;
    SELECT RAISE(ABORT, 'insufficient_balance') WHERE changes() = 0;
END;

CREATE TRIGGER requests_close_once BEFORE UPDATE ON requests WHEN OLD.state <> 'open'
BEGIN
    SELECT RAISE(ABORT, 'requests_close_once');
END;

CREATE TRIGGER requests_keep_their_terms BEFORE UPDATE OF number, id, account, key, hold_nano_usd, live, started_at_ms
ON requests
BEGIN
    SELECT RAISE(ABORT, 'requests_keep_their_terms');
END;

CREATE TRIGGER requests_open_are_not_deleted BEFORE DELETE ON requests WHEN OLD.state = 'open'
BEGIN
    SELECT RAISE(ABORT, 'requests_open_are_not_deleted');
END;

CREATE TRIGGER requests_close AFTER UPDATE OF state ON requests WHEN OLD.state = 'open' AND NEW.state <> 'open'
BEGIN
    UPDATE accounts SET held_nano_usd = held_nano_usd - OLD.hold_nano_usd WHERE number = OLD.account;
    INSERT INTO entries (number, account, kind, amount_nano_usd, created_at_ms)
    SELECT OLD.number, OLD.account, 'charge', -NEW.charge_nano_usd, OLD.started_at_ms + coalesce(NEW.total_ms, 0)
    WHERE NEW.charge_nano_usd > 0;
END;

CREATE TRIGGER requests_close_key_budget AFTER UPDATE OF state ON requests
WHEN OLD.state = 'open' AND NEW.state <> 'open' AND EXISTS (SELECT 1 FROM key_spend WHERE key = OLD.key)
BEGIN
    UPDATE key_spend
    SET held_nano_usd = held_nano_usd - OLD.hold_nano_usd, spent_nano_usd = spent_nano_usd + NEW.charge_nano_usd
    WHERE key = OLD.key
      AND period IN (strftime('%Y-%m-%d', OLD.started_at_ms / 1000, 'unixepoch'),
                     strftime('%Y-%m', OLD.started_at_ms / 1000, 'unixepoch'));
END;

-- Spending is counted only for keys with a budget; when one gets, changes or loses its budget, the count is made anew
-- from the ledger (62 days back from its last request: the longest month and the one before).
CREATE TRIGGER keys_budget_counts_anew AFTER UPDATE OF budget_day_nano_usd, budget_month_nano_usd ON keys
BEGIN
    DELETE FROM key_spend WHERE key = NEW.number;
    INSERT INTO key_spend (key, period, spent_nano_usd, held_nano_usd)
    SELECT NEW.number, period, sum(charge_nano_usd), sum(CASE state WHEN 'open' THEN hold_nano_usd ELSE 0 END)
    FROM (
        SELECT strftime('%Y-%m-%d', started_at_ms / 1000, 'unixepoch') AS period, state, hold_nano_usd, charge_nano_usd
        FROM requests
        WHERE key = NEW.number
          AND started_at_ms >= (SELECT max(started_at_ms) FROM requests WHERE key = NEW.number) - 62 * 86400000
        UNION ALL
        SELECT strftime('%Y-%m', started_at_ms / 1000, 'unixepoch'), state, hold_nano_usd, charge_nano_usd
        FROM requests
        WHERE key = NEW.number
          AND started_at_ms >= (SELECT max(started_at_ms) FROM requests WHERE key = NEW.number) - 62 * 86400000
    )
    WHERE NEW.budget_day_nano_usd IS NOT NULL OR NEW.budget_month_nano_usd IS NOT NULL
    GROUP BY period;
END;
