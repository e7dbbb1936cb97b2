"""First calls with an ``Idempotency-Key``, and the answers kept for their repetition. Apart from the ledger.

When the room for answers is used up, those keys lose their oldest that hold more than their fair share of it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Literal

import msgspec

from bitmesh_proxy.storage.database import Database, Row
from bitmesh_proxy.storage.fair_share import oldest_to_go
from bitmesh_proxy.storage.sweeps import OftenEnough, Step

State = Literal["running", "finished", "stream"]

#: Old rows are looked for this often, and whenever an eighth of the room for answers has been filled since, or so many
#: rows have come.
SWEEP_INTERVAL_S = 60.0
SWEEP_AFTER_ROWS = 500


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """The caller is the first with this key."""


class Existing(msgspec.Struct, frozen=True, kw_only=True):
    """What is there of the first call. ``body`` and its company only when ``finished``."""

    state: State
    fingerprint: bytes
    request_id: str
    status: int | None = None
    headers: str | None = None
    body: bytes | None = None


class IdempotencyStore:
    """Rows per API key and idempotency key. ``instance`` is the number of this process."""

    def __init__(
        self,
        database: Database,
        *,
        instance: int,
        keep_s: float = 86_400.0,
        max_total_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        self._database = database
        self._instance = instance
        self._keep_s = keep_s
        self._max_total_bytes = max_total_bytes
        self._sweeps = OftenEnough(SWEEP_INTERVAL_S, rows=SWEEP_AFTER_ROWS, room_bytes=max_total_bytes)

    async def claim(
        self, key_id: str, idempotency_key: str, *, fingerprint: bytes, request_id: str, now_s: float
    ) -> Claimed | Existing:
        """Insert if absent, durably; else what is there. A row older than ``keep_s`` counts as absent, unless its call
        still runs: it may do so for longer, or the clock has leapt, and it would be made and charged a second time.
        """
        expired_before_ms = int((now_s - self._keep_s) * 1000)
        self._sweeps.note(rows=1)
        is_sweep_due = self._sweeps.is_due(now_s)
        owed_rows = self._sweeps.owed_rows

        def sweep_and_insert(connection: sqlite3.Connection) -> tuple[Claimed | Existing, bool]:
            is_swept = not is_sweep_due or self._sweep(connection, expired_before_ms, Step(least=owed_rows))
            return insert(connection), is_swept

        def insert(connection: sqlite3.Connection) -> Claimed | Existing:
            connection.execute(
                "DELETE FROM idempotency"
                " WHERE key_id = ? AND idempotency_key = ? AND created_at_ms < ? AND state <> 'running'",
                (key_id, idempotency_key, expired_before_ms),
            )
            added = connection.execute(
                "INSERT INTO idempotency (key_id, idempotency_key, fingerprint, request_id, instance, state,"
                " created_at_ms) VALUES (?, ?, ?, ?, ?, 'running', ?) ON CONFLICT DO NOTHING",
                (key_id, idempotency_key, fingerprint, request_id, self._instance, int(now_s * 1000)),
            ).rowcount
            if added:
                return Claimed()
            row = connection.execute(
                "SELECT state, fingerprint, request_id, status, headers, body"
                " FROM idempotency WHERE key_id = ? AND idempotency_key = ?",
                (key_id, idempotency_key),
            ).fetchall()[0]
            state, kept, first, status, headers, body = row
            return Existing(
                state=state,
                fingerprint=kept,
                request_id=first,
                status=status,
                headers=headers,
                body=body,
            )

        found, is_swept = await self._database.write(sweep_and_insert, is_new_work=True)
        if not is_swept:
            self._sweeps.go_on(now_s)
        return found

    async def finish(self, key_id: str, idempotency_key: str, *, status: int, headers: str, body: bytes) -> None:
        """Keep the whole answer."""
        self._sweeps.note(size_bytes=len(body))

        def update(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE idempotency SET state = 'finished', status = ?, headers = ?, body = ?"
                " WHERE key_id = ? AND idempotency_key = ? AND state = 'running'",
                (status, headers, body, key_id, idempotency_key),
            )

        await self._database.write(update)

    async def finish_stream(self, key_id: str, idempotency_key: str) -> None:
        """Keep that the call was made, without an answer."""

        def update(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE idempotency SET state = 'stream'"
                " WHERE key_id = ? AND idempotency_key = ? AND state = 'running'",
                (key_id, idempotency_key),
            )

        await self._database.write(update)

    async def abandon(self, key_id: str, idempotency_key: str) -> None:
        """Forget a first call that came to nothing."""

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute(
                "DELETE FROM idempotency WHERE key_id = ? AND idempotency_key = ? AND state = 'running'",
                (key_id, idempotency_key),
            )

        await self._database.write(delete)

    async def resolve_interrupted(self, *, alive: Sequence[int], newest: int | None = None) -> int:
        """At start: what no living process can finish any more. Gives how many rows there were.

        A call that was charged stays known, without its answer; any other is forgotten, so that it may be tried again.
        ``newest`` as in ``LedgerStore.resolve_interrupted``.
        """

        def resolve(connection: sqlite3.Connection) -> int:
            living = json.dumps(list(alive))
            charged = connection.execute(_KEEP_CHARGED, (living, newest)).rowcount
            forgotten = connection.execute(_FORGET_OTHERS, (living, newest)).rowcount
            return charged + forgotten

        return await self._database.write(resolve)

    def _sweep(self, connection: sqlite3.Connection, expired_before_ms: int, step: Step) -> bool:
        """Did all go that has to?"""

        def find_expired(most: int) -> list[Row]:
            return connection.execute(_FIND_EXPIRED, (expired_before_ms, most)).fetchall()

        def find_too_many(most: int) -> list[tuple[str, str]]:
            return oldest_to_go(
                connection,
                totals="SELECT key_id, size_bytes FROM idempotency_totals",
                oldest="SELECT idempotency_key, length(body) FROM idempotency"
                " WHERE key_id = ? AND body IS NOT NULL ORDER BY created_at_ms LIMIT ?",
                room_bytes=self._max_total_bytes,
                most=most,
            )

        # Of what is too much, answers only: their calls stay known.
        return step.execute_found(connection, _FORGET, find_expired) and step.execute_found(
            connection, _FORGET_ANSWER, find_too_many
        )


_FIND_EXPIRED = """
SELECT key_id, idempotency_key FROM idempotency WHERE created_at_ms < ? AND state <> 'running' LIMIT ?
"""
_FORGET = "DELETE FROM idempotency WHERE key_id = ? AND idempotency_key = ?"
_FORGET_ANSWER = "UPDATE idempotency SET state = 'stream', body = NULL WHERE key_id = ? AND idempotency_key = ?"

_INTERRUPTED = (
    "state = 'running' AND instance NOT IN (SELECT value FROM json_each(?1)) AND (?2 IS NULL OR instance <= ?2)"
)

#: Each by its id: a list of what was charged would be made of the whole ledger.
_KEEP_CHARGED = f"""
UPDATE idempotency SET state = 'stream'
WHERE {_INTERRUPTED} AND EXISTS (
    SELECT 1 FROM requests
    WHERE requests.id = idempotency.request_id AND (requests.state = 'open' OR charge_nano_usd > 0)
)"""  # noqa: S608 - made of constants

_FORGET_OTHERS = f"DELETE FROM idempotency WHERE {_INTERRUPTED}"  # noqa: S608 - made of constants
