"""Ranges and tags as RFC 9110 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.media.ranges import Part, RangeNotSatisfiable, is_unchanged, requested_part

TAG = '"abc-64"'


def _part(header: str | None, *, total: int = 100, if_range: str | None = None) -> tuple[int, int] | None:
    part = requested_part(header, if_range, total_bytes=total, tag=TAG)
    return None if part is None else (part.start, part.end)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-99", (0, 100)),
        ("bytes=0-1000", (0, 100)),
        ("bytes=10-", (10, 100)),
        ("bytes=99-", (99, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-1000", (0, 100)),
        ("Bytes = 5-6 ", (5, 7)),
    ],
)
def test_a_single_range(header: str, expected: tuple[int, int]) -> None:
    assert _part(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes=",
        "bytes=-",
        "bytes=5",
        "bytes=6-5",
        "bytes=a-b",
        "bytes=0-1,5-6",
        "items=0-1",
        "bytes=+1-2",
        "bytes=1-2-3",
        "bytes=0x1-2",
        "bytes=1-\u0665",
        "bytes=" + "9" * 40 + "-",
    ],
)
def test_what_is_malformed_is_not_there(header: str | None) -> None:
    assert _part(header) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=500-", "bytes=-0"])
def test_beyond_the_end(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        _part(header)


def test_nothing_of_an_empty_body_can_be_had() -> None:
    with pytest.raises(RangeNotSatisfiable):
        _part("bytes=0-", total=0)


@pytest.mark.parametrize(
    ("if_range", "expected"),
    [
        (TAG, (0, 10)),
        (f" {TAG} ", (0, 10)),
        ('"other"', None),
        (f"W/{TAG}", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_if_range_asks_for_the_same_bytes(if_range: str, expected: tuple[int, int] | None) -> None:
    assert _part("bytes=0-9", if_range=if_range) == expected


def test_if_range_never_matches_without_a_tag() -> None:
    assert requested_part("bytes=0-9", TAG, total_bytes=100, tag=None) is None


@given(total=st.integers(1, 1000), first=st.integers(0, 1200), last=st.integers(0, 1200))
def test_a_part_is_never_empty_and_never_beyond_the_end(total: int, first: int, last: int) -> None:
    try:
        part = requested_part(f"bytes={first}-{last}", None, total_bytes=total, tag=TAG)
    except RangeNotSatisfiable:
        assert first >= total
        return
    if part is None:
        assert last < first
        return
    assert part == Part(start=first, end=min(last + 1, total), total_bytes=total)
    assert part.content_range == f"bytes {first}-{min(last, total - 1)}/{total}"


@pytest.mark.parametrize("header", [TAG, f"W/{TAG}", "*", f'"x", {TAG}', f'W/"y" ,{TAG} '])
def test_the_caller_has_it_already(header: str) -> None:
    assert is_unchanged(header, TAG)


@pytest.mark.parametrize("header", [None, "", '"x"', "abc-64", 'W/"abc-65"'])
def test_the_caller_has_something_else(header: str | None) -> None:
    assert not is_unchanged(header, TAG)


def test_nothing_is_unchanged_without_a_tag() -> None:
    assert not is_unchanged("*", None)
