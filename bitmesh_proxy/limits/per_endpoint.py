"""A bucket for each API key and endpoint, for endpoints that have a rate of their own."""

from __future__ import annotations

from collections.abc import Mapping

from bitmesh_proxy.limits.base import Bucket, Limit, Snapshot, memory_buckets, per_minute
from bitmesh_proxy.limits.token_bucket import TokenBucketSupport


class EndpointLimit:
    """``rates_per_minute`` maps an endpoint's name to requests per minute and key, all of which may come at once.

    An endpoint that is not named, or whose rate is 0, has no limit.
    """

    def __init__(self, rates_per_minute: Mapping[str, int], *, buckets: TokenBucketSupport | None = None) -> None:
        #: By the endpoint's name.
        self.limits = {
            endpoint: Limit(
                buckets or memory_buckets(),
                per_minute(rate),
                policy="endpoint",
                who=f"to {endpoint} with this API key",
                part=endpoint,
                own=buckets is None,
            )
            for endpoint, rate in rates_per_minute.items()
            if rate
        }

    def admit(self, key_id: str, endpoint: str) -> Snapshot | None:
        """Enter; None if the endpoint has no limit. Raises RateLimited."""
        limit = self.limits.get(endpoint)
        return limit.admit(key_id) if limit else None

    def bucket(self, key_id: str, endpoint: str) -> Bucket | None:
        """The key's bucket at this endpoint, for whoever admits it often; None if the endpoint has no limit."""
        limit = self.limits.get(endpoint)
        return limit.bucket(key_id) if limit else None
