"""Every reason why a fetch failed has an answer for the caller, and none says where the link led."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bitmesh_proxy.calls import ImageCall
from bitmesh_proxy.errors import (
    BodyTooLarge,
    GatewayError,
    InvalidRequest,
    UpstreamBroken,
    UpstreamError,
    UpstreamTimeout,
)
from bitmesh_proxy.media.fetch_errors import (
    FetchBroken,
    FetchError,
    FetchGone,
    FetchNotMedia,
    FetchRefused,
    FetchTimedOut,
    FetchTooLarge,
    FetchUnreachable,
    as_gateway_error,
)
from bitmesh_proxy.upstream.failover import may_try_next

AS_PROVIDERS: dict[type[FetchError], type[GatewayError]] = {
    FetchRefused: UpstreamBroken,
    FetchUnreachable: UpstreamBroken,
    FetchTimedOut: UpstreamTimeout,
    FetchTooLarge: UpstreamBroken,
    FetchBroken: UpstreamBroken,
    FetchNotMedia: UpstreamBroken,
    FetchGone: UpstreamBroken,
}
AS_CALLERS: dict[type[FetchError], type[GatewayError]] = {
    FetchRefused: InvalidRequest,
    FetchUnreachable: InvalidRequest,
    FetchTimedOut: UpstreamTimeout,
    FetchTooLarge: BodyTooLarge,
    FetchBroken: InvalidRequest,
    FetchNotMedia: InvalidRequest,
    FetchGone: InvalidRequest,
}


def _all(of: type[FetchError]) -> Iterator[type[FetchError]]:
    for error in of.__subclasses__():
        yield error
        yield from _all(error)


def test_no_reason_is_forgotten() -> None:
    assert set(_all(FetchError)) == set(AS_PROVIDERS) == set(AS_CALLERS)


@pytest.mark.parametrize(("error", "expected"), AS_PROVIDERS.items())
def test_a_providers_link_is_the_providers_fault(error: type[FetchError], expected: type[GatewayError]) -> None:
    answer = as_gateway_error(error("why"))
    assert type(answer) is expected
    assert (answer.message, answer.param) == ("The provider's result cannot be fetched: why.", None)


@pytest.mark.parametrize("error", AS_PROVIDERS)
def test_what_cannot_be_fetched_has_been_made_and_is_not_made_again_elsewhere(error: type[FetchError]) -> None:
    answer = as_gateway_error(error("why"))
    assert isinstance(answer, UpstreamError)
    assert not may_try_next(ImageCall(model="m", prompt="p"), answer)


@pytest.mark.parametrize(("error", "expected"), AS_CALLERS.items())
def test_a_callers_link_is_the_callers_to_mend(error: type[FetchError], expected: type[GatewayError]) -> None:
    answer = as_gateway_error(error("why"), param="image_url")
    assert type(answer) is expected
    assert (answer.message, answer.param) == ("The link in 'image_url' cannot be fetched: why.", "image_url")
