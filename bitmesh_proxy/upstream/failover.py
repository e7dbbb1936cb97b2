"""Whether another offer may be tried after one has failed, and whether the failure speaks against the offer."""

from __future__ import annotations

from bitmesh_proxy.calls import Call, ChatCall
from bitmesh_proxy.errors import ProviderRefused, UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnreachable


def is_offers_fault(error: UpstreamError) -> bool:
    """Does the failure speak against the offer, rather than against this one request?"""
    if isinstance(error, ProviderRefused):
        return error.may_fail_over
    return isinstance(error, UpstreamUnreachable | UpstreamBroken | UpstreamTimeout)


def may_try_next(call: Call, error: UpstreamError) -> bool:
    """May another offer be tried without paying twice?

    Chat: whenever the offer failed and did not just stay silent. Media: only when surely nothing was begun, because a
    picture or clip that a provider began is billed whether or not its answer arrived.
    """
    if isinstance(error, UpstreamUnreachable):
        return True
    if isinstance(error, ProviderRefused):
        if isinstance(call, ChatCall):
            return error.may_fail_over
        return error.provider_status in (401, 402, 403, 404, 429, 503)
    return isinstance(call, ChatCall) and isinstance(error, UpstreamBroken)
