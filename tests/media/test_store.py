"""Whoever remembers ids, remembers the first and refuses the second. The database's store is tried in its own room."""

from __future__ import annotations

from bitmesh_proxy.media.store import MemoryMediaStore
from bitmesh_proxy.storage.media import MediaRecord


def record(media_id: str, url: str | None = None) -> MediaRecord:
    return MediaRecord(media_id=media_id, provider="maker", account_id="acc", kind="video", created_at_s=0.0, url=url)


async def test_the_first_to_use_an_id_has_it() -> None:
    store = MemoryMediaStore()
    first = record("abc", "https://a.test/")
    assert await store.remember(first)
    assert not await store.remember(record("abc", "https://b.test/"))
    assert await store.remember(record("ABC"))
    assert await store.get("abc") == first
    assert await store.get("ABC") == record("ABC")
    assert await store.get("none") is None
