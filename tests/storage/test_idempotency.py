from __future__ import annotations

import asyncio

import pytest

from bitmesh_proxy.storage.accounts import Account
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.idempotency import _KEEP_CHARGED, Claimed, Existing, IdempotencyStore
from bitmesh_proxy.storage.keys import KeyRecord
from bitmesh_proxy.storage.ledger import LedgerStore
from bitmesh_proxy.storage.sweeps import REST_S
from tests.storage.examples import NOON_S, closing, opening, released

PRINT = b"f" * 32


@pytest.fixture
def store(database: Database) -> IdempotencyStore:
    return IdempotencyStore(database, instance=1, keep_s=100, max_total_bytes=1000)


async def claim(
    store: IdempotencyStore, key: str = "k", *, request_id: str = "req_1", key_id: str = "key_1", now_s: float = NOON_S
) -> Claimed | Existing:
    return await store.claim(key_id, key, fingerprint=PRINT, request_id=request_id, now_s=now_s)


async def finish(store: IdempotencyStore, key: str = "k", body: bytes = b"{}", key_id: str = "key_1") -> None:
    await store.finish(key_id, key, status=200, headers="{}", body=body)


async def kept(database: Database) -> dict[str, str]:
    return dict(await database.read("SELECT idempotency_key, state FROM idempotency"))


async def test_one_of_many_is_the_first(store: IdempotencyStore) -> None:
    found = await asyncio.gather(*(claim(store, request_id=f"req_{number}") for number in range(20)))
    firsts = [each for each in found if isinstance(each, Claimed)]
    others = [each for each in found if isinstance(each, Existing)]
    assert len(firsts) == 1
    assert {(each.state, each.fingerprint) for each in others} == {("running", PRINT)}
    assert len({each.request_id for each in others}) == 1


async def test_keys_of_different_callers_are_different(store: IdempotencyStore) -> None:
    assert isinstance(await claim(store), Claimed)
    assert isinstance(await claim(store, key_id="key_2"), Claimed)
    assert isinstance(await claim(store, key="other"), Claimed)


async def test_finished_answer_comes_back_whole(store: IdempotencyStore) -> None:
    await claim(store)
    await store.finish("key_1", "k", status=201, headers='{"A":"b"}', body=b"\0answer")
    assert await claim(store, request_id="req_2") == Existing(
        state="finished",
        fingerprint=PRINT,
        request_id="req_1",
        status=201,
        headers='{"A":"b"}',
        body=b"\0answer",
    )


async def test_stream_is_known_without_its_answer(store: IdempotencyStore) -> None:
    await claim(store)
    await store.finish_stream("key_1", "k")
    found = await claim(store)
    assert isinstance(found, Existing)
    assert (found.state, found.body, found.request_id) == ("stream", None, "req_1")


async def test_abandoned_call_may_be_tried_again(store: IdempotencyStore) -> None:
    await claim(store)
    await store.abandon("key_1", "k")
    assert isinstance(await claim(store, request_id="req_2"), Claimed)


async def test_what_has_ended_stays_as_it_ended(store: IdempotencyStore) -> None:
    await claim(store)
    await finish(store, body=b"first")
    await finish(store, body=b"second")
    await store.abandon("key_1", "k")
    found = await claim(store)
    assert isinstance(found, Existing)
    assert found.body == b"first"


async def test_after_its_time_a_key_is_new(store: IdempotencyStore) -> None:
    await claim(store)
    await finish(store)
    assert isinstance(await claim(store, now_s=NOON_S + 100), Existing)
    assert isinstance(await claim(store, now_s=NOON_S + 100.001), Claimed)


async def test_a_call_that_runs_for_longer_than_answers_are_kept_is_not_made_twice(store: IdempotencyStore) -> None:
    await claim(store)
    late_s = NOON_S + 86_400  # or the clock has leapt
    found = await claim(store, request_id="req_2", now_s=late_s)
    assert isinstance(found, Existing)
    assert (found.state, found.request_id) == ("running", "req_1")
    await finish(store)
    assert isinstance(await claim(store, now_s=late_s), Claimed)


async def test_old_rows_go(store: IdempotencyStore, database: Database) -> None:
    await claim(store, "old")
    await finish(store, "old")
    await claim(store, "new", now_s=NOON_S + 101)
    assert await kept(database) == {"new": "running"}


async def test_oldest_answers_go_when_there_are_too_many_bytes(store: IdempotencyStore, database: Database) -> None:
    for number in range(4):
        await claim(store, f"k{number}", now_s=NOON_S + number)
        await finish(store, f"k{number}", body=b"x" * 400)
    # Well within a minute of the last look: the bytes since then are what calls for one.
    await claim(store, "next", now_s=NOON_S + 5)
    assert await kept(database) == {
        "k0": "stream", "k1": "stream", "k2": "finished", "k3": "finished", "next": "running",
    }  # fmt: skip


async def test_who_keeps_much_pushes_out_nobody_elses_answers(store: IdempotencyStore, database: Database) -> None:
    await claim(store, "calm", key_id="key_2")
    await finish(store, "calm", key_id="key_2", body=b"x" * 300)
    for number in range(1, 5):
        await claim(store, f"k{number}", now_s=NOON_S + number)
        await finish(store, f"k{number}", body=b"x" * 400)
    await claim(store, "next", now_s=NOON_S + 5)
    assert await kept(database) == {
        "calm": "finished", "k1": "stream", "k2": "stream", "k3": "stream", "k4": "finished", "next": "running",
    }  # fmt: skip
    totals = await database.read("SELECT key_id, size_bytes FROM idempotency_totals")
    assert totals == [("key_1", 400), ("key_2", 300)]


async def test_totals_forget_what_is_gone(store: IdempotencyStore, database: Database) -> None:
    for number in range(2):
        await claim(store, f"k{number}")
        await finish(store, f"k{number}", body=b"x" * 20)
    await claim(store, "k1", now_s=NOON_S + 101)
    assert await database.read("SELECT key_id, size_bytes FROM idempotency_totals") == [("key_1", 0)]


async def test_old_rows_go_as_fast_as_new_ones_come(store: IdempotencyStore, database: Database) -> None:
    """More come in a minute than go in one sweep."""
    await asyncio.gather(*(claim(store, f"old{number}") for number in range(1_400)))
    await asyncio.gather(*(store.finish_stream("key_1", f"old{number}") for number in range(1_400)))
    for at in range(30):
        now_s = NOON_S + 101 + at * REST_S * 1.01
        await asyncio.gather(*(claim(store, f"new{at}-{number}", now_s=now_s) for number in range(30)))
    assert [name for name in await kept(database) if name.startswith("old")] == []


async def test_what_a_dead_process_left_is_resolved_by_its_request(
    store: IdempotencyStore, ledger: LedgerStore, account: Account, key: KeyRecord, database: Database
) -> None:
    for name in ("charged", "released", "open", "never"):
        await claim(store, name, request_id=name)
        if name != "never":
            await ledger.open_reservation(opening(name, account.id))
    await ledger.close(closing("charged", 5))
    await ledger.close(released("released"))
    other = IdempotencyStore(database, instance=2)
    await other.claim("key_1", "alive", fingerprint=PRINT, request_id="alive", now_s=NOON_S)
    assert await store.resolve_interrupted(alive=[2]) == 4
    # What was charged, or is a job that goes on, must not be done a second time.
    assert await kept(database) == {"charged": "stream", "open": "stream", "alive": "running"}


async def test_requests_of_interrupted_calls_are_found_without_reading_the_ledger(database: Database) -> None:
    plan = [row[3] for row in await database.read(f"EXPLAIN QUERY PLAN {_KEEP_CHARGED}", ("[]", None))]
    assert [step for step in plan if step.split()[1] == "requests"] == [
        "SEARCH requests USING INDEX requests_by_id (id=?)"
    ], plan
