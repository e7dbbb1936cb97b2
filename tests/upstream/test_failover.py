"""When another offer may be tried, and when a failure speaks against the offer."""

from __future__ import annotations

import pytest

from bitmesh_proxy.calls import ChatCall, ImageCall, VideoCall
from bitmesh_proxy.errors import ProviderRefused, UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from bitmesh_proxy.upstream.failover import is_offers_fault, may_try_next

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
