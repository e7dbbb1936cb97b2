"""The room that large bodies have in common: what they take of memory is counted, and beyond a bound they are refused.

One body is bounded by itself, but a few at once, or many that come slowly, would together take all the memory there is,
and the system would end the process with everybody's answers. So a body takes room as it comes, more before it is
parsed, and gives it back when its request is over. Who finds no room left is asked to come again (503).

- A body that is alone always finds room, however large it is: its own bound lets it in, and no other.
- Bodies up to ``FREE_BYTES`` are not counted: the many that there are cost nothing, and the number of connections
  bounds them.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from bitmesh_proxy.counting import occurrences
from bitmesh_proxy.errors import SOON_S, Unavailable

#: What the lane takes at most (``web/lane``).
FREE_BYTES: Final = 128 * 1024
#: What a value takes when it is parsed, by the token that comes with it. Upper bounds, not means: ``sys.getsizeof``
#: (CPython 3.11) of a dict with one entry and of an empty list, each with the collector's 16 bytes and the reference to
#: it; and of a short name and a number beside their entry in a dict that has grown.
_TOKEN_BYTES: Final = ((b"{", 256), (b"[", 80), (b",", 160))


class BodyRoom:
    """``max_bytes`` for all bodies of this process. On the event loop."""

    __slots__ = ("_max_bytes", "taken_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.taken_bytes = 0

    def take(self, size_bytes: int, *, held_bytes: int) -> None:
        """For one who holds ``held_bytes`` already. Raises Unavailable."""
        is_alone = self.taken_bytes == held_bytes
        if self.taken_bytes + size_bytes > self._max_bytes and not is_alone:
            raise Unavailable("Too many large requests at the moment. Please try again.", retry_after_s=SOON_S)
        self.taken_bytes += size_bytes


ROOM_KEY = web.AppKey("body_room", BodyRoom)


class Hold:
    """What one request's body takes of the room (None: of none)."""

    __slots__ = ("_held_bytes", "_room")

    def __init__(self, room: BodyRoom | None = None) -> None:
        self._room = room
        self._held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """So much more. Raises Unavailable."""
        if self._room is not None:
            self._room.take(size_bytes, held_bytes=self._held_bytes)
            self._held_bytes += size_bytes

    def release(self) -> None:
        """All of it. May be called twice."""
        if self._room is not None:
            self._room.taken_bytes -= self._held_bytes
        self._held_bytes = 0


def parsed_bytes(raw: bytes) -> int:
    """What a JSON body takes at most when it is parsed, and as the JSON that is made of it for the provider."""
    # A text takes up to four bytes a character, as many as its widest one needs (PEP 393), and where that is more than
    # one it keeps its UTF-8 too, once that was made of it.
    # (The first look for a backslash alone runs over base64 seventy times as fast as the second.)
    is_wide = not raw.isascii() or (b"\\" in raw and b"\\u" in raw)
    return len(raw) * (6 if is_wide else 2) + sum(occurrences(raw, token) * size for token, size in _TOKEN_BYTES)
