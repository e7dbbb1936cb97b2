"""What is asked of every head that is to be remembered, signed or not (``lane.py``, ``signed_heads.py``)."""

from __future__ import annotations

from multidict import CIMultiDictProxy


def around_length(head: bytes, length: int) -> tuple[bytes, bytes] | None:
    """What stands before the body's length and behind it; None where it cannot be told.

    Other digits may stand there before the length does, or it may be written otherwise.
    """
    before, between, behind = head.partition(b": %d\r\n" % length)
    return (before, behind) if between and before.lower().endswith(b"\r\ncontent-length") else None


def has_one_credential(headers: CIMultiDictProxy[str]) -> bool:
    """Does ``Authorization`` alone say who calls? Where another header may hold a credential too, they have to be
    compared."""
    return "X-Api-Key" not in headers and len(headers.getall("Authorization", ())) == 1
