"""Results that were handed out: ``media.store.MediaStore`` on the database.

They are known for ``keep_s``, as long as copies are kept and longer than providers' own links live.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from bitmesh_proxy.storage.database import Database, Row
from bitmesh_proxy.storage.sweeps import NowAndThen, Step

_COLUMNS = "id, provider, account_id, kind, created_at_ms, url, is_short, needs_credential"
#: Old rows are looked for this often.
SWEEP_INTERVAL_S: Final = 60.0


class MediaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One id that was handed out.

    ``url`` is the provider's link; None for a short id (its link is built from the configured origin of ``provider``)
    and for bytes, which exist on our disk only. ``created_at_s`` is Unix time.
    """

    media_id: str
    provider: str
    account_id: str
    kind: Literal["image", "video", "audio"]
    created_at_s: float
    url: str | None = None
    is_short: bool = False
    needs_credential: bool = False


class SqliteMedia:
    """See the module's docstring. ``clock`` is Unix time."""

    def __init__(
        self,
        database: Database,
        *,
        keep_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keep_s = keep_s
        self._clock = clock
        self._sweeps = NowAndThen(SWEEP_INTERVAL_S)

    async def remember(self, record: MediaRecord) -> bool:
        """Keep ``record``. False, and nothing is changed, if its id was handed out before."""
        parameters = (
            record.media_id,
            record.provider,
            record.account_id,
            record.kind,
            int(record.created_at_s * 1000),
            record.url,
            record.is_short,
            record.needs_credential,
        )

        now_s = self._clock()
        oldest_ms = self._oldest_ms() if self._sweeps.is_due(now_s) else None

        def insert(connection: sqlite3.Connection) -> tuple[bool, bool]:
            statement = connection.execute(
                f"INSERT INTO media ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",  # noqa: S608
                parameters,
            )
            is_new = statement.rowcount == 1
            return is_new, oldest_ms is None or self._sweep(connection, oldest_ms, Step(least=0))

        is_new, is_swept = await self._database.write(insert)
        if not is_swept:
            self._sweeps.go_on(now_s)
        return is_new

    async def get(self, media_id: str) -> MediaRecord | None:
        """What was remembered under an id; None, too, for what is too old."""
        sql = f"SELECT {_COLUMNS} FROM media WHERE id = ? AND created_at_ms >= ?"  # noqa: S608 - made of a constant
        row = self._database.lookup(sql, (media_id, self._oldest_ms()))
        if row is None:
            return None
        found_id, provider, account_id, kind, created_at_ms, url, is_short, needs_credential = row
        return MediaRecord(
            media_id=found_id,
            provider=provider,
            account_id=account_id,
            kind=kind,
            created_at_s=created_at_ms / 1000,
            url=url,
            is_short=bool(is_short),
            needs_credential=bool(needs_credential),
        )

    async def forget(self, media_id: str) -> None:
        """Take an id back: nothing is served under it any more."""

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM media WHERE id = ?", (media_id,))

        await self._database.write(delete)

    def _oldest_ms(self) -> int:
        return int((self._clock() - self._keep_s) * 1000)

    def _sweep(self, connection: sqlite3.Connection, oldest_ms: int, step: Step) -> bool:
        """Did all go that has to?"""

        def find(most: int) -> list[Row]:
            return connection.execute(
                "SELECT id FROM media WHERE created_at_ms < ? LIMIT ?", (oldest_ms, most)
            ).fetchall()

        return step.execute_found(connection, "DELETE FROM media WHERE id = ?", find)
