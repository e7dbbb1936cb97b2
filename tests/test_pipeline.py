"""The line's decisions; that it is walked as it says, the journeys show."""

from __future__ import annotations

import pytest

from bitmesh_proxy.billing.bill import Ending
from bitmesh_proxy.calls import Call, ChatCall, ImageCall, VideoCall
from bitmesh_proxy.errors import (
    GatewayError,
    ProviderRefused,
    Unavailable,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from bitmesh_proxy.pipeline import ending_of, is_offers_fault, may_try_next
from bitmesh_proxy.settings import Billing
from bitmesh_proxy.upstream.progress import Progress

CHAT = ChatCall(model="m", messages=[])
IMAGE = ImageCall(model="m", prompt="x")
VIDEO = VideoCall(model="m", prompt="x")


def refused(status: int) -> ProviderRefused:
    return ProviderRefused("no", status=status)


@pytest.mark.parametrize(
    ("error", "chat", "media"),
    [
        (UpstreamUnreachable("x"), True, True),
        (UpstreamBroken("x"), True, False),
        (UpstreamTimeout("x"), False, False),
        (refused(429), True, True),
        (refused(503), True, True),
        (refused(401), True, True),
        (refused(500), True, False),
        (refused(504), True, False),
        (refused(400), False, False),
        (refused(422), False, False),
    ],
)
def test_the_next_offer_is_tried_when_nothing_can_be_paid_twice(error: UpstreamError, chat: bool, media: bool) -> None:
    assert may_try_next(CHAT, error) is chat
    assert may_try_next(IMAGE, error) is media
    assert may_try_next(VIDEO, error) is media


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (UpstreamUnreachable("x"), True),
        (UpstreamBroken("x"), True),
        (UpstreamTimeout("x"), True),
        (refused(500), True),
        (refused(429), True),
        (refused(400), False),
        (refused(422), False),
    ],
)
def test_a_bad_request_says_nothing_about_its_offer(error: UpstreamError, is_fault: bool) -> None:
    assert is_offers_fault(error) is is_fault


LEFT, COMPLETED = "caller_left", "completed"


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


def test_abandoned_media_are_the_operators_to_pay_by_setting() -> None:
    settings = Billing(charge_abandoned_media=False)
    progress = Progress(sent=True)
    assert ending_of(IMAGE, progress, outcome=LEFT, error=None, settings=settings) is Ending.UNDELIVERED
