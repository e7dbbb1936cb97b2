from __future__ import annotations

import pytest
from msgspec.structs import replace

from bitmesh_proxy.storage import media
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.media import MediaRecord, SqliteMedia
from tests.storage.examples import NOON_S

RECORD = MediaRecord(
    media_id="abc",
    provider="together",
    account_id="acct_1",
    kind="image",
    created_at_s=NOON_S,
    url="https://example.test/x.png",
    needs_credential=True,
)


@pytest.fixture
def store(database: Database) -> SqliteMedia:
    return SqliteMedia(database)


async def test_record_comes_back_as_it_was(store: SqliteMedia) -> None:
    short = MediaRecord(
        media_id="s", provider="p", account_id="a", kind="video", created_at_s=NOON_S, url=None, is_short=True
    )
    for record in (RECORD, short):
        assert await store.remember(record)
        assert await store.get(record.media_id) == record
    assert await store.get("unknown") is None


async def test_id_belongs_to_the_first(store: SqliteMedia) -> None:
    assert await store.remember(RECORD)
    assert not await store.remember(replace(RECORD, account_id="acct_2"))
    assert await store.get("abc") == RECORD
    assert await store.remember(replace(RECORD, media_id="ABC", url="https://example.test/y.png")), "case counts"
    assert await store.get("abc") == RECORD


async def test_old_ones_go_some_at_a_time(store: SqliteMedia, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "PRUNE_ROWS", 2)
    for number in range(5):
        await store.remember(replace(RECORD, media_id=str(number), created_at_s=NOON_S + number))
    assert [await store.prune(before_s=NOON_S + 3) for _ in range(3)] == [2, 1, 0]
    assert await store.get("2") is None
    assert await store.get("3") is not None


async def test_an_id_can_be_taken_back(store: SqliteMedia) -> None:
    await store.remember(RECORD)
    await store.forget("unknown")
    assert await store.get("abc") == RECORD
    await store.forget("abc")
    assert await store.get("abc") is None
