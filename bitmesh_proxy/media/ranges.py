"""Which part of a body a request asks for (RFC 9110, sections 13 and 14). Pure.

Single ranges only: for several the whole is sent, as the RFC allows. Tags are strong, because an id never means other
bytes; so dates are not needed, and an ``If-Range`` with a date never matches.
"""

from __future__ import annotations

import re

import msgspec

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))[ \t]*", re.ASCII | re.IGNORECASE)


class RangeNotSatisfiable(Exception):
    """The part that is asked for lies beyond the end (416)."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes from ``start`` up to ``end`` (not included) of ``total_bytes``."""

    start: int
    end: int
    total_bytes: int

    @property
    def content_range(self) -> str:
        """The value of ``Content-Range``."""
        return f"bytes {self.start}-{self.end - 1}/{self.total_bytes}"


def requested_part(header: str | None, if_range: str | None, *, total_bytes: int, tag: str | None) -> Part | None:
    """The part that ``Range`` asks for, None for the whole body. Raises RangeNotSatisfiable.

    A header that is malformed, in another unit or for several ranges is not there, as the RFC has it; so is one whose
    ``If-Range`` names other bytes.
    """
    match = _RANGE.fullmatch(header.strip()) if header is not None else None
    if match is None or (if_range is not None and if_range.strip() != tag):
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(0, total_bytes - int(suffix)), total_bytes
    else:
        start = int(first)
        if last and int(last) < start:
            return None
        end = min(int(last) + 1, total_bytes) if last else total_bytes
    if start >= end:
        raise RangeNotSatisfiable
    return Part(start=start, end=end, total_bytes=total_bytes)


def is_unchanged(if_none_match: str | None, tag: str | None) -> bool:
    """Does the caller have these bytes already (304)? The comparison is the weak one."""
    if if_none_match is None or tag is None:
        return False
    if if_none_match.strip() == "*":
        return True
    return any(entry.strip().removeprefix("W/") == tag for entry in if_none_match.split(","))
