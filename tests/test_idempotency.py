"""The gate: who is first, who waits, and what becomes of a key whose call came to nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bitmesh_proxy.billing.settlements import Settlements
from bitmesh_proxy.errors import Conflict, InvalidRequest, Unavailable
from bitmesh_proxy.idempotency import IdempotencyGate, Replay, Ticket, check_key, fingerprint_of
from bitmesh_proxy.settings import Idempotency
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.idempotency import IdempotencyStore
from tests.first_start import lay_database
from tests.storage.examples import NOON_S, open_database

ONE, OTHER = fingerprint_of("POST", "/chat", b"one"), fingerprint_of("POST", "/chat", b"other")
JSON = {"Content-Type": "application/json", "X-Bitmesh-Cost": "0.1"}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    await asyncio.to_thread(lay_database, tmp_path / "books.db")
    database = await open_database(tmp_path / "books.db")
    yield database
    await database.close()


@pytest.fixture
async def settlements() -> AsyncIterator[Settlements]:
    settlements = Settlements(first_retry_s=0.001)
    yield settlements
    await settlements.close(timeout_s=5.0)


@pytest.fixture
def gate(database: Database, settlements: Settlements) -> IdempotencyGate:
    return make_gate(database, settlements)


def make_gate(database: Database, settlements: Settlements, *, wait_timeout_s: float = 5.0) -> IdempotencyGate:
    settings = Idempotency(wait_timeout_s=wait_timeout_s, max_answer_bytes=100)
    store = IdempotencyStore(database, instance=1)
    return IdempotencyGate(store, settings, settlements=settlements, clock=lambda: NOON_S)


async def enter(gate: IdempotencyGate, *, fingerprint: bytes = ONE, request_id: str = "req_1") -> Ticket | Replay:
    return await gate.enter(key_id="key_1", idempotency_key="k", fingerprint=fingerprint, request_id=request_id)


async def enter_first(gate: IdempotencyGate) -> Ticket:
    ticket = await enter(gate)
    assert isinstance(ticket, Ticket)
    return ticket


async def test_the_second_gets_what_the_first_got(gate: IdempotencyGate) -> None:
    ticket = await enter_first(gate)
    await ticket.finish(200, JSON, b'{"a":1}')
    replay = await enter(gate, request_id="req_2")
    assert isinstance(replay, Replay)
    assert (replay.status, replay.body) == (200, b'{"a":1}')
    assert replay.headers == {**JSON, "Idempotent-Replayed": "true", "X-Bitmesh-First-Request-Id": "req_1"}


async def test_who_comes_meanwhile_waits_and_is_woken(gate: IdempotencyGate) -> None:
    ticket = await enter_first(gate)
    waiting = [asyncio.create_task(enter(gate, request_id=f"req_{number}")) for number in range(2, 5)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    await ticket.finish(200, JSON, b"{}")
    assert all(isinstance(entered, Replay) for entered in await asyncio.gather(*waiting))


async def test_when_the_first_comes_to_nothing_one_of_the_waiting_is_the_next_first(gate: IdempotencyGate) -> None:
    ticket = await enter_first(gate)
    waiting = [asyncio.create_task(enter(gate, request_id=f"req_{number}")) for number in (2, 3)]
    await asyncio.sleep(0.05)
    await ticket.abandon()
    done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (first,) = done
    next_ticket = first.result()
    assert isinstance(next_ticket, Ticket)
    assert len(pending) == 1
    await next_ticket.finish(200, JSON, b"{}")
    assert isinstance(await pending.pop(), Replay)


async def test_another_request_under_the_same_key_is_a_conflict_at_once(gate: IdempotencyGate) -> None:
    await enter_first(gate)
    with pytest.raises(Conflict):
        await enter(gate, fingerprint=OTHER)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_what_is_not_kept_is_named(gate: IdempotencyGate, is_stream: bool) -> None:
    ticket = await enter_first(gate)
    if is_stream:
        await ticket.finish_stream()
    else:
        await ticket.finish(200, JSON, b"x" * 101)
    with pytest.raises(Conflict, match="req_1"):
        await enter(gate, request_id="req_2")


async def test_a_first_call_of_another_process_is_waited_for_too(
    gate: IdempotencyGate, database: Database, settlements: Settlements
) -> None:
    ticket = await enter_first(gate)
    elsewhere = make_gate(database, settlements)
    waiting = asyncio.create_task(enter(elsewhere, request_id="req_2"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await ticket.finish(200, JSON, b"{}")
    assert isinstance(await waiting, Replay)


async def test_waiting_has_an_end(database: Database, settlements: Settlements) -> None:
    await enter_first(make_gate(database, settlements))
    impatient = make_gate(database, settlements, wait_timeout_s=0.05)
    with pytest.raises(Unavailable) as refusal:
        await enter(impatient, request_id="req_2")
    assert refusal.value.retry_after_s == 1.0  # who comes again waits here again


async def test_who_leaves_while_claiming_leaves_the_key_free(
    gate: IdempotencyGate, database: Database, settlements: Settlements
) -> None:
    """The claim is written all the same; held by nobody, it would make every later one wait in vain."""
    intruder = sqlite3.connect(database.path, isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    leaving = asyncio.create_task(enter(gate))
    await asyncio.sleep(0.05)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    intruder.execute("ROLLBACK")
    intruder.close()
    await settlements.close(timeout_s=5.0)
    assert await database.read("SELECT state FROM idempotency") == []
    assert isinstance(await enter(gate, fingerprint=OTHER), Ticket)


def test_a_fingerprint_is_of_method_path_and_body() -> None:
    parts = [("POST", "/chat", b"x"), ("PUT", "/chat", b"x"), ("POST", "/image", b"x"), ("POST", "/chat", b"y")]
    assert len({fingerprint_of(*each) for each in parts}) == 4
    assert fingerprint_of(*parts[0]) == fingerprint_of(*parts[0])


def test_keys_are_short_and_printable() -> None:
    assert check_key([]) is None
    assert check_key([" order-66 "]) == "order-66"
    for bad in ("", " ", "x" * 256, "a\x00b"):
        with pytest.raises(InvalidRequest):
            check_key([bad])


def test_a_request_has_one_key() -> None:
    assert check_key(["order-66", "order-66"]) == "order-66"
    for two in (["order-66", "order-67"], ["order-66", ""]):
        with pytest.raises(InvalidRequest, match="more than one"):
            check_key(two)
