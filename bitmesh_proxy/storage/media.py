"""Results that were handed out: ``media.store.MediaStore`` on the database."""

from __future__ import annotations

import sqlite3
from typing import Literal

import msgspec

from bitmesh_proxy.storage.database import Database

_COLUMNS = "id, provider, account_id, kind, created_at_ms, url, is_short, needs_credential"
#: Removed in one go at most, so that no request waits for a long sweep.
PRUNE_ROWS = 5_000


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
    """See the module's docstring."""

    def __init__(self, database: Database) -> None:
        self._database = database

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

        def insert(connection: sqlite3.Connection) -> bool:
            statement = connection.execute(
                f"INSERT INTO media ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",  # noqa: S608
                parameters,
            )
            return statement.rowcount == 1

        return await self._database.write(insert)

    async def get(self, media_id: str) -> MediaRecord | None:
        """What was remembered under an id."""
        row = self._database.lookup(f"SELECT {_COLUMNS} FROM media WHERE id = ?", (media_id,))  # noqa: S608
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

    async def prune(self, *, before_s: float) -> int:
        """Forget what was handed out before a moment (Unix time); gives how many rows went."""

        def delete(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM media WHERE id IN (SELECT id FROM media WHERE created_at_ms < ? LIMIT ?)",
                (int(before_s * 1000), PRUNE_ROWS),
            ).rowcount

        return await self._database.write(delete)
