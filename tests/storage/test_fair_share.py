from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing

import pytest

from bitmesh_proxy.storage.fair_share import oldest_to_go, over_fair_share


@pytest.mark.parametrize(
    ("held", "room", "over"),
    [
        ({}, 10, {}),
        ({"a": 10}, 10, {}),
        ({"a": 11}, 10, {"a": 1}),
        ({"a": 8, "b": 2}, 10, {}),
        ({"busy": 100, "calm": 4}, 10, {"busy": 94}),
        ({"busy": 100, "calm": 6}, 10, {"busy": 95, "calm": 1}),
        ({"busy": 30, "keen": 20, "calm": 1, "idle": 0}, 25, {"busy": 18, "keen": 8}),
    ],
)
def test_those_who_hold_the_most_give_way_down_to_one_level(
    held: Mapping[str, int], room: int, over: Mapping[str, int]
) -> None:
    found = over_fair_share(held, room)
    assert found == over
    assert list(found) == list(over), "the most first"
    assert sum(held.values()) - sum(found.values()) <= room


@pytest.mark.parametrize(
    ("room_bytes", "most", "going"),
    [
        (16, 9, []),
        (15, 9, [("busy", "b1")]),
        (8, 9, [("busy", "b1"), ("busy", "b2"), ("busy", "b3")]),
        (8, 2, [("busy", "b1"), ("busy", "b2")]),
        (4, 9, [("busy", "b1"), ("busy", "b2"), ("busy", "b3"), ("busy", "b4"), ("calm", "c1"), ("calm", "c2")]),
        (4, 5, [("busy", "b1"), ("busy", "b2"), ("busy", "b3"), ("busy", "b4"), ("calm", "c1")]),
    ],
)
def test_the_oldest_go_of_those_who_hold_too_much(room_bytes: int, most: int, going: list[tuple[str, str]]) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE things (owner, id, size_bytes, at)")
        things = [("busy", f"b{at}", 3, at) for at in (4, 2, 1, 3)] + [("calm", f"c{at}", 1, at) for at in (2, 4, 1, 3)]
        connection.executemany("INSERT INTO things VALUES (?, ?, ?, ?)", things)
        assert (
            oldest_to_go(
                connection,
                totals="SELECT owner, sum(size_bytes) AS size_bytes FROM things GROUP BY owner",
                oldest="SELECT id, size_bytes FROM things WHERE owner = ? ORDER BY at LIMIT ?",
                room_bytes=room_bytes,
                most=most,
            )
            == going
        )
