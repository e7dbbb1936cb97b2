"""What is asked of every head that is to be remembered, signed or not (``known_heads.py``, ``signed_heads.py``)."""

from __future__ import annotations

from typing import Final

from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDictProxy

HEAD_END: Final = b"\r\n\r\n"
#: What a request begins with.
_METHOD_LETTERS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def left_of(message: RawRequestMessage, data: bytes) -> int:
    """How much is still to come of a message that the parser, between two messages, has found in ``data``, and no other
    one; -1 where more has come, or where what comes next is no message or cannot be told.
    """
    end = data.find(HEAD_END) + len(HEAD_END)
    if (
        message.chunked
        or message.should_close
        or message.upgrade
        # Then the parser may see the head's end elsewhere: an empty line in front, a line that ends otherwise.
        or data[0] not in _METHOD_LETTERS
        or data.count(b"\n", 0, end) != data.count(b"\r\n", 0, end)
    ):
        return -1
    return max(end + int(message.headers.get("Content-Length", 0)) - len(data), -1)


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
