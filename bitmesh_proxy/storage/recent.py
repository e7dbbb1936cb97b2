"""Which digests have come lately, in a few kilobytes, so that only what comes again is kept in memory.

With a hundred thousand keys nearly every call is the first of its key for a long time. To keep something for each of
them costs more than it brings: what is made for one call lies in warm memory and is thrown away at once, what is kept
goes to cold memory and pushes out what others need. So things are kept from the second time on.
"""

from __future__ import annotations


class RecentDigests:
    """Remembers one byte of a digest in each of ``2 ** bits`` places (1 to 16), so that a later one takes the place of
    an earlier one. It may be wrong, seldom: use it where that only costs time."""

    def __init__(self, bits: int) -> None:
        self._mask = (1 << bits) - 1
        self._marks = bytearray(1 << bits)

    def has_come(self, digest: bytes) -> bool:
        """Has this digest (3 bytes or more, evenly distributed) come lately? From now on it has."""
        place, mark = (digest[0] | digest[1] << 8) & self._mask, digest[2]
        marks = self._marks
        if marks[place] == mark:
            return True
        marks[place] = mark
        return False
