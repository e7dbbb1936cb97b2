-- Balances get a narrow table of their own: every opening and every closing writes the page of its account's balance. In
-- the rows of accounts, with ids and names, fifty balances shared a page; here it is two hundred, so that calls which
-- are committed together, of a thousand accounts, write a third as many pages.

CREATE TABLE balances (
    account INTEGER PRIMARY KEY REFERENCES accounts (number),
    balance_nano_usd INTEGER NOT NULL DEFAULT 0,
    held_nano_usd INTEGER NOT NULL DEFAULT 0 CHECK (held_nano_usd >= 0),
    CHECK (balance_nano_usd >= held_nano_usd)
) STRICT;

INSERT INTO balances (account, balance_nano_usd, held_nano_usd)
SELECT number, balance_nano_usd, held_nano_usd FROM accounts ORDER BY number;

-- ------------------------------------------------------------ the rules, as they were

DROP TRIGGER requests_hold;
DROP TRIGGER entries_move_the_balance;
DROP TRIGGER requests_close;

-- The one conditional update of the whole program: concurrent calls can never hold more than there is.
CREATE TRIGGER requests_hold AFTER INSERT ON requests
BEGIN
    SELECT RAISE(ABORT, 'requests_begin_open') WHERE NEW.state <> 'open';
    UPDATE balances SET held_nano_usd = held_nano_usd + NEW.hold_nano_usd
    WHERE account = NEW.account AND balance_nano_usd - held_nano_usd >= NEW.hold_nano_usd;
    SELECT RAISE(ABORT, 'insufficient_balance') WHERE changes() = 0;
END;

CREATE TRIGGER entries_move_the_balance AFTER INSERT ON entries
BEGIN
    UPDATE balances
    SET balance_nano_usd = balance_nano_usd + NEW.amount_nano_usd, held_nano_usd = held_nano_usd - NEW.released_nano_usd
    WHERE account = NEW.account;
    SELECT RAISE(ABORT, 'entries_have_an_account') WHERE changes() = 0;
END;

-- (Closings without a charge; those with one are the work of requests_charge, whole: see 0005.)
CREATE TRIGGER requests_close AFTER UPDATE ON requests WHEN OLD.state <> 'open' OR NEW.charge_nano_usd = 0
BEGIN
    SELECT RAISE(ABORT, 'requests_close_once') WHERE OLD.state <> 'open';
    UPDATE balances SET held_nano_usd = held_nano_usd - OLD.hold_nano_usd
    WHERE account = OLD.account AND NEW.state <> 'open';
    UPDATE key_spend SET held_nano_usd = held_nano_usd - OLD.hold_nano_usd
    WHERE key = OLD.key AND NEW.state <> 'open'
      AND +period IN (strftime('%Y-%m-%d', OLD.started_at_ms / 1000, 'unixepoch'),
                      strftime('%Y-%m', OLD.started_at_ms / 1000, 'unixepoch'));
END;

-- ------------------------------------------------------------ an account and its balance

-- (The check over both columns goes first, or they could not be dropped: done in place as in 0005, for keys and jobs
-- refer to accounts.)
PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = 'CREATE TABLE accounts (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    balance_nano_usd INTEGER NOT NULL DEFAULT 0,
    held_nano_usd INTEGER NOT NULL DEFAULT 0,
    created_at_ms INTEGER NOT NULL,
    disabled_at_ms INTEGER
) STRICT' WHERE type = 'table' AND name = 'accounts';

PRAGMA writable_schema = RESET;

ALTER TABLE accounts DROP COLUMN held_nano_usd;
ALTER TABLE accounts DROP COLUMN balance_nano_usd;

-- An account has a balance from its first moment on, and always.

CREATE TRIGGER accounts_begin_with_nothing AFTER INSERT ON accounts
BEGIN
    INSERT INTO balances (account) VALUES (NEW.number);
END;

CREATE TRIGGER balances_are_not_deleted BEFORE DELETE ON balances
BEGIN
    SELECT RAISE(ABORT, 'balances_are_not_deleted');
END;

CREATE TRIGGER balances_keep_their_accounts BEFORE UPDATE OF account ON balances
BEGIN
    SELECT RAISE(ABORT, 'balances_keep_their_accounts');
END;
