from __future__ import annotations

import asyncio
import sqlite3
import zlib
from typing import Any

import pytest
from msgspec.structs import replace

from bitmesh_proxy.storage import responses, sweeps
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.responses import ContextTooLarge, ResponseStore, StoredResponse, squeezed
from tests.hand_clock import HandClock
from tests.storage.examples import NOON_S


@pytest.fixture
def store(database: Database, clock: HandClock) -> ResponseStore:
    return ResponseStore(database, keep_s=1_000, max_total_bytes=1_000_000, clock=clock)


def item(item_id: str, text: str = "hi") -> dict[str, Any]:
    return {"id": item_id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def response(number: int = 1, **more: Any) -> StoredResponse:
    fields: dict[str, Any] = {
        "id": f"resp_{number}",
        "account_id": "acct_1",
        "status": "completed",
        "body": {"id": f"resp_{number}", "status": "completed", "output": [item(f"out_{number}")]},
        "input_items": [item(f"in_{number}")],
        "request_id": f"req_{number}",
        "created_at_s": NOON_S + number,
        "instance": 1,
    }
    return StoredResponse(**{**fields, **more})


@pytest.mark.parametrize("size", [0, 1, 2, 300, 4095, 4096, 4097, 20_000])
def test_what_is_squeezed_comes_back_and_is_hardly_larger_than_by_zlib(size: int) -> None:
    data = b"".join(b"a response of %d words, " % number for number in range(2_000))[:size]
    assert zlib.decompress(squeezed(data)) == data
    assert len(squeezed(data)) <= len(zlib.compress(data)) * 1.2 + 8


async def test_a_response_comes_back_as_it_was(store: ResponseStore) -> None:
    kept = response(previous_id="resp_0", is_background=True, job_id="job", asked={"model": "m"})
    await store.save(kept)
    assert await store.get("acct_1", "resp_1") == kept


async def test_large_ones_come_back_too(store: ResponseStore) -> None:
    kept = response(input_items=[item("in_1", "".join(chr(97 + n * n % 23) for n in range(500_000)))])
    await store.save(kept)
    assert await store.get("acct_1", "resp_1") == kept


async def test_items_that_follow_are_not_kept_twice(store: ResponseStore) -> None:
    kept = response()
    await store.save(replace(kept, body={**kept.body, "items": ["anything"]}))
    assert await store.get("acct_1", "resp_1") == kept


async def test_another_accounts_response_is_not_there(store: ResponseStore) -> None:
    await store.save(response())
    assert await store.get("acct_2", "resp_1") is None
    assert await store.chain("acct_2", "resp_1", max_bytes=10_000) is None
    assert await store.find_items("acct_2", {"out_1"}, max_bytes=10_000) == {}
    assert not await store.delete("acct_2", "resp_1")
    assert await store.get("acct_1", "resp_1") is not None


async def test_a_chain_is_read_from_its_beginning(store: ResponseStore) -> None:
    for number in range(1, 5):
        await store.save(response(number, previous_id=f"resp_{number - 1}" if number > 1 else None))
    chain = await store.chain("acct_1", "resp_3", max_bytes=100_000)
    assert chain is not None
    assert [each.id for each in chain] == ["resp_1", "resp_2", "resp_3"]
    with pytest.raises(ContextTooLarge):
        await store.chain("acct_1", "resp_3", max_bytes=100)


async def test_a_chain_with_a_hole_is_none(store: ResponseStore) -> None:
    await store.save(response(1))
    await store.save(response(2, previous_id="resp_1"))
    assert await store.delete("acct_1", "resp_1")
    assert await store.chain("acct_1", "resp_2", max_bytes=100_000) is None
    assert await store.chain("acct_1", "resp_9", max_bytes=100_000) is None


async def test_items_are_found_by_their_id(store: ResponseStore) -> None:
    await store.save(response())
    await store.save(response(2))
    asked = {"out_1", "in_1", "nowhere", "in_2"}
    found = await store.find_items("acct_1", asked, max_bytes=10_000)
    assert found == {item_id: item(item_id) for item_id in ("out_1", "in_1", "in_2")}
    await store.delete("acct_1", "resp_1")
    assert await store.find_items("acct_1", asked, max_bytes=10_000) == {"in_2": item("in_2")}


async def test_what_packs_well_counts_as_large_as_it_is(store: ResponseStore) -> None:
    for number in (1, 2):
        previous = f"resp_{number - 1}" if number > 1 else None
        await store.save(response(number, previous_id=previous, input_items=[item(f"in_{number}", "a" * 1_000_000)]))
    assert await store.chain("acct_1", "resp_2", max_bytes=2_010_000) is not None
    assert len(await store.find_items("acct_1", {"in_1", "out_1", "in_2"}, max_bytes=2_010_000)) == 3
    with pytest.raises(ContextTooLarge):
        await store.chain("acct_1", "resp_2", max_bytes=1_500_000)
    with pytest.raises(ContextTooLarge):
        await store.find_items("acct_1", {"in_1", "in_2"}, max_bytes=1_500_000)


async def register(database: Database, number: int) -> None:
    await database.write(
        lambda connection: (
            connection.execute(
                "INSERT INTO instances (number, pid, lock_name, started_at_ms) VALUES (?, 1, 'x', 0)", (number,)
            ).rowcount
        )
    )


async def test_only_what_runs_in_the_background_of_a_living_process_counts(
    store: ResponseStore, database: Database
) -> None:
    await register(database, 1)
    under_way = {"status": "queued", "body": {"status": "queued", "output": []}}
    await store.save(response(1, is_background=True, **under_way))
    await store.save(response(2, **under_way))
    await store.save(response(3, is_background=True, instance=2, **under_way))
    await store.save(response(4, is_background=True))
    assert store.count_under_way("acct_1", but_for=2) == 1
    assert store.count_under_way("acct_1", but_for=1) == 0
    assert store.count_under_way("acct_2", but_for=2) == 0


async def test_what_is_over_stays_as_it_ended(store: ResponseStore) -> None:
    queued = response(status="queued", body={"status": "queued", "output": []})
    await store.save(queued)
    cancelled = replace(queued, status="cancelled", body={"status": "cancelled", "output": []})
    assert await store.finish(cancelled)
    assert not await store.finish(response())
    await store.save(response())
    assert await store.get("acct_1", "resp_1") == cancelled


async def test_what_was_deleted_does_not_come_back_at_its_end(store: ResponseStore) -> None:
    queued = response(status="in_progress", body={"status": "in_progress", "output": []})
    await store.save(queued)
    assert await store.delete("acct_1", "resp_1")
    assert not await store.finish(response())
    assert await store.get("acct_1", "resp_1") is None


async def test_of_two_ends_at_one_moment_one_counts_and_what_is_deleted_then_is_gone(store: ResponseStore) -> None:
    queued = response(status="queued", body={"status": "queued", "output": []})
    await store.save(queued)
    cancelled = replace(queued, status="cancelled", body={"status": "cancelled", "output": []})
    first, second = await asyncio.gather(store.finish(cancelled), store.finish(response()))
    assert (first, second) == (True, False)
    assert await store.get("acct_1", "resp_1") == cancelled
    await store.save(replace(queued, id="resp_2"))
    first, second = await asyncio.gather(store.delete("acct_1", "resp_2"), store.finish(response(2)))
    assert (first, second) == (True, False)
    assert await store.get("acct_1", "resp_2") is None


async def test_old_ones_are_gone_and_swept(store: ResponseStore, database: Database, clock: HandClock) -> None:
    await store.save(response())
    clock.now_s += 1_002
    assert await store.get("acct_1", "resp_1") is None
    assert await store.chain("acct_1", "resp_1", max_bytes=100_000) is None
    await store.save(response(2_000))
    assert [row[0] for row in await database.read("SELECT id FROM responses")] == ["resp_2000"]
    assert {row[0] for row in await database.read("SELECT item_id FROM response_items")} == {"in_2000", "out_2000"}


async def test_one_is_kept_and_old_ones_are_swept_in_one_write(
    store: ResponseStore, database: Database, clock: HandClock
) -> None:
    await store.save(response())
    clock.now_s += 1_002

    def hinder(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TRIGGER stay BEFORE DELETE ON responses BEGIN SELECT RAISE (ABORT, 'stay'); END")

    await database.write(hinder)
    with pytest.raises(StorageError, match="stay"):
        await store.save(response(2_000))
    assert [row[0] for row in await database.read("SELECT id FROM responses")] == ["resp_1"]


async def test_the_oldest_go_when_space_runs_out(database: Database, clock: HandClock) -> None:
    store = ResponseStore(database, keep_s=10_000, max_total_bytes=600, clock=clock)
    for number in range(1, 6):
        clock.now_s += responses.SWEEP_INTERVAL_S + 1
        await store.save(response(number))
    newest = await left(database)
    assert newest == [f"resp_{number}" for number in range(6 - len(newest), 6)]
    assert 0 < len(newest) < 5


async def left(database: Database, account_id: str = "acct_1") -> list[str]:
    rows = await database.read("SELECT id FROM responses WHERE account_id = ? ORDER BY created_at_ms", (account_id,))
    return [row[0] for row in rows]


async def test_whoever_stores_much_pushes_out_nobody_elses(database: Database, clock: HandClock) -> None:
    store = ResponseStore(database, keep_s=10_000, max_total_bytes=2_000, clock=clock)
    for number in (1, 2):
        await store.save(response(number, account_id="acct_calm"))
    for number in range(3, 40):
        clock.now_s += responses.SWEEP_INTERVAL_S + 1
        await store.save(response(number, account_id="acct_busy"))
    assert await left(database, "acct_calm") == ["resp_1", "resp_2"]
    busy = await left(database, "acct_busy")
    assert busy == [f"resp_{number}" for number in range(40 - len(busy), 40)]
    for number in range(40, 80):
        clock.now_s += responses.SWEEP_INTERVAL_S + 1
        await store.save(response(number, account_id="acct_new"))
    assert await left(database, "acct_calm") == ["resp_1", "resp_2"]
    assert abs(len(await left(database, "acct_new")) - len(await left(database, "acct_busy"))) <= 1


async def test_what_is_swept_keeps_pace_with_what_is_stored(
    store: ResponseStore, database: Database, clock: HandClock
) -> None:
    """More come in a minute than go in one sweep."""
    await asyncio.gather(*(store.save(response(number)) for number in range(1, 302)))
    clock.now_s += 1_500
    for first in range(1_000, 1_300, 20):
        await asyncio.gather(*(store.save(response(number)) for number in range(first, first + 20)))
        clock.now_s += sweeps.REST_S * 1.01
    assert await left(database) == [f"resp_{number}" for number in range(1_000, 1_300)]


async def test_a_sweep_that_is_broken_off_goes_on_with_the_next(
    store: ResponseStore, database: Database, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "STEP_S", 0.0)
    for number in range(10):
        await store.save(response(number))
    clock.now_s += 1_500
    counts = []
    for number in range(2_000, 2_006):
        await store.save(response(number))
        counts.append(len(await left(database)))
        clock.now_s += sweeps.REST_S * 1.01
    # Where there is no time left, one goes, then two for each that has come since, until none is old.
    assert counts == [10, 9, 8, 7, 6, 6]


async def test_totals_are_those_of_what_is_there(store: ResponseStore, database: Database) -> None:
    await store.save(response(status="queued"))
    await store.finish(response(input_items=[item("in_1", "much" * 9)]))
    await store.save(response(2, account_id="acct_2"))
    await store.save(response(3))
    await store.delete("acct_1", "resp_3")
    await store.delete("acct_2", "resp_2")
    [size_bytes] = await database.read("SELECT size_bytes FROM responses")
    totals = await database.read("SELECT account_id, size_bytes FROM response_totals")
    assert totals == [("acct_1", size_bytes[0]), ("acct_2", 0)]


async def test_only_registered_processes_are_alive(store: ResponseStore, database: Database) -> None:
    assert not await store.is_alive(77)
    await register(database, 77)
    assert await store.is_alive(77)
