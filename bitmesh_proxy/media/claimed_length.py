"""How long compressed sounds say that they are: Ogg, FLAC, MP4 and WebM files. Pure.

Silence takes hardly a byte a second, so that a size alone may stand for far more than it seems to. A sender could make
these figures up: they may add to what is held for a call, and are never what it is charged for.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Final

#: Pages of Ogg, or elements of the others, that are looked at.
_MAX_STEPS: Final = 64
_OPUS_RATE: Final = 48_000
_SEGMENT, _INFO, _TIME_SCALE, _DURATION = 0x18538067, 0x1549A966, 0x2AD7B1, 0x4489
#: Nanoseconds.
_USUAL_TIME_SCALE: Final = 1_000_000

_Box = tuple[bytes, int, int]


def claimed_length_s(data: bytes) -> float | None:
    """Seconds that a sound says it takes; None where it does not, or where that cannot be."""
    try:
        if data.startswith(b"OggS"):
            length_s = _of_ogg(data)
        elif data.startswith(b"fLaC"):
            length_s = _of_flac(data, 8)
        elif data[4:8] == b"ftyp":
            length_s = _of_mp4(data)
        elif data.startswith(b"\x1a\x45\xdf\xa3"):
            length_s = _of_webm(data)
        else:
            return None
    except (struct.error, ZeroDivisionError):
        return None
    return length_s if length_s is not None and math.isfinite(length_s) and length_s > 0 else None


def _of_ogg(data: bytes) -> float | None:
    """By the last page that says where in the sound it ends."""
    head = 27 + data[26] if len(data) > 26 else len(data)
    packet = data[head : head + 64]
    if packet.startswith(b"OpusHead"):
        rate = _OPUS_RATE
    elif packet.startswith(b"\x01vorbis"):
        (rate,) = struct.unpack_from("<I", packet, 12)
    elif packet.startswith(b"Speex   "):
        (rate,) = struct.unpack_from("<I", packet, 36)
    elif packet.startswith(b"\x7fFLAC"):
        rate = _rate_and_samples(packet, 17)[0]
    else:
        return None
    at = len(data)
    for _ in range(_MAX_STEPS):
        at = data.rfind(b"OggS", 0, at)
        if at <= 0:
            return None
        if len(data) - at >= 14 and (samples := struct.unpack_from("<q", data, at + 6)[0]) > 0:
            return float(samples / rate)
    return None


def _of_flac(data: bytes, at: int) -> float:
    rate, samples = _rate_and_samples(data, at)
    return samples / rate


def _rate_and_samples(data: bytes, at: int) -> tuple[int, int]:
    """What FLAC's STREAMINFO says: 20 bits of rate, 8 of others, 36 of samples."""
    (bits,) = struct.unpack_from(">Q", data, at + 10)
    return bits >> 44, bits & 0xF_FFFF_FFFF


def _of_mp4(data: bytes) -> float | None:
    """By the film's head; of one in fragments by what it says beside."""
    for name, start, end in _boxes(data, 0, len(data)):
        if name != b"moov":
            continue
        scale = length = 0
        for inner, inner_start, inner_end in _boxes(data, start, end):
            if inner == b"mvhd":
                long = data[inner_start] == 1
                scale, units = struct.unpack_from(">16xIQ" if long else ">8xII", data, inner_start + 4)
                length = max(length, 0 if units == (1 << (64 if long else 32)) - 1 else units)
            elif inner == b"mvex":
                for word, word_start, _ in _boxes(data, inner_start, inner_end):
                    if word == b"mehd":
                        form = ">Q" if data[word_start] == 1 else ">I"
                        length = max(length, struct.unpack_from(form, data, word_start + 4)[0])
        return length / scale
    return None


def _boxes(data: bytes, at: int, end: int) -> Iterator[_Box]:
    """The name of each box, and where its content begins and ends."""
    for _ in range(_MAX_STEPS):
        if at + 8 > end:
            return
        size, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        until = end if size == 0 else min(at + size, end)
        if until < start:
            return
        if until > start:  # some are empty
            yield name, start, until
        at = until


def _of_webm(data: bytes) -> float | None:
    for element, start, end in _elements(data, 0, len(data)):
        if element != _SEGMENT:
            continue
        for inner, inner_start, inner_end in _elements(data, start, end):
            if inner == _INFO:
                scale, units = _USUAL_TIME_SCALE, 0.0
                for word, word_start, word_end in _elements(data, inner_start, inner_end):
                    if word == _TIME_SCALE and word_end - word_start <= 8:
                        scale = int.from_bytes(data[word_start:word_end], "big")
                    elif word == _DURATION:
                        (units,) = struct.unpack(
                            ">f" if word_end - word_start == 4 else ">d", data[word_start:word_end]
                        )
                return units * scale / 1e9
        return None
    return None


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The id of each element of Matroska, and where its content begins and ends: that of unknown size at the end."""
    for _ in range(_MAX_STEPS):
        if at + 2 > end:
            return
        id_bytes = 9 - data[at].bit_length()
        size_at = at + id_bytes
        if not data[at] or size_at >= end or not data[size_at]:
            return
        size_bytes = 9 - data[size_at].bit_length()
        start = size_at + size_bytes
        size = int.from_bytes(data[size_at:start], "big") & ((1 << 7 * size_bytes) - 1)
        is_unknown = size == (1 << 7 * size_bytes) - 1
        until = end if is_unknown else min(start + size, end)
        if start > end:
            return
        yield int.from_bytes(data[at:size_at], "big"), start, until
        at = until
