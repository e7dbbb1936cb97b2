"""How a bucket stands after a request was let in or turned away: what the answer's headers say."""

from __future__ import annotations

from typing import NamedTuple


class Snapshot(NamedTuple):
    """One bucket at one moment. A named tuple, because each request makes up to three.

    ``limit`` requests come back in each ``window_s``, until the bucket holds ``burst``; it takes ``reset_s`` from now.
    ``remaining`` is never above ``limit``, also where the burst is, so that readers may divide one by the other.
    ``policy`` names the limit: ``address``, ``key``, ``endpoint``.
    """

    limit: int
    remaining: int
    reset_s: float
    window_s: int
    burst: int
    policy: str
