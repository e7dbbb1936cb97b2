"""Which digests have come lately."""

from __future__ import annotations

from hashlib import sha256

import pytest

from bitmesh_proxy.storage.recent import RecentDigests


def digest(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def test_a_digest_has_come_from_the_second_time_on() -> None:
    recent = RecentDigests(12)
    assert [recent.has_come(digest(1)) for _ in range(3)] == [False, True, True]


def test_few_digests_are_taken_for_others() -> None:
    recent = RecentDigests(12)
    # In most places there is another's mark by now, and one of 256 of those is the same.
    assert 0 < sum(recent.has_come(digest(number)) for number in range(50_000)) < 400


def test_what_came_last_is_known_and_what_came_long_ago_is_not() -> None:
    recent = RecentDigests(10)
    for number in range(20_000):
        recent.has_come(digest(number))
    assert sum(recent.has_come(digest(number)) for number in range(19_900, 20_000)) > 80
    assert sum(recent.has_come(digest(number)) for number in range(100)) < 10


@pytest.mark.parametrize("bits", [1, 16])
def test_all_places_are_used_and_no_other(bits: int) -> None:
    recent = RecentDigests(bits)
    for number in range(2**16):
        recent.has_come(number.to_bytes(2, "little") + b"\x07")
    assert bytes(recent._marks) == b"\x07" * 2**bits
