"""The limit of a key at one endpoint."""

from __future__ import annotations

import pytest

from bitmesh_proxy.errors import RateLimited
from bitmesh_proxy.limits.per_endpoint import EndpointLimit
from bitmesh_proxy.limits.token_bucket import BucketMemoryStorage
from tests.hand_clock import HandClock


def test_each_key_and_endpoint_for_itself() -> None:
    clock = HandClock()
    buckets = BucketMemoryStorage(clock=clock)
    limit = EndpointLimit({"video": 2, "image": 2}, buckets=buckets)
    for key_id in ("key_a", "key_b"):
        for endpoint in ("video", "image"):
            first, second = limit.admit(key_id, endpoint), limit.admit(key_id, endpoint)
            assert first is not None
            assert second is not None
            assert (first.remaining, second.remaining, first.policy) == (1, 0, "endpoint")
            with pytest.raises(RateLimited, match=f"to {endpoint} with this API key: 2 per minute"):
                limit.admit(key_id, endpoint)
    clock.now_s += 30
    assert limit.admit("key_a", "video") is not None


@pytest.mark.parametrize("rates", [{}, {"video": 0}, {"chat": 5}])
def test_endpoints_without_a_rate_have_no_limit(rates: dict[str, int]) -> None:
    limit = EndpointLimit(rates)
    assert [limit.admit("key_a", "video") for _ in range(10)] == [None] * 10


def test_a_bucket_that_is_kept_is_the_keys_at_this_endpoint() -> None:
    limit = EndpointLimit({"video": 2, "image": 2}, buckets=BucketMemoryStorage(clock=HandClock()))
    bucket = limit.bucket("key_a", "video")
    assert bucket is not None
    assert bucket.limit.take(bucket.key) >= 0
    for key_id, endpoint in (("key_a", "video"), ("key_a", "image"), ("key_b", "video")):
        assert limit.admit(key_id, endpoint) is not None
    assert bucket.limit.take(bucket.key) == -1
    with pytest.raises(RateLimited, match="to video with this API key"):
        bucket.limit.admit(bucket.identifier)
    assert limit.bucket("key_a", "chat") is None
