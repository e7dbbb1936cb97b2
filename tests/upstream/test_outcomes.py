"""How a call ended decides what it costs, and whom."""

from __future__ import annotations

import msgspec
import pytest

from bitmesh_proxy.billing.bill import Ending
from bitmesh_proxy.calls import Call, ChatCall, ImageCall, Usage
from bitmesh_proxy.errors import (
    GatewayError,
    ProviderRefused,
    Unavailable,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.settings import Billing
from bitmesh_proxy.upstream.outcomes import Outcomes, ending_of
from bitmesh_proxy.upstream.progress import Progress


class Plan(msgspec.Struct):
    """What a call holds."""

    hold_nano_usd: NanoUsd


CHAT = ChatCall(model="m", messages=[])
IMAGE = ImageCall(model="m", prompt="x")


def refused(status: int) -> ProviderRefused:
    return ProviderRefused("no", status=status)


LEFT, INTERRUPTED, COMPLETED = "caller_left", "interrupted", "completed"


@pytest.mark.parametrize(
    ("call", "sent", "delivered", "outcome", "error", "ending"),
    [
        (CHAT, True, True, COMPLETED, None, Ending.COMPLETE),
        (IMAGE, True, False, COMPLETED, None, Ending.COMPLETE),
        (CHAT, False, False, LEFT, None, Ending.NOTHING),
        (CHAT, True, False, LEFT, None, Ending.UNDELIVERED),
        (CHAT, True, True, LEFT, None, Ending.CUT),
        (IMAGE, False, False, LEFT, None, Ending.NOTHING),
        (IMAGE, True, False, LEFT, None, Ending.CUT),
        (CHAT, True, False, INTERRUPTED, None, Ending.UNDELIVERED),
        (CHAT, True, True, INTERRUPTED, None, Ending.CUT),
        (IMAGE, True, False, INTERRUPTED, None, Ending.CUT),
        (CHAT, True, False, "provider_error", refused(500), Ending.NOTHING),
        (CHAT, False, False, "upstream_unreachable", UpstreamUnreachable("x"), Ending.NOTHING),
        (CHAT, True, False, "upstream_timeout", UpstreamTimeout("x"), Ending.UNDELIVERED),
        (CHAT, True, True, "upstream_broken", UpstreamBroken("x"), Ending.CUT),
        (CHAT, True, True, "provider_error", None, Ending.CUT),
        (IMAGE, True, False, "unavailable", Unavailable("x"), Ending.UNDELIVERED),
    ],
)
def test_how_a_call_ended_decides_what_it_costs_whom(
    call: Call, sent: bool, delivered: bool, outcome: str, error: GatewayError | None, ending: Ending
) -> None:
    progress = Progress(sent=sent, delivered=delivered)
    assert ending_of(call, progress, outcome=outcome, error=error, settings=Billing()) is ending


@pytest.mark.parametrize(
    ("usage", "outcome", "error", "ending"),
    [
        (None, "upstream_broken", UpstreamBroken("x"), Ending.UNDELIVERED),
        (None, "provider_error", None, Ending.UNDELIVERED),
        (None, LEFT, None, Ending.CUT),
        (Usage(images=1), "upstream_broken", UpstreamBroken("x"), Ending.CUT),
        (Usage(images=1), LEFT, None, Ending.CUT),
    ],
)
def test_sketches_of_a_picture_that_was_never_finished_are_not_charged(
    usage: Usage | None, outcome: str, error: GatewayError | None, ending: Ending
) -> None:
    progress = Progress(sent=True, delivered=True, usage=usage)
    assert ending_of(IMAGE, progress, outcome=outcome, error=error, settings=Billing()) is ending
    outcomes = Outcomes(Billing(), markup_nano=10**9)
    assert (outcomes.accrued(IMAGE, Plan(hold_nano_usd=NanoUsd(5)), progress) is None) is (usage is None)


def test_abandoned_media_are_the_operators_to_pay_by_setting() -> None:
    settings = Billing(charge_abandoned_media=False)
    progress = Progress(sent=True)
    assert ending_of(IMAGE, progress, outcome=LEFT, error=None, settings=settings) is Ending.UNDELIVERED


@pytest.mark.parametrize(("is_cutting", "said"), [(False, (499, LEFT)), (True, (503, INTERRUPTED))])
def test_what_we_break_off_at_our_own_end_nobody_has_left(is_cutting: bool, said: tuple[int, str]) -> None:
    outcomes = Outcomes(Billing(), markup_nano=10**9, is_cutting=lambda: is_cutting)
    plan = Plan(hold_nano_usd=NanoUsd(5))
    outcome = outcomes.of_broken_off(CHAT, plan, Progress(sent=True))
    assert (outcome.status, outcome.outcome) == said
