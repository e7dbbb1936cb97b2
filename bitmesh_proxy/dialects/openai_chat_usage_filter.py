"""Takes the chunk with the usage out of a stream whose caller did not ask for it.

We ask OpenAI's servers for usage in every stream, for the books; clients that did not are not made for a chunk without
choices. Every other byte passes as it came. Only the beginning of an event that is still incomplete waits for its end:
no client could have read it any earlier.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

#: An event that is longer is no usage chunk, and passes without waiting for its end.
MAX_HELD_BYTES: Final = 16 * 1024

_END_OF_EVENT: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')


class UsageChunkFilter:
    """One per stream."""

    __slots__ = ("_held", "_is_in_long_event")

    def __init__(self) -> None:
        self._held = b""
        #: The beginning of the event at hand has been passed on already.
        self._is_in_long_event = False

    def feed(self, data: bytes) -> bytes:
        """What of the stream may go to the caller now."""
        is_at_start = not self._held and not self._is_in_long_event
        if is_at_start and data.endswith(b"\n\n") and (b'"usage"' not in data or not _NO_CHOICES.search(data)):
            return data  # the common way: whole events, none of them the one
        data = self._held + data
        passed: list[bytes] = []
        start = 0
        for end in _ends_of_events(data):
            event = data[start:end]
            if self._is_in_long_event or not _is_usage_chunk(event):
                passed.append(event)
            self._is_in_long_event = False
            start = end
        rest = data[start:]
        if self._is_in_long_event or len(rest) > MAX_HELD_BYTES:
            self._is_in_long_event = True
            # The last bytes may be the first half of an event's end.
            keep = 3 if rest[-3:].strip(b"\r\n") != rest[-3:] else 0
            passed.append(rest[: len(rest) - keep])
            rest = rest[len(rest) - keep :]
        self._held = rest
        return b"".join(passed)

    def close(self) -> bytes:
        """What is left when the stream has ended."""
        rest, self._held = self._held, b""
        return b"" if not self._is_in_long_event and _is_usage_chunk(rest) else rest


def _ends_of_events(data: bytes) -> Iterator[int]:
    """Where the events end that are whole."""
    if b"\r" in data:  # no provider's that we know of; the pattern takes eight times as long
        for match in _END_OF_EVENT.finditer(data):
            yield match.end()
        return
    end = 0
    while (found := data.find(b"\n\n", end)) >= 0:
        end = found + 2
        yield end


def _is_usage_chunk(event: bytes) -> bool:
    return b'"usage"' in event and _NO_CHOICES.search(event) is not None
