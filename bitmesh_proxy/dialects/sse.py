"""Server-sent events, read from bytes that may be cut anywhere.

Two readers on one splitter. ``EventCutter`` gives back the raw bytes of the events that are complete, for whoever only
looks for something in them (a meter). ``SseParser`` takes events apart, for whoever needs their content.

Liberal in what is read: LF, CRLF or CR, ``data:`` with or without the space, comments, several ``data:`` lines, a byte
order mark, a last event without its blank line. Without data there is no event: so some servers keep a line alive. No
regular expression, no decoding and no copy on the common way (a chunk that holds whole events ended by LF LF). Source:
HTML Living Standard, section 9.2.6, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from bitmesh_proxy.errors import UpstreamBroken

_BOM: Final = b"\xef\xbb\xbf"

#: Ends an event that has no end yet, wherever in it that is.
EVENT_END: Final = b"\n\n"

#: A picture of 4096 × 4096 in base64 arrives as one event; nothing honest is larger.
MAX_EVENT_BYTES: Final = 32 * 1024 * 1024


class Overflow(Enum):
    """What to do with an event longer than the limit."""

    RAISE = "raise"
    #: Keep only its end, as much as the limit allows: for readers that look for what stands last in an event.
    KEEP_END = "keep_end"


class EventCutter:
    """Collects bytes and hands out those of complete events, with LF as the only line end.

    Never holds more than one incomplete event, and no more of it than ``max_event_bytes``. ``has_begun``: what it gets
    is not the beginning of the stream, where a byte order mark may stand.
    """

    __slots__ = ("_buffer", "_head", "_max", "_overflow", "_searched", "_skip_lf", "_started")

    def __init__(
        self, max_event_bytes: int = MAX_EVENT_BYTES, *, overflow: Overflow = Overflow.RAISE, has_begun: bool = False
    ) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._max = max_event_bytes
        self._overflow = overflow
        self._started = has_begun
        self._head = b""
        self._skip_lf = False

    def cut(self, data: bytes) -> bytes:
        """The bytes of all events that ``data`` completes, each with its blank line; empty when there is none.

        Raises UpstreamBroken when an incomplete event grows over the limit (unless its end is kept).
        """
        if not self._started:
            data = self._without_mark(data)
        if self._skip_lf and data:
            self._skip_lf = False
            if data[0] == 0x0A:
                data = data[1:]
        if b"\r" in data:
            # A CR ends the line at once; the LF that may open the next chunk belongs to it.
            self._skip_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if not self._buffer and data.endswith(b"\n\n"):
            return data
        return self._cut_buffer(data)

    @property
    def is_holding(self) -> bool:
        """Is there an incomplete event, or something else that the next bytes have to be read with?"""
        return bool(self._buffer) or bool(self._head) or self._skip_lf or not self._started

    def rest(self) -> bytes:
        """What is left when the body has ended: an event without its blank line, or nothing. Empties the cutter."""
        left = self._head + bytes(self._buffer)
        self._buffer.clear()
        self._head = b""
        self._searched = 0
        return left

    def _cut_buffer(self, data: bytes) -> bytes:
        buffer = self._buffer
        buffer += data
        end = buffer.rfind(b"\n\n", self._searched)
        if end < 0:
            whole = b""
        else:
            whole = bytes(buffer[: end + 2])
            del buffer[: end + 2]
        if len(buffer) > self._max:
            if self._overflow is Overflow.RAISE:
                raise UpstreamBroken(f"The provider sent an event of more than {self._max} bytes.")
            del buffer[: -self._max]
        # The last byte may be the first half of a blank line.
        self._searched = max(len(buffer) - 1, 0)
        return whole

    def _without_mark(self, data: bytes) -> bytes:
        data = self._head + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._head = data
            return b""
        self._head = b""
        self._started = True
        return data.removeprefix(_BOM)


class SseParser:
    """Turns bytes into events, in order. One per stream."""

    __slots__ = ("_cutter", "_max")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._cutter = EventCutter(max_event_bytes)
        self._max = max_event_bytes

    def feed(self, data: bytes) -> Sequence[bytes]:
        """The data of the events that ``data`` completes, their lines joined by LF; their names are not needed, since
        every protocol spoken here says the same in the data. Raises UpstreamBroken for an event over the limit."""
        whole = self._cutter.cut(data)
        if not whole:
            return ()
        # Mostly it is one event of one line, or of its name and one line.
        start = whole.find(b"\n") + 1 if whole.startswith(b"event: ") else 0
        end = len(whole) - 2
        if whole.startswith(b"data: ", start) and start + 6 < whole.find(b"\n", start) == end <= self._max:
            return (whole[start + 6 : end],)
        return self._parse(whole)

    def close(self) -> list[bytes]:
        """The data of the event that the end of the body completed, where a server left out the last blank line."""
        return self._parse(self._cutter.rest())

    def _parse(self, whole: bytes) -> list[bytes]:
        events = []
        for block in whole.split(b"\n\n"):
            if not block:
                continue
            if len(block) > self._max:
                raise UpstreamBroken(f"The provider sent an event of more than {self._max} bytes.")
            data = block[6:] if block.startswith(b"data: ") and b"\n" not in block else _data_of(block)
            if data:  # what has none is no event
                events.append(data)
        return events


def _data_of(block: bytes) -> bytes:
    lines: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines)
