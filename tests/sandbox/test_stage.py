"""What all plays share."""

from __future__ import annotations

import random

from bitmesh_proxy.sandbox.faults import Faults
from bitmesh_proxy.sandbox.stage import ID_ALPHABET, Options, make_stage
from tests.hand_clock import HandClock


def test_ids_come_from_the_chance_given() -> None:
    one, other = (make_stage(HandClock(), Faults(), Options(), random.Random(3)) for _ in range(2))
    assert one.new_id(16) == other.new_id(16)
    assert len(one.new_id(16)) == 16
    assert set(one.new_id(1000)) <= set(ID_ALPHABET)
    assert set(one.new_id(100, "01")) == {"0", "1"}


def test_times_are_the_clocks() -> None:
    clock = HandClock(12.9)
    stage = make_stage(clock, Faults(), Options(), random.Random(3))
    assert (stage.now(), stage.clock()) == (12, 12.9)
