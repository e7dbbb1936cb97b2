"""Ids of things in the books: a prefix that tells what it is, and 80 random bits in lower-case base 32."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable

RandomBytes = Callable[[int], bytes]


def make_id(prefix: str, random_bytes: RandomBytes = secrets.token_bytes) -> str:
    """``acct_`` and the like with 16 characters behind it."""
    return prefix + base64.b32encode(random_bytes(10)).decode("ascii").lower()
