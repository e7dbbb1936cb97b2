"""Books of any size, made quickly and right: ``bitmesh-proxy doctor`` finds nothing wrong with them.

They begin as the program's own empty database. Accounts, credits, names and keys go in as the program itself would
write them, with every trigger at work. The ledger does not: a row that is opened and closed by triggers takes some ten
microseconds, and ten million of them minutes. So its triggers and indexes are put aside, rows and their charges are
written as a settled call leaves them, balances are set to the sums of their entries, and the triggers and indexes come
back, all before anybody else has seen the file.
"""

from __future__ import annotations

import base64
import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

#: The ledger reaches back so far.
SPAN_S = 90 * 86400
CREDIT_NANO_USD = 10**15
HOLD_NANO_USD = 60_000
COST_NANO_USD = 8_550


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of everything there is."""

    keys: int
    models: int
    rows: int

    @property
    def accounts(self) -> int:
        """A hundred keys have one account."""
        return max(1, self.keys // 100)

    def model_names(self) -> list[str]:
        """The ids of the models."""
        return [f"bench/model-{number:05d}" for number in range(self.models)]


def token(number: int) -> str:
    """The bearer token of the key with that number, of 1 to ``Size.keys``. Anyone can reckon it out: for benchmarks."""
    digest = hashlib.sha256(f"bench key {number}".encode()).digest()
    return "bm_" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def fill(database: Path, size: Size) -> None:
    """Put accounts, keys and settled calls into books that hold one account and one key. Nobody else may use them."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        # A half-made file is thrown away as a whole, so that a journal would protect nothing.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -512000", "threads = 2"):
            connection.execute(f"PRAGMA {pragma}")
        now_ms = int(time.time() * 1000)
        connection.execute("BEGIN")
        _add_accounts(connection, size, now_ms)
        _add_keys(connection, size, now_ms)
        _add_names(connection, size)
        with _without_rules(connection):
            _add_rows(connection, size, now_ms)
            connection.execute(_BALANCES)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")


def _add_accounts(connection: sqlite3.Connection, size: Size, now_ms: int) -> None:
    numbers = range(2, size.accounts + 1)
    connection.executemany(
        "INSERT INTO accounts (number, id, name, created_at_ms) VALUES (?, ?, ?, ?)",
        ((number, f"acct_bench{number:06d}", f"bench {number}", now_ms) for number in numbers),
    )
    last = connection.execute("SELECT min(number) FROM entries").fetchone()[0] or 0
    connection.executemany(
        "INSERT INTO entries (number, account, kind, amount_nano_usd, created_at_ms) VALUES (?, ?, 'credit', ?, ?)",
        ((last - number, number, CREDIT_NANO_USD, now_ms) for number in range(1, size.accounts + 1)),
    )


def _add_keys(connection: sqlite3.Connection, size: Size, now_ms: int) -> None:
    first = connection.execute("SELECT max(number) FROM keys").fetchone()[0]
    connection.executemany(
        "INSERT INTO keys (number, id, account, name, token_digest, created_at_ms) VALUES (?, ?, ?, ?, ?, ?)",
        (
            (
                first + number,
                f"key_bench{number:08d}",
                1 + number % size.accounts,
                f"bench {number}",
                hashlib.sha256(token(number).encode()).digest(),
                now_ms,
            )
            for number in range(1, size.keys + 1)
        ),
    )


def _add_names(connection: sqlite3.Connection, size: Size) -> None:
    names = ["chat", "bench", *size.model_names()]
    connection.executemany("INSERT OR IGNORE INTO names (name) VALUES (?)", ((name,) for name in names))


@contextmanager
def _without_rules(connection: sqlite3.Connection) -> Iterator[None]:
    """Triggers and indexes of the ledger are put aside, and come back word for word."""
    rules = connection.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('trigger', 'index')"
        " AND tbl_name IN ('requests', 'entries') AND sql IS NOT NULL"
    ).fetchall()
    for kind, name, _ in rules:
        connection.execute(f"DROP {kind} {name}")
    yield
    for _, _, sql in rules:
        connection.execute(sql)


def _add_rows(connection: sqlite3.Connection, size: Size, now_ms: int) -> None:
    first_key = connection.execute("SELECT min(number) FROM keys WHERE id LIKE 'key_bench%'").fetchone()[0]
    first_model = connection.execute("SELECT number FROM names WHERE name = ?", (size.model_names()[0],)).fetchone()[0]
    ((chat,), (bench,)) = (
        connection.execute("SELECT number FROM names WHERE name = ?", (name,)).fetchone() for name in ("chat", "bench")
    )
    given = {
        "rows": size.rows,
        "keys": size.keys,
        "accounts": size.accounts,
        "models": size.models,
        "first_key": first_key,
        "first_model": first_model,
        "chat": chat,
        "bench": bench,
        "began_ms": now_ms - SPAN_S * 1000,
        "span_ms": SPAN_S * 1000,
        "hold": HOLD_NANO_USD,
        "cost": COST_NANO_USD,
    }
    connection.execute(_ROWS, given)
    connection.execute(_CHARGES)


# Calls of all keys and models, at even distances in time. Their ids look like the program's: ten digits of the time in
# units of 2^24 ns, and fourteen at random. 48271 and 7919 spread neighbours over keys and models; both are primes.
_ROWS = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows),
calls (n, key, model, at_ms) AS (
    SELECT n, n * 48271 % :keys, :first_model + n * 7919 % :models, :began_ms + n * :span_ms / (:rows + 1) FROM numbers
)
INSERT INTO requests (number, id, account, key, instance, endpoint, model, provider, upstream_model, input_tokens,
    output_tokens, hold_nano_usd, cost_nano_usd, charge_nano_usd, basis, live, state, http_status, outcome,
    first_byte_ms, total_ms, address, started_at_ms)
SELECT n, printf('req_%010x%s', (at_ms * 1000000) >> 24, lower(hex(randomblob(7)))),
    1 + (key + 1) % :accounts, :first_key + key, 0, :chat, model, :bench, model, 9, 12,
    :hold, :cost, :cost, 'measured', 1, 'settled', 200, 'completed', 12, 15, '127.0.0.1', at_ms
FROM calls
"""

_CHARGES = """
INSERT INTO entries (number, account, kind, amount_nano_usd, created_at_ms)
SELECT number, account, 'charge', -charge_nano_usd, started_at_ms + total_ms FROM requests WHERE charge_nano_usd > 0
"""

_BALANCES = """
UPDATE balances SET balance_nano_usd = sums.total
FROM (SELECT account, sum(amount_nano_usd) AS total FROM entries GROUP BY account) AS sums
WHERE balances.account = sums.account
"""
