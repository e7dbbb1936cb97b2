from __future__ import annotations

from bitmesh_proxy.storage.sweeps import NowAndThen, OftenEnough
from tests.storage.examples import NOON_S


def test_it_is_due_at_first_and_once_in_an_interval() -> None:
    sweeps = NowAndThen(60.0)
    moments = [0.0, 0.0, 59.5, 60.0, 61.0, 119.5, 500.0, 559.5, 560.0]
    assert [sweeps.is_due(NOON_S + each) for each in moments] == [
        True, False, False, True, False, False, True, False, True,
    ]  # fmt: skip


def test_another_reason_comes_before_the_time_and_puts_it_off() -> None:
    sweeps = NowAndThen(60.0)
    assert sweeps.is_due(NOON_S)
    assert sweeps.is_due(NOON_S + 30, at_once=True)
    assert not sweeps.is_due(NOON_S + 60)
    assert sweeps.is_due(NOON_S + 90)


def test_a_clock_that_was_ahead_puts_nothing_off() -> None:
    sweeps = NowAndThen(60.0)
    assert sweeps.is_due(NOON_S + 86_400)
    assert sweeps.is_due(NOON_S)
    assert not sweeps.is_due(NOON_S + 30)


def test_each_has_its_own_times() -> None:
    one, other = NowAndThen(60.0), NowAndThen(60.0)
    assert one.is_due(NOON_S)
    assert other.is_due(NOON_S)


def test_it_comes_sooner_where_much_has_come() -> None:
    sweeps = OftenEnough(60.0, rows=3, room_bytes=80)
    assert sweeps.is_due(NOON_S)
    sweeps.note(rows=2, size_bytes=9)
    assert not sweeps.is_due(NOON_S + 1)
    sweeps.note(rows=1)
    assert sweeps.is_due(NOON_S + 2)
    sweeps.note(size_bytes=10)
    assert sweeps.is_due(NOON_S + 3)
    sweeps.note(rows=2, size_bytes=9)
    assert not sweeps.is_due(NOON_S + 62.5)
    assert sweeps.is_due(NOON_S + 63)
