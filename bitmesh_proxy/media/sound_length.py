"""How long a sound is, where its container says it plainly: WAV files of uncompressed samples. Pure.

Their size says nothing of their length (a second is 8 KB or 192), so that an estimate from it may be far off. What
others say of themselves (FLAC, MP4) a sender could make up; here sender and whoever decodes it go by the same figures.
"""

from __future__ import annotations

import struct
from typing import Final

_FORMAT: Final = struct.Struct("<HHIIHH")
#: PCM, floating point, A-law, µ-law, and the extensible form of these.
_UNCOMPRESSED: Final = frozenset({1, 3, 6, 7, 0xFFFE})
#: Chunks looked at before the samples have to come.
_MAX_CHUNKS: Final = 64
#: What writers put down who do not know the size yet: the samples go to the end.
_UNKNOWN_SIZES: Final = frozenset({0, 0xFFFFFFFF})


def sound_length_s(data: bytes) -> float | None:
    """Seconds that a sound takes; None where that cannot be told."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    at, bytes_per_second = 12, 0
    for _ in range(_MAX_CHUNKS):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        if at > len(data):
            return None
        if name == b"data":
            rest = len(data) - at
            samples = rest if size in _UNKNOWN_SIZES else min(size, rest)
            return samples / bytes_per_second if samples and bytes_per_second else None
        if name == b"fmt ":
            bytes_per_second = _bytes_per_second(data[at : at + _FORMAT.size])
        at += size + size % 2
    return None


def _bytes_per_second(form: bytes) -> int:
    """0 for what is compressed, or makes no sense."""
    if len(form) < _FORMAT.size:
        return 0
    tag, channels, rate, _, frame_bytes, bits = _FORMAT.unpack(form)
    return rate * frame_bytes if tag in _UNCOMPRESSED and frame_bytes * 8 == channels * bits else 0
