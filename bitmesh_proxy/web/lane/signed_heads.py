"""Heads of signed requests: from one to the next, the signature and the payload signature change, and nothing else.

So a head is remembered without the values of those two headers, and without the length of its body. One that has the
same bytes around them says the same but for them; what stands in them is read as the plain way reads it. That goes for
the usual spelling of both headers, and values of visible characters: any other head is the parser's to read.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

from aiohttp.http_parser import RawRequestMessage

from bitmesh_proxy.auth.oauth_header import OAuthHeader, parse_header
from bitmesh_proxy.auth.payload_signature import HEADER
from bitmesh_proxy.errors import AuthenticationFailed
from bitmesh_proxy.web.lane.heads import around_length, has_one_credential

#: What is remembered; then heads are learnt anew. Each is as short as the lane wants it.
MAX_SIGNED_HEADS: Final = 256

_AUTHORIZATION: Final = b"\r\nAuthorization: "
_PAYLOAD_SIGNATURE: Final = f"\r\n{HEADER}: ".encode()
#: No blanks at the ends, which the parser takes away.
_OAUTH: Final = re.compile(rb"OAuth [ -~]*[!-~]")
_VISIBLE: Final = re.compile(rb"[!-~]{1,256}")

T = TypeVar("T")


class SignedHeads(Generic[T]):
    """Remembers a thing with each head. ``peer`` is whom it is from: others may mean something else by the same."""

    def __init__(self) -> None:
        #: By the peer, and by what stands before the body's length and behind it.
        self._around: dict[tuple[str | None, bytes, bytes], T] = {}

    def remember(self, message: RawRequestMessage, head: bytes, length: int, *, peer: str | None, what: T) -> None:
        """That the parser has made this message of a head, and that it has a body of so many bytes."""
        headers = message.headers
        if (
            not has_one_credential(headers)
            or len(headers.getall(HEADER, ())) != 1
            or (found := _without_values(head)) is None
            or (around := around_length(found[0], length)) is None
        ):
            return
        if len(self._around) >= MAX_SIGNED_HEADS:
            self._around.clear()
        self._around[peer, *around] = what

    def recall(self, head: bytes, length: int, peer: str | None) -> tuple[T, OAuthHeader, str] | None:
        """What was remembered with a head that is the same, its signature, and its payload signature. None, too, for a
        signature that cannot be read: the plain way has the words for that."""
        found = _without_values(head)
        if found is None:
            return None
        before, _, behind = found[0].partition(b": %d\r\n" % length)
        what = self._around.get((peer, before, behind))
        if what is None:
            return None
        try:
            return what, parse_header(found[1].decode("ascii")), found[2].decode("ascii")
        except AuthenticationFailed:
            return None


def _without_values(head: bytes) -> tuple[bytes, bytes, bytes] | None:
    """The head without the two headers' values, and those. Each ends with its line, so that nothing else is cut."""
    start = head.find(_AUTHORIZATION) + len(_AUTHORIZATION)
    other = head.find(_PAYLOAD_SIGNATURE) + len(_PAYLOAD_SIGNATURE)
    if start < len(_AUTHORIZATION) or other < len(_PAYLOAD_SIGNATURE):
        return None
    end, other_end = head.find(b"\r\n", start), head.find(b"\r\n", other)
    authorization, payload_signature = head[start:end], head[other:other_end]
    if _OAUTH.fullmatch(authorization) is None or _VISIBLE.fullmatch(payload_signature) is None:
        return None
    if start < other:
        rest = head[:start] + head[end:other] + head[other_end:]
    else:
        rest = head[:other] + head[other_end:start] + head[end:]
    return rest, authorization, payload_signature
