from __future__ import annotations

import pytest
from msgspec.structs import replace

from bitmesh_proxy.storage import sweeps
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.media import SWEEP_INTERVAL_S, MediaRecord, SqliteMedia
from tests.hand_clock import HandClock
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


KEEP_S = 1000.0


@pytest.fixture
def store(database: Database, clock: HandClock) -> SqliteMedia:
    return SqliteMedia(database, keep_s=KEEP_S, clock=clock)


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


async def test_what_is_too_old_is_unknown(store: SqliteMedia, clock: HandClock) -> None:
    await store.remember(RECORD)
    clock.now_s = NOON_S + KEEP_S
    assert await store.get("abc") == RECORD
    clock.now_s += 1
    assert await store.get("abc") is None


async def test_old_ones_go_some_at_a_time(
    store: SqliteMedia, clock: HandClock, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "STEP_S", 0.0)

    async def kept() -> list[str]:
        return [row[0] for row in await database.read("SELECT id FROM media ORDER BY created_at_ms")]

    for number in range(5):
        await store.remember(replace(RECORD, media_id=str(number), created_at_s=NOON_S + number))
    clock.now_s = NOON_S + KEEP_S + 3
    seen = []
    for name in "abcde":
        await store.remember(replace(RECORD, media_id=name, created_at_s=clock.now_s))
        seen.append([name for name in await kept() if name.isdigit()])
        clock.now_s += SWEEP_INTERVAL_S / 2 if name == "c" else sweeps.REST_S * (0.5 if name == "a" else 1.01)
    assert seen == [["1", "2", "3", "4"], ["1", "2", "3", "4"], ["2", "3", "4"], ["3", "4"], ["4"]]


async def test_an_id_can_be_taken_back(store: SqliteMedia) -> None:
    await store.remember(RECORD)
    await store.forget("unknown")
    assert await store.get("abc") == RECORD
    await store.forget("abc")
    assert await store.get("abc") is None
