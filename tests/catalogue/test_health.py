"""Health of offers, with a clock that is moved by hand."""

from __future__ import annotations

from bitmesh_proxy.catalogue.health import OfferHealth
from tests.hand_clock import HandClock


def test_an_offer_is_unhealthy_for_a_while_after_a_failure() -> None:
    clock = HandClock()
    health = OfferHealth(clock, 30.0)
    assert health.is_healthy("a:m")
    health.note_failure("a:m")
    assert not health.is_healthy("a:m")
    assert health.is_healthy("b:m")
    clock.now_s += 29.9
    assert not health.is_healthy("a:m")
    clock.now_s += 0.1
    assert health.is_healthy("a:m")
    assert not health.has_failures


def test_another_failure_starts_the_while_anew() -> None:
    clock = HandClock()
    health = OfferHealth(clock, 30.0)
    health.note_failure("a:m")
    clock.now_s += 20
    health.note_failure("a:m")
    clock.now_s += 20
    assert not health.is_healthy("a:m")


def test_a_success_forgives_at_once() -> None:
    health = OfferHealth(HandClock(), 30.0)
    seen = [health.has_failures]
    health.note_failure("a:m")
    seen.append(health.has_failures)
    health.note_success("a:m")
    assert [*seen, health.has_failures] == [False, True, False]
    health.note_success("never:failed")
    assert health.is_healthy("a:m")


def test_what_is_remembered_is_bounded() -> None:
    health = OfferHealth(HandClock(), 30.0, max_remembered=3)
    names = [f"a:{number}" for number in range(1_000)]
    for name in names:
        health.note_failure(name)
    assert [name for name in names if not health.is_healthy(name)] == ["a:997", "a:998", "a:999"]


def test_the_oldest_failure_is_forgotten_first() -> None:
    health = OfferHealth(HandClock(), 30.0, max_remembered=3)
    for name in ("a:m", "b:m", "c:m", "a:m", "d:m"):
        health.note_failure(name)
    assert [name for name in ("a:m", "b:m", "c:m", "d:m") if not health.is_healthy(name)] == ["a:m", "c:m", "d:m"]
