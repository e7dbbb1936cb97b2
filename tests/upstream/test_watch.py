"""One timer for many: everybody is looked at in time, however often they come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.upstream.watch import Patience, Watch


class Handle:
    """A timer of the loop below."""

    def __init__(self, when_s: float, callback: Callable[[], None]) -> None:
        self.when_s = when_s
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Hand:
    """As much of an event loop as a watch needs, with a clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Handle] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, when_s: float, callback: Callable[[], None]) -> Handle:
        self.timers.append(Handle(when_s, callback))
        return self.timers[-1]

    def go_to(self, now_s: float) -> None:
        while due := [timer for timer in self.timers if not timer.is_cancelled and timer.when_s <= now_s]:
            timer = min(due, key=lambda each: each.when_s)
            self.timers.remove(timer)
            self.now_s = max(self.now_s, timer.when_s)
            timer.callback()
        self.timers = [timer for timer in self.timers if not timer.is_cancelled]
        self.now_s = now_s


class Seen:
    """Notes when it is looked at, and asks for another look after each of ``again_s``."""

    def __init__(self, *again_s: float) -> None:
        self.watched_s = inf
        self.looks: list[float] = []
        self._again_s = list(again_s)

    def look(self, now_s: float) -> float:
        self.looks.append(now_s)
        return now_s + self._again_s.pop(0) if self._again_s else inf


def watching() -> tuple[Watch, Hand]:
    hand = Hand()
    return Watch(cast(Any, hand)), hand


@given(dues=st.lists(st.floats(min_value=0, max_value=100), min_size=1, max_size=40))
def test_everybody_is_looked_at_when_due(dues: list[float]) -> None:
    watch, hand = watching()
    everybody = [Seen() for _ in dues]
    for seen, due_s in zip(everybody, dues, strict=True):
        watch.add(seen, due_s)
    hand.go_to(100.0)
    assert [seen.looks for seen in everybody] == [[due_s] for due_s in dues]
    assert hand.timers == []


def test_another_look_is_asked_for_by_the_answer() -> None:
    watch, hand = watching()
    seen = Seen(1.0, 2.0)
    watch.add(seen, 5.0)
    hand.go_to(20.0)
    assert seen.looks == [5.0, 6.0, 8.0]


def test_an_earlier_time_counts_and_a_later_one_waits_for_the_look() -> None:
    watch, hand = watching()
    seen = Seen()
    watch.add(seen, 5.0)
    watch.add(seen, 9.0)
    watch.add(seen, 2.0)
    hand.go_to(20.0)
    assert seen.looks == [2.0]


def test_a_timer_serves_all_who_come_later() -> None:
    watch, hand = watching()
    for number in range(100):
        watch.add(Seen(), 10.0 + number)
    assert len(hand.timers) == 1


def test_who_is_forgotten_is_not_looked_at_and_not_kept() -> None:
    watch, hand = watching()
    stays = Seen()
    watch.add(stays, 50.0)
    left = [Seen() for _ in range(10_000)]
    for gone in left:
        watch.add(gone, 60.0)
        watch.forget(gone)
    assert watch.size < 200
    hand.go_to(100.0)
    assert stays.looks == [50.0]
    assert not any(gone.looks for gone in left)
    assert watch.size == 0


def test_after_the_close_nobody_is_looked_at() -> None:
    watch, hand = watching()
    seen = Seen()
    watch.add(seen, 1.0)
    watch.close()
    hand.go_to(10.0)
    assert seen.looks == []


async def test_patience_ends_what_takes_too_long() -> None:
    loop = asyncio.get_running_loop()
    watch = Watch(loop)
    with pytest.raises(TimeoutError):
        with Patience(watch, loop.time() + 0.01):
            await asyncio.sleep(60)
    with Patience(watch, loop.time() + 60):
        await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    watch.close()


async def test_patience_leaves_a_cancellation_from_outside_alone() -> None:
    loop = asyncio.get_running_loop()
    watch = Watch(loop)

    async def wait() -> None:
        with Patience(watch, loop.time() + 0.02):
            await asyncio.sleep(60)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0.05)
    assert waiting.cancelled()
    watch.close()


async def test_the_inner_one_of_two_is_told_apart() -> None:
    loop = asyncio.get_running_loop()
    watch = Watch(loop)
    is_inner_over = False
    with Patience(watch, loop.time() + 60):
        try:
            with Patience(watch, loop.time() + 0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            is_inner_over = True
    assert is_inner_over
    watch.close()
