"""Accounts: who pays. A balance moves by entries alone, and entries are only ever appended."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from bitmesh_proxy.errors import Conflict, NotFound
from bitmesh_proxy.money import MAX_NANO_USD, ZERO, NanoUsd
from bitmesh_proxy.storage.database import Database, Row
from bitmesh_proxy.storage.ids import RandomBytes, make_id


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """``held_nano_usd`` is the part of the balance that open requests have reserved."""

    id: str
    name: str
    balance_nano_usd: NanoUsd
    held_nano_usd: NanoUsd
    created_at_s: float
    disabled_at_s: float | None

    @property
    def available_nano_usd(self) -> NanoUsd:
        """What a new request can reserve."""
        return NanoUsd(self.balance_nano_usd - self.held_nano_usd)


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that no request made: a credit, or a correction with the mistake that it makes good."""

    kind: Literal["credit", "correction"]
    amount_nano_usd: NanoUsd
    note: str
    created_at_s: float


#: (Without a balance an account would vanish from here; that each has one, triggers see to, and ``doctor``.)
_SELECT = """
SELECT id, name, balance_nano_usd, held_nano_usd, created_at_ms, disabled_at_ms
FROM accounts JOIN balances ON balances.account = accounts.number
"""


class AccountStore:
    """Makes, finds and credits accounts."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._random_bytes = random_bytes

    async def create(self, name: str, *, credit_nano_usd: NanoUsd = ZERO, note: str = "") -> Account:
        """A new account, with nothing in it or a first payment: both or neither. Raises ValueError as ``credit``."""
        if credit_nano_usd:
            _check_credit(credit_nano_usd)
        account_id, now_ms = make_id("acct_", self._random_bytes), int(self._clock() * 1000)

        def insert(connection: sqlite3.Connection) -> Row:
            connection.execute(
                "INSERT INTO accounts (id, name, created_at_ms) VALUES (?, ?, ?)", (account_id, name, now_ms)
            )
            if credit_nano_usd:
                _enter(connection, account_id, "credit", credit_nano_usd, note, now_ms)
            row: Row = connection.execute(_SELECT + "WHERE id = ?", (account_id,)).fetchall()[0]
            return row

        return _account(await self._database.write(insert))

    async def get(self, account_id: str) -> Account | None:
        """The account as it is now."""
        row = self._database.lookup(_SELECT + "WHERE id = ?", (account_id,))
        return None if row is None else _account(row)

    async def list(self) -> tuple[Account, ...]:
        """All accounts, oldest first."""
        rows = await self._database.read(_SELECT + "ORDER BY number")
        return tuple(_account(row) for row in rows)

    async def credit(self, account_id: str, amount_nano_usd: NanoUsd, note: str = "") -> NanoUsd:
        """Enter a payment; gives the new balance.

        Raises NotFound for an unknown account, ValueError for an amount that is not above 0.
        """
        _check_credit(amount_nano_usd)
        return await self._enter(account_id, "credit", amount_nano_usd, note)

    async def paid_in(self, account_id: str) -> NanoUsd:
        """Payments and corrections of an account, summed up; what is not its balance any more was used."""
        row = self._database.lookup(
            "SELECT coalesce(sum(amount_nano_usd), 0) FROM entries"
            " WHERE number < 0 AND account = (SELECT number FROM accounts WHERE id = ?)",
            (account_id,),
        )
        return NanoUsd(0 if row is None else row[0])

    async def statement(self, account_id: str) -> tuple[Account, tuple[Payment, ...]]:
        """The account and what ``paid_in`` sums up, oldest first, at one moment. Raises NotFound."""
        async with self._database.snapshot() as snapshot:
            row = await snapshot.row(_SELECT + "WHERE id = ?", (account_id,))
            rows = await snapshot.rows(
                "SELECT kind, amount_nano_usd, note, created_at_ms FROM entries"
                " WHERE number < 0 AND account = (SELECT number FROM accounts WHERE id = ?) ORDER BY number DESC",
                (account_id,),
            )
        if row is None:
            raise NotFound(f"No such account: {account_id}")
        return _account(row), tuple(
            Payment(kind=kind, amount_nano_usd=NanoUsd(amount), note=note, created_at_s=created_at_ms / 1000)
            for kind, amount, note, created_at_ms in rows
        )

    async def correct(self, account_id: str, amount_nano_usd: NanoUsd, note: str) -> NanoUsd:
        """Enter a counter-entry for a mistake, up or down; gives the new balance. ``note`` says which mistake.

        Raises NotFound for an unknown account, Conflict when open requests hold what would be taken.
        """
        if not note.strip() or amount_nano_usd == 0 or abs(amount_nano_usd) > MAX_NANO_USD // 1000:
            raise ValueError("a correction needs an amount and a note that says why")
        return await self._enter(account_id, "correction", amount_nano_usd, note)

    async def set_disabled(self, account_id: str, is_disabled: bool) -> None:
        """Switch all keys of an account off or on, in every process with the next request. Raises NotFound."""
        disabled_at_ms = int(self._clock() * 1000) if is_disabled else None

        def update(connection: sqlite3.Connection) -> None:
            changed = connection.execute(
                "UPDATE accounts SET disabled_at_ms = ? WHERE id = ?", (disabled_at_ms, account_id)
            ).rowcount
            if not changed:
                raise NotFound(f"No such account: {account_id}")

        await self._database.write(update)

    async def _enter(self, account_id: str, kind: str, amount_nano_usd: int, note: str) -> NanoUsd:
        now_ms = int(self._clock() * 1000)

        def insert(connection: sqlite3.Connection) -> int:
            return _enter(connection, account_id, kind, amount_nano_usd, note, now_ms)

        return NanoUsd(await self._database.write(insert))


def _check_credit(amount_nano_usd: int) -> None:
    if not 0 < amount_nano_usd <= MAX_NANO_USD // 1000:
        raise ValueError("a credit must be more than nothing, and money that exists")


def _enter(
    connection: sqlite3.Connection, account_id: str, kind: str, amount_nano_usd: int, note: str, now_ms: int
) -> int:
    """The balance with the new entry. Raises NotFound, Conflict."""
    try:
        added = connection.execute(
            "INSERT INTO entries (number, account, kind, amount_nano_usd, note, created_at_ms)"
            " SELECT (SELECT min(coalesce(min(number), 0), 0) - 1 FROM entries), number, ?, ?, ?, ?"
            " FROM accounts WHERE id = ?",
            (kind, amount_nano_usd, note, now_ms, account_id),
        ).rowcount
    except sqlite3.IntegrityError as exc:
        if exc.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_CHECK and "balance_nano_usd" in str(exc):
            raise Conflict("The account does not have that much free.") from exc
        raise
    if not added:
        raise NotFound(f"No such account: {account_id}")
    balance: int = connection.execute(
        "SELECT balance_nano_usd FROM balances WHERE account = (SELECT number FROM accounts WHERE id = ?)",
        (account_id,),
    ).fetchall()[0][0]
    return balance


def _account(row: Row) -> Account:
    account_id, name, balance, held, created_at_ms, disabled_at_ms = row
    return Account(
        id=account_id,
        name=name,
        balance_nano_usd=NanoUsd(balance),
        held_nano_usd=NanoUsd(held),
        created_at_s=created_at_ms / 1000,
        disabled_at_s=None if disabled_at_ms is None else disabled_at_ms / 1000,
    )
