"""Whoever remembers ids, remembers the first and refuses the second: in memory and in the database alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bitmesh_proxy.media.store import MediaStore, MemoryMediaStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.media import MediaRecord, SqliteMedia


def record(media_id: str, **more: object) -> MediaRecord:
    return MediaRecord(
        media_id=media_id,
        provider="maker",
        account_id="acc",
        kind="video",
        created_at_s=1_700_000_000.5,
        **more,  # type: ignore[arg-type]
    )


@asynccontextmanager
async def a_store(kind: str, directory: Path) -> AsyncIterator[MediaStore]:
    if kind == "memory":
        yield MemoryMediaStore()
    else:
        database = await Database.open(directory / "books.db", busy_timeout_s=5.0, max_pending_writes=100)
        try:
            yield SqliteMedia(database)
        finally:
            await database.close()


@pytest.mark.parametrize("kind", ["memory", "database"])
async def test_the_first_to_use_an_id_has_it(tmp_path: Path, kind: str) -> None:
    async with a_store(kind, tmp_path) as store:
        first = record("abc", url="https://a.test/?x=%2B", needs_credential=True)
        assert await store.remember(first)
        assert not await store.remember(record("abc", is_short=True))
        assert await store.remember(record("ABC", is_short=True))
        assert await store.get("abc") == first
        assert await store.get("ABC") == record("ABC", is_short=True)
        assert await store.get("none") is None
