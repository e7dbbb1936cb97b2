"""Nonces that survive a restart and hold across processes: ``auth.nonces.NonceStore`` on the database."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.database import Database

#: Expired rows are removed this often at most; each sweep takes so many, so that no request waits for a long one.
SWEEP_INTERVAL_S = 10.0
SWEEP_ROWS = 20_000


class SqliteNonces:
    """See the module's docstring. ``clock`` is Unix time; ``max_nonces`` bounds the table (0: not)."""

    def __init__(
        self,
        database: Database,
        *,
        window_s: float,
        max_nonces: int = 1_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._window_s = window_s
        self._max_nonces = max_nonces
        self._clock = clock
        self._swept_at_s = float("-inf")
        self._is_full = False

    async def burn(self, consumer_key: str, nonce: str, timestamp_s: int) -> bool:
        """Insert if absent, durably. Raises Unavailable when it cannot be remembered: the request is then refused."""

        def insert(connection: sqlite3.Connection) -> bool:
            statement = connection.execute(
                "INSERT INTO nonces (consumer_key, nonce, timestamp_s) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (consumer_key, nonce, timestamp_s),
            )
            return statement.rowcount == 1

        now_s = self._clock()
        if now_s - self._swept_at_s >= SWEEP_INTERVAL_S:
            self._swept_at_s = now_s
            self._is_full = await self._database.write(lambda connection: self._sweep(connection, now_s))
        if self._is_full:
            raise Unavailable("Too many signed requests at the moment.")
        return await self._database.write(insert, is_new_work=True)

    def _sweep(self, connection: sqlite3.Connection, now_s: float) -> bool:
        """Forget what can no longer be accepted; says whether the table is over its bound all the same."""
        connection.execute(
            "DELETE FROM nonces WHERE (consumer_key, nonce) IN"
            " (SELECT consumer_key, nonce FROM nonces WHERE timestamp_s < ? LIMIT ?)",
            (int(now_s - self._window_s) - 1, SWEEP_ROWS),
        )
        if not self._max_nonces:
            return False
        counted = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM nonces LIMIT ?)", (self._max_nonces,)
        ).fetchall()
        return bool(counted[0][0] >= self._max_nonces)
