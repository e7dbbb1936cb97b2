from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bitmesh_proxy.billing.accruals import MOST_PARTS, PART_CALLS, Accruals
from bitmesh_proxy.billing.reservation import Books
from bitmesh_proxy.context import Caller
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.ledger import Accrued, LedgerStore
from tests.billing.test_reservation import ACCRUED, DONE, Lock, reserve, row_of


class KeptNotes:
    """A ledger that keeps what it is told, and how many rows at a time."""

    def __init__(self) -> None:
        self.told: dict[str, Accrued] = {}
        self.sizes: list[int] = []
        self.troubles: list[Exception] = []
        self.wanted = 0
        self.has_all = asyncio.Event()

    async def checkpoint(self, accrued: dict[str, Accrued]) -> None:
        if self.troubles:
            raise self.troubles.pop()
        self.told |= accrued
        self.sizes.append(len(accrued))
        if len(self.told) == self.wanted:
            self.has_all.set()


@pytest.fixture
def kept() -> KeptNotes:
    return KeptNotes()


@pytest.fixture
def accruals(kept: KeptNotes) -> Accruals:
    return Accruals(kept)  # type: ignore[arg-type]  # has what is asked of it


def delivered(amount: int) -> Callable[[], Accrued]:
    return lambda: Accrued(cost_nano_usd=NanoUsd(amount), charge_nano_usd=NanoUsd(amount))


async def test_running_calls_are_noted_when_they_move(books: Books, caller: Caller, ledger: LedgerStore) -> None:
    now: Accrued | None = None
    asked = 0

    def accrued() -> Accrued | None:
        nonlocal asked
        asked += 1
        return now

    async with reserve(books, caller) as reservation:
        books.watch(reservation, accrued)
        await books.accruals.note()
        assert (await row_of(ledger)).accrued_charge_nano_usd == 0
        now = ACCRUED
        await books.accruals.note()
        row = await row_of(ledger)
        assert (row.accrued_cost_nano_usd, row.accrued_charge_nano_usd) == (30, 40)
        await reservation.settle(DONE)
    asked = 0
    await books.accruals.note()
    assert asked == 0


async def test_note_that_could_not_be_written_is_written_later(
    books: Books, caller: Caller, ledger: LedgerStore, path: Path
) -> None:
    async with reserve(books, caller) as reservation:
        books.watch(reservation, lambda: ACCRUED)
        lock = Lock(path)
        await books.accruals.note()
        lock.release()
        assert (await row_of(ledger)).accrued_charge_nano_usd == 0
        await books.accruals.note()
        assert (await row_of(ledger)).accrued_charge_nano_usd == 40
        await reservation.settle(DONE)


@pytest.mark.parametrize("trouble", [Unavailable("The disk is full."), StorageError("a fault of ours")])
async def test_trouble_with_the_books_does_not_end_it(
    trouble: Exception, accruals: Accruals, kept: KeptNotes, caplog: pytest.LogCaptureFixture
) -> None:
    kept.troubles.append(trouble)
    kept.wanted = 1
    accruals.watched["call"] = delivered(3)
    noting = asyncio.create_task(accruals.note_forever(0.001))
    try:
        await asyncio.wait_for(kept.has_all.wait(), 20)
    finally:
        noting.cancel()
    assert str(trouble) in caplog.messages[0]


async def test_what_has_not_moved_is_not_written_again(accruals: Accruals, kept: KeptNotes) -> None:
    accruals.watched |= {"still": delivered(1), "moving": lambda: delivered(len(kept.sizes) + 1)()}
    await accruals.note()
    await accruals.note()
    assert kept.sizes == [2, 1]
    assert kept.told["moving"].cost_nano_usd == 2


async def test_those_looked_at_longest_ago_come_first(accruals: Accruals, kept: KeptNotes) -> None:
    asked: list[str] = []

    def tells(name: str) -> Callable[[], None]:
        return lambda: asked.append(name)

    accruals.watched |= {name: tells(name) for name in "abcde"}
    await accruals.note(2)
    accruals.watched["new"] = tells("new")
    accruals.forget("d")
    await accruals.note(2)
    await accruals.note(3)
    assert asked == ["a", "b", "c", "e", "a", "b", "new"]
    assert kept.sizes == []  # nobody has delivered anything


async def test_one_that_cannot_tell_does_not_keep_others_from_it(
    accruals: Accruals, kept: KeptNotes, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Accrued:
        raise ZeroDivisionError("a fault of ours")

    accruals.watched |= {"broken": broken, "whole": delivered(5)}
    await accruals.note()
    assert set(kept.told) == {"whole"}
    assert "broken" not in accruals.watched  # or it would say so every second
    assert [(each.levelno, getattr(each, "request_id", "")) for each in caplog.records] == [(logging.ERROR, "broken")]


@pytest.mark.parametrize(("calls", "largest"), [(3, 3), (500, PART_CALLS), (4000, 4000 // MOST_PARTS)])
async def test_many_are_noted_in_parts(calls: int, largest: int, accruals: Accruals, kept: KeptNotes) -> None:
    accruals.watched |= {f"r{number}": delivered(number) for number in range(calls)}
    kept.wanted = calls
    noting = asyncio.create_task(accruals.note_forever(0.01))
    try:
        await asyncio.wait_for(kept.has_all.wait(), 20)
    finally:
        noting.cancel()
    assert max(kept.sizes) == largest
    assert {name: each.charge_nano_usd for name, each in kept.told.items()} == {f"r{n}": n for n in range(calls)}


async def test_those_that_go_while_they_are_written_are_forgotten(
    books: Books, caller: Caller, ledger: LedgerStore
) -> None:
    names = [f"req_{number}" for number in range(70)]
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(reserve(books, caller, name, hold=NanoUsd(100))) for name in names]
        for reservation in running:
            books.watch(reservation, lambda: ACCRUED)
        noting = asyncio.create_task(books.accruals.note())
        await asyncio.sleep(0)  # they are on their way
        books.forget(running[0])
        await noting
        assert [(await row_of(ledger, name)).accrued_charge_nano_usd for name in names] == [40] * 70
        assert len(books.accruals._noted) == 69
        for reservation in running:
            await reservation.settle(DONE)
