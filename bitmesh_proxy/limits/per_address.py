"""A bucket for each address, before anything that costs more is done for it.

Who has one IPv6 address usually has the whole /64 (RFC 6177), so that is what shares a bucket. An IPv4 address written
as IPv6 (``::ffff:192.0.2.1``, as a dual-stack socket sees it) is the IPv4 address.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from bitmesh_proxy.limits.base import Bucket, Limit, Snapshot, memory_buckets, per_minute
from bitmesh_proxy.limits.token_bucket import TokenBucketSupport

_HOST_BITS = 64
_MAX_TEXT_CHARS = 64


class AddressLimit:
    """``rate_per_minute`` requests from each address, ``burst`` at once (0: a minute's worth). Rate 0 is no limit."""

    def __init__(self, rate_per_minute: int, *, burst: int = 0, buckets: TokenBucketSupport | None = None) -> None:
        #: By the address's group; None if there is none.
        self.limit = (
            Limit(
                buckets or memory_buckets(),
                per_minute(rate_per_minute),
                policy="address",
                who="from this address",
                burst=burst,
                own=buckets is None,
            )
            if rate_per_minute
            else None
        )

    def admit(self, address: str) -> Snapshot | None:
        """Enter; None if there is no limit. Raises RateLimited."""
        return self.limit.admit(address_group(address)) if self.limit else None

    def bucket(self, address: str) -> Bucket | None:
        """The address's bucket, for whoever admits it often; None if there is no limit."""
        return self.limit.bucket(address_group(address)) if self.limit else None


@lru_cache(maxsize=4096)  # reading an address costs more than the bucket
def address_group(address: str) -> str:
    """What shares a bucket: an IPv4 address, or an IPv6 /64.

    Anything else (the empty name of a unix socket, whatever a trusted proxy forwards) is a group by its text.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:_MAX_TEXT_CHARS]
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{IPv6Address(int(parsed) >> _HOST_BITS << _HOST_BITS)}/64"
