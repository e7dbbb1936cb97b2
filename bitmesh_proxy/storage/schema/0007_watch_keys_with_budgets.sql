-- Whether its key has a budget was looked up for each opening in the key's own row: one page of many, seldom in a
-- processor's cache when there are many keys, to learn that nearly none has one. Now those that have are in a small table,
-- and the opening *updates* it: where there is no row nothing happens, which costs less than a trigger to look.

-- Keys that an opening has to look at: those with a budget, and numbers whose keys were deleted (by hand: the program
-- deletes none). The other columns are what the last opening asked for; they hand it to the trigger below.
CREATE TABLE watched_keys (
    key INTEGER PRIMARY KEY,
    hold_nano_usd INTEGER NOT NULL DEFAULT 0,
    started_at_ms INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO watched_keys (key)
SELECT number FROM keys WHERE budget_day_nano_usd IS NOT NULL OR budget_month_nano_usd IS NOT NULL ORDER BY number;

CREATE TRIGGER keys_made_are_watched AFTER INSERT ON keys
BEGIN
    DELETE FROM watched_keys WHERE key = NEW.number;
    INSERT INTO watched_keys (key)
    SELECT NEW.number WHERE NEW.budget_day_nano_usd IS NOT NULL OR NEW.budget_month_nano_usd IS NOT NULL;
END;

CREATE TRIGGER keys_changed_are_watched AFTER UPDATE OF budget_day_nano_usd, budget_month_nano_usd ON keys
BEGIN
    DELETE FROM watched_keys WHERE key = NEW.number;
    INSERT INTO watched_keys (key)
    SELECT NEW.number WHERE NEW.budget_day_nano_usd IS NOT NULL OR NEW.budget_month_nano_usd IS NOT NULL;
END;

CREATE TRIGGER keys_deleted_are_watched AFTER DELETE ON keys
BEGIN
    INSERT OR IGNORE INTO watched_keys (key) VALUES (OLD.number);
END;

-- ------------------------------------------------------------ opening

DROP TRIGGER requests_hold_key_budget;
DROP TRIGGER requests_hold;

-- First the key, then its budget, then the balance. The update of balances is the one conditional update of the whole
-- program: concurrent calls can never hold more than there is.
CREATE TRIGGER requests_hold AFTER INSERT ON requests
BEGIN
    SELECT RAISE(ABORT, 'requests_begin_open') WHERE NEW.state <> 'open';
    SELECT RAISE(ABORT, 'requests_have_a_key')
    WHERE NEW.key > coalesce((SELECT number FROM keys ORDER BY number DESC LIMIT 1), 0);
    UPDATE watched_keys SET hold_nano_usd = NEW.hold_nano_usd, started_at_ms = NEW.started_at_ms WHERE key = NEW.key;
    UPDATE balances SET held_nano_usd = held_nano_usd + NEW.hold_nano_usd
    WHERE account = NEW.account AND balance_nano_usd - held_nano_usd >= NEW.hold_nano_usd;
    SELECT RAISE(ABORT, 'insufficient_balance') WHERE changes() = 0;
END;

CREATE TRIGGER watched_keys_hold AFTER UPDATE ON watched_keys
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
