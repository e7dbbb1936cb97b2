from __future__ import annotations

import sqlite3

from bitmesh_proxy.storage.sweeps import FOUND_ROWS, REST_S, STEP_S, NowAndThen, OftenEnough, Step
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


def test_what_was_broken_off_goes_on_a_moment_later() -> None:
    now_and_then, often = NowAndThen(60.0), OftenEnough(60.0, rows=9, room_bytes=8000)
    for sweeps in (now_and_then, often):
        assert sweeps.is_due(NOON_S)
        sweeps.go_on(NOON_S)
        assert not sweeps.is_due(NOON_S + REST_S / 2)
        assert sweeps.is_due(NOON_S + REST_S * 1.01)
        assert not sweeps.is_due(NOON_S + 60)
        assert sweeps.is_due(NOON_S + 61)


def test_twice_as_many_are_owed_as_have_come_since_it_was_broken_off() -> None:
    sweeps = OftenEnough(60.0, rows=9, room_bytes=8000)
    assert sweeps.is_due(NOON_S)
    assert sweeps.owed_rows == 0
    sweeps.note(rows=9)
    assert sweeps.is_due(NOON_S + 1)
    assert sweeps.owed_rows == 0
    sweeps.go_on(NOON_S + 1)
    sweeps.note(rows=7)
    assert sweeps.is_due(NOON_S + 2)
    assert sweeps.owed_rows == 14
    sweeps.go_on(NOON_S + 2)
    sweeps.note(rows=9)
    assert sweeps.is_due(NOON_S + 2)
    assert sweeps.owed_rows == 18
    sweeps.note(rows=9)
    assert sweeps.is_due(NOON_S + 2)
    assert sweeps.owed_rows == 0


def test_a_step_is_over_after_a_while_but_not_before_enough_has_gone() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE things (number INTEGER)")
    connection.executemany("INSERT INTO things VALUES (?)", [(number,) for number in range(20)])
    times_s = iter(number * STEP_S * 0.3 for number in range(100))

    def left_after(step: Step) -> list[int]:
        all_gone = step.execute(connection, "DELETE FROM things WHERE number = ?", rows())
        assert all_gone == (not rows())
        return [number for (number,) in rows()]

    def rows() -> list[tuple[int]]:
        return connection.execute("SELECT number FROM things ORDER BY number").fetchall()

    assert left_after(Step(least=0, clock=lambda: next(times_s))) == list(range(3, 20))
    assert left_after(Step(least=6, clock=lambda: next(times_s))) == list(range(12, 20))
    noted = Step(least=6, clock=lambda: next(times_s))
    noted.note(6)
    assert left_after(noted) == list(range(15, 20))
    assert left_after(Step(least=0, clock=lambda: 1.0)) == []


def test_a_step_whose_time_went_into_finding_gets_on_all_the_same() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE things (number INTEGER)")
    connection.executemany("INSERT INTO things VALUES (?)", [(number,) for number in range(FOUND_ROWS * 2)])
    now_s, slow_s, asked = 0.0, STEP_S * 3, []

    def find(most: int) -> list[tuple[int]]:
        nonlocal now_s
        now_s += slow_s
        asked.append(most)
        return connection.execute("SELECT number FROM things ORDER BY number LIMIT ?", (most,)).fetchall()

    def step() -> tuple[bool, int]:
        is_done = Step(least=0, clock=lambda: now_s).execute_found(
            connection, "DELETE FROM things WHERE number = ?", find
        )
        return is_done, connection.execute("SELECT count(*) FROM things").fetchone()[0]

    assert [step(), step()] == [(False, FOUND_ROWS * 2 - 1), (False, FOUND_ROWS * 2 - 2)]
    slow_s = 0.0
    assert step() == (True, 0)
    assert set(asked) == {FOUND_ROWS}, "never for many at once"
    assert step() == (True, 0)
