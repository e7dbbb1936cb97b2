"""Sound files by hand: MP3 frames of single spectral lines, FLAC frames of plain samples, and comments in all of them.

Sources: ISO/IEC 13818-3 (MPEG-2 audio layer III at half the rates), RFC 9639 (FLAC), ID3v2.3, RIFF's INFO list.
"""

from __future__ import annotations

import array
import base64
import re
import sys
from collections.abc import Mapping, Sequence

COMMENT = re.compile(rb"sandbox-text:([A-Za-z0-9+/=]*);")
#: A comment stands at a file's start or end.
COMMENT_SEARCH_BYTES = 64 * 1024
VENDOR = b"bitmesh-proxy sandbox"


def comment_bytes(text: str) -> bytes:
    """A text as it is written into comment fields."""
    return b"sandbox-text:" + base64.b64encode(text.encode()) + b";"


def find_comment(data: bytes) -> str | None:
    """The text that a sound of the sandbox carries; None for any other sound."""
    for part in (data[:COMMENT_SEARCH_BYTES], data[-COMMENT_SEARCH_BYTES:]):
        if (match := COMMENT.search(part)) is not None:
            return base64.b64decode(match[1]).decode("utf-8", "replace")
    return None


def with_wave_comment(data: bytes, text: str) -> bytes:
    """A WAV with the text in its INFO list, and the sizes put right."""
    comment = comment_bytes(text) + b"\0"
    comment += b"\0" * (len(comment) % 2)
    entry = b"INFO" + b"ICMT" + len(comment).to_bytes(4, "little") + comment
    whole = data + b"LIST" + len(entry).to_bytes(4, "little") + entry
    return whole[:4] + (len(whole) - 8).to_bytes(4, "little") + whole[8:]


# ---------------------------------------------------------------- MP3

FRAME_S = 576 / 24_000
FRAME_BYTES = 96  # 32 kbit/s at 24 kHz
#: Layer III of MPEG-2 without checksum, 32 kbit/s, 24 kHz, one channel, original.
FRAME_HEADER = bytes((0xFF, 0xF3, 0x44, 0xC4))
#: The scale of the one value in a frame: 2 to the power of (gain - 210) / 4.
GAIN = 198
#: The sign of a line from frame to frame, so that the transform's overlap gives an even tone.
SIGNS_EVEN = (0, 1, 1, 0)
SIGNS_ODD = (0, 0, 1, 1)


def mp3_of(lines: Sequence[int | None], *, letter_s: float, comment: str) -> bytes:
    """A tone for each line of the spectrum (None: silence), each as long as ``letter_s`` to the next frame."""
    frames = [_id3(comment_bytes(comment))]
    elapsed_s = 0.0
    for number, line in enumerate(lines, start=1):
        while elapsed_s < number * letter_s:
            frames.append(_frame(line, index=len(frames)))
            elapsed_s += FRAME_S
    return b"".join(frames)


def _id3(comment: bytes) -> bytes:
    body = b"\0" + b"eng" + b"\0" + comment  # latin-1, language, no description
    frame = b"COMM" + len(body).to_bytes(4) + b"\0\0" + body
    size = len(frame)
    synchsafe = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + synchsafe + frame


def _frame(line: int | None, *, index: int) -> bytes:
    """One frame of 576 samples whose spectrum is one line, in Huffman table 1 (values 0 and 1 in pairs)."""
    bits = ""
    pairs = 0
    if line is not None:
        pairs = line // 2 + 1
        sign = (SIGNS_EVEN if line % 2 == 0 else SIGNS_ODD)[index % 4]
        bits = "1" * (pairs - 1) + ("01" if line % 2 == 0 else "001") + str(sign)
    side = (
        "00000000"  # main data begin with this frame
        "0"
        f"{len(bits):012b}{pairs:09b}{GAIN:08b}"
        "000000000"  # no scale factors
        "0"  # one long block
        "000010000100001"  # table 1 in all three regions
        "0111111"  # regions end after 8 and 16 bands
        "00"
    )
    body = int((side + bits).ljust(8 * (FRAME_BYTES - len(FRAME_HEADER)), "0"), 2)
    return FRAME_HEADER + body.to_bytes(FRAME_BYTES - len(FRAME_HEADER))


# ---------------------------------------------------------------- FLAC

FLAC_BLOCK = 4096
FLAC_RATE_CODES: Mapping[int, int] = {8_000: 4, 16_000: 5, 22_050: 6, 24_000: 7, 32_000: 8, 44_100: 9, 48_000: 10}


def flac_of(samples: array.array[int], *, rate_hz: int, comment: str) -> bytes:
    """16-bit mono in verbatim frames: larger than it could be, and readable by every decoder."""
    data = array.array("h", samples)
    if sys.byteorder == "little":
        data.byteswap()
    blocks = [data[start : start + FLAC_BLOCK] for start in range(0, len(data), FLAC_BLOCK)]
    frames = [_flac_frame(number, block.tobytes(), len(block), rate_hz) for number, block in enumerate(blocks)]
    head = _stream_info(len(data), rate_hz, [len(frame) for frame in frames])
    return b"fLaC" + head + _vorbis_comment(comment) + b"".join(frames)


def _stream_info(count: int, rate_hz: int, frame_sizes: Sequence[int]) -> bytes:
    """Block sizes, frame sizes, rate, one channel, 16 bits, length, no checksum of the samples."""
    packed = rate_hz << 44 | 0 << 41 | 15 << 36 | count
    frame_bytes = min(frame_sizes, default=0).to_bytes(3) + max(frame_sizes, default=0).to_bytes(3)
    body = FLAC_BLOCK.to_bytes(2) * 2 + frame_bytes + packed.to_bytes(8) + bytes(16)
    return bytes((0,)) + len(body).to_bytes(3) + body


def _vorbis_comment(comment: str) -> bytes:
    entry = b"COMMENT=" + comment_bytes(comment)
    body = len(VENDOR).to_bytes(4, "little") + VENDOR
    body += (1).to_bytes(4, "little") + len(entry).to_bytes(4, "little") + entry
    return bytes((0x80 | 4,)) + len(body).to_bytes(3) + body


def _flac_frame(number: int, samples: bytes, count: int, rate_hz: int) -> bytes:
    # Fixed block size; block size and rate by their codes where they have one, as Chromium loses its place without;
    # one channel, 16 bits.
    size_code, size = (0xC0, b"") if count == FLAC_BLOCK else (0x70, (count - 1).to_bytes(2))
    header = bytes((0xFF, 0xF8, size_code | FLAC_RATE_CODES.get(rate_hz, 0), 0x08)) + chr(number).encode() + size
    header += bytes((_crc(header, CRC8, 8),))
    body = header + b"\x02" + samples  # one verbatim subframe
    return body + _crc(body, CRC16, 16).to_bytes(2)


def _crc_table(polynomial: int, width: int) -> tuple[int, ...]:
    top, mask = 1 << (width - 1), (1 << width) - 1
    table = []
    for byte in range(256):
        value = byte << (width - 8)
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & top else value << 1) & mask
        table.append(value)
    return tuple(table)


CRC8 = _crc_table(0x07, 8)
CRC16 = _crc_table(0x8005, 16)


def _crc(data: bytes, table: tuple[int, ...], width: int) -> int:
    shift, mask = width - 8, (1 << width) - 1
    value = 0
    for byte in data:
        value = (value << 8 ^ table[value >> shift ^ byte]) & mask
    return value
