"""Results that were handed out: ``media.store.MediaStore`` on the database.

They are known for ``keep_s``, as long as copies are kept and longer than providers' own links live.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.sweeps import NowAndThen

_COLUMNS = "id, provider, account_id, kind, created_at_ms, url, is_short, needs_credential"
#: Old rows are looked for this often at most.
SWEEP_INTERVAL_S: Final = 60.0
#: Removed in one go at most, so that no request waits for a long sweep.
SWEEP_ROWS: Final = 5_000


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
        sweep_rows: int = SWEEP_ROWS,
    ) -> None:
        self._database = database
        self._keep_s = keep_s
        self._clock = clock
        self._sweep_rows = sweep_rows
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

        oldest_ms = self._oldest_ms() if self._sweeps.is_due(self._clock()) else None

        def insert(connection: sqlite3.Connection) -> bool:
            statement = connection.execute(
                f"INSERT INTO media ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",  # noqa: S608
                parameters,
            )
            if oldest_ms is not None:
                connection.execute(
                    "DELETE FROM media WHERE id IN (SELECT id FROM media WHERE created_at_ms < ? LIMIT ?)",
                    (oldest_ms, self._sweep_rows),
                )
            return statement.rowcount == 1

        return await self._database.write(insert)

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
