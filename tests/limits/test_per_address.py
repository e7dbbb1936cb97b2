"""The limit before authentication."""

from __future__ import annotations

import pytest

from bitmesh_proxy.errors import RateLimited
from bitmesh_proxy.limits.per_address import AddressLimit, address_group
from bitmesh_proxy.limits.token_bucket import BucketMemoryStorage
from tests.hand_clock import HandClock


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:0DB8:0001:0002::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unknown", "unknown"),
        ("x" * 1000, "x" * 64),
    ],
)
def test_what_shares_a_bucket(address: str, group: str) -> None:
    assert address_group(address) == group


def test_admission() -> None:
    clock = HandClock()
    limit = AddressLimit(60, burst=2, buckets=BucketMemoryStorage(clock=clock))
    snapshot = limit.admit("2001:db8::1")
    assert snapshot is not None
    assert (snapshot.policy, snapshot.limit, snapshot.remaining) == ("address", 60, 1)
    limit.admit("2001:db8::2")
    with pytest.raises(RateLimited, match="from this address") as refusal:
        limit.admit("2001:db8::3")
    limit.admit("2001:db8:0:1::1")
    clock.now_s += refusal.value.retry_after_s
    limit.admit("2001:db8::4")


def test_off() -> None:
    limit = AddressLimit(0, burst=5)
    assert [limit.admit("192.0.2.1") for _ in range(10)] == [None] * 10


def test_without_a_burst_a_minutes_worth() -> None:
    limit = AddressLimit(3, buckets=BucketMemoryStorage(clock=HandClock()))
    for _ in range(3):
        limit.admit("192.0.2.1")
    with pytest.raises(RateLimited):
        limit.admit("192.0.2.1")


def test_a_bucket_that_is_kept_is_the_groups() -> None:
    limit = AddressLimit(3, buckets=BucketMemoryStorage(clock=HandClock()))
    one, other = limit.bucket("2001:db8::1"), limit.bucket("2001:db8::2")
    assert one is not None
    assert other is not None
    assert (one.limit.take(one.key) >= 0, other.limit.take(other.key) >= 0) == (True, True)
    limit.admit("2001:db8::3")
    assert (one.limit.take(one.key), other.limit.take(other.key)) == (-1, -1)
    with pytest.raises(RateLimited, match="from this address"):
        one.limit.admit(one.identifier)
    assert AddressLimit(0).bucket("192.0.2.1") is None
