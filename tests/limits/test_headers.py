"""Headers, read back the way clients read them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.limits.headers import (
    Snapshot,
    go_duration,
    rate_limit_headers,
    rate_limit_lines,
    retry_after,
)


def snapshot(
    limit: int = 60,
    remaining: int = 30,
    reset_s: float = 30.0,
    *,
    window_s: int = 60,
    burst: int = 60,
    policy: str = "key",
) -> Snapshot:
    return Snapshot(limit, remaining, reset_s, window_s, burst, policy)


def seconds_of(duration: str) -> float:
    """Go's duration in seconds; fails for what Go would not print."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(\d+(?:\.\d+)?)(ms|s)", duration)
    assert found is not None, duration
    hours, minutes, number, unit = found.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(number) / (1000 if unit == "ms" else 1)


def test_headers() -> None:
    assert rate_limit_headers([snapshot(reset_s=30.2)]) == {
        "RateLimit-Limit": "60",
        "RateLimit-Remaining": "30",
        "RateLimit-Reset": "31",
        "RateLimit-Policy": '60;w=60;burst=60;comment="key"',
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "30",
        "x-ratelimit-reset-requests": "30.2s",
    }


def test_the_tightest_speaks_and_all_are_listed() -> None:
    headers = rate_limit_headers(
        [snapshot(1000, 900, policy="address"), None, snapshot(5, 1, 48.0, policy="endpoint"), snapshot(600, 130)]
    )
    assert (headers["RateLimit-Limit"], headers["RateLimit-Remaining"]) == ("5", "1")
    assert headers["x-ratelimit-limit-requests"] == "5"
    assert [part.partition(";")[0] for part in headers["RateLimit-Policy"].split(", ")] == ["1000", "5", "600"]


def test_of_equals_the_slowest() -> None:
    headers = rate_limit_headers([snapshot(600, 0, 1.0), snapshot(60, 0, 60.0), snapshot(6, 0, 59.0)])
    assert (headers["RateLimit-Limit"], headers["RateLimit-Reset"]) == ("60", "60")


@pytest.mark.parametrize("snapshots", [[], [None, None]])
def test_no_limit_no_headers(snapshots: list[Snapshot | None]) -> None:
    assert rate_limit_headers(snapshots) == {}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "1"), (0.001, "1"), (1.0, "1"), (1.000001, "2"), (59.2, "60"), (86400.0, "86400")]
)
def test_retry_after(seconds: float, text: str) -> None:
    assert retry_after(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.000001, "1ms"),
        (0.012, "12ms"),
        (0.0121, "13ms"),
        (0.9999, "1s"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (8.571429, "8.572s"),
        (59.9995, "1m0s"),
        (60.25, "1m0.25s"),
        (360.0, "6m0s"),
        (3600.0, "1h0m0s"),
        (90061.05, "25h1m1.05s"),
    ],
)
def test_go_duration(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


@given(microseconds=st.integers(0, 10**13))
def test_a_duration_is_enough_and_less_than_a_millisecond_more(microseconds: int) -> None:
    read_us = round(seconds_of(go_duration(microseconds / 1_000_000)) * 1_000_000)
    assert 0 <= read_us - microseconds < 1000


_SNAPSHOTS = st.builds(
    snapshot, st.integers(1, 600), st.integers(0, 1), st.floats(0, 10_000), burst=st.integers(1, 3), policy=st.just("p")
)


@given(st.lists(st.none() | _SNAPSHOTS, max_size=3))
def test_lines_are_the_same_headers(snapshots: list[Snapshot | None]) -> None:
    headers = rate_limit_headers(snapshots)
    assert rate_limit_lines(snapshots) == "".join(f"{name}: {value}\r\n" for name, value in headers.items())


@given(st.lists(_SNAPSHOTS, min_size=1, max_size=4))
def test_the_tightest_is_the_least_by_share_and_then_the_slowest(snapshots: list[Snapshot]) -> None:
    least = min(snapshots, key=lambda each: (each.remaining / each.limit, -each.reset_s))
    headers, of_least = rate_limit_headers(snapshots), rate_limit_headers([least])
    assert {**headers, "RateLimit-Policy": ""} == {**of_least, "RateLimit-Policy": ""}
