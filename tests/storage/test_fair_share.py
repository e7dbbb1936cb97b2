from __future__ import annotations

from collections.abc import Mapping

import pytest

from bitmesh_proxy.storage.fair_share import over_fair_share


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
