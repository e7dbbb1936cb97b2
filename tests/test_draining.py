from __future__ import annotations

from pathlib import Path

import pytest

from bitmesh_proxy import keys
from bitmesh_proxy.billing.settlements import CLOSE_TIMEOUT_S, Settlements
from bitmesh_proxy.draining import LAST_S, Draining
from bitmesh_proxy.web.responses.background import Background
from tests.hand_clock import HandClock
from tests.journeys.gateway import running_gateway


def test_all_share_one_time_and_the_last_gets_a_little() -> None:
    clock = HandClock()
    draining = Draining(20.0, clock=clock)
    clock.now_s += 100
    assert (draining.is_set(), draining.left_s()) == (False, 20.0)
    draining.set()
    clock.now_s += 15
    draining.set()  # a second signal does not begin anew
    assert (draining.is_set(), draining.left_s()) == (True, 5.0)
    clock.now_s += 15
    assert draining.left_s() == LAST_S


def test_little_time_is_not_made_longer() -> None:
    clock = HandClock()
    draining = Draining(0.5, clock=clock)
    draining.set()
    clock.now_s += 3
    assert draining.left_s() == 0.5


async def test_who_is_waited_for_last_gets_what_the_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, float]] = []

    async def close_background(_: Background, timeout_s: float) -> None:
        given.append(("background", timeout_s))
        clock.now_s += 7  # what they take

    async def close_settlements(_: Settlements, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        given.append(("settlements", timeout_s))

    monkeypatch.setattr(Background, "close", close_background)
    monkeypatch.setattr(Settlements, "close", close_settlements)
    async with running_gateway(tmp_path, {"http": {"shutdown_timeout_s": 20.0}}) as gateway:
        draining = gateway.app[keys.DRAINING]
        clock = draining._clock = HandClock()
        draining.set()
        clock.now_s += 4  # what running answers take
    # At the very end there are only settlements that nobody waits for.
    assert given == [("background", 16.0), ("settlements", 9.0), ("settlements", CLOSE_TIMEOUT_S)]
