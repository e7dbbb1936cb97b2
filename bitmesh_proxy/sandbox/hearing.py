"""What the sandbox hears in a sound: the text that its own speech carries, else a sentence that says it did not listen.

The duration is read from the file's own structure where that is plain (WAV, FLAC, MP3), else guessed from its size.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from dataclasses import dataclass

from bitmesh_proxy.sandbox.plays import Upload
from bitmesh_proxy.sandbox.sound_files import find_comment

#: What a second is taken to weigh where the file does not say (128 kbit/s).
GUESSED_BYTES_PER_S = 16_000
WORDS_PER_SEGMENT = 8
#: kbit/s of layer III by the header's index: MPEG-1, then MPEG-2 and 2.5.
MP3_KBITS = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Words with their time in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    text: str
    duration_s: float

    def words(self) -> list[Span]:
        """The words, spread evenly over the time."""
        words = self.text.split()
        step = self.duration_s / max(1, len(words))
        return [
            Span(text=word, start_s=round(n * step, 3), end_s=round((n + 1) * step, 3)) for n, word in enumerate(words)
        ]

    def segments(self) -> Iterator[Span]:
        """A few words at a time."""
        words = self.words()
        for start in range(0, len(words), WORDS_PER_SEGMENT):
            part = words[start : start + WORDS_PER_SEGMENT]
            yield Span(text=" ".join(word.text for word in part), start_s=part[0].start_s, end_s=part[-1].end_s)


def hear(upload: Upload) -> Heard:
    """The text and length of an uploaded sound. Blocks shortly."""
    text = find_comment(upload.data)
    if text is None:
        text = f"This is the sandbox. It did not listen to {upload.name or 'the sound'}."
    return Heard(text=text, duration_s=round(measure_s(upload.data), 3))


def measure_s(data: bytes) -> float:
    """How long a sound is, in seconds."""
    if data[:4] == b"RIFF":
        try:
            with wave.open(io.BytesIO(data)) as file:
                return float(file.getnframes() / file.getframerate())
        except (wave.Error, EOFError, ZeroDivisionError):
            return len(data) / GUESSED_BYTES_PER_S
    if data[:4] == b"fLaC" and len(data) >= 26:
        packed = int.from_bytes(data[18:26])
        rate_hz, count = packed >> 44, packed & ((1 << 36) - 1)
        if rate_hz and count:
            return count / rate_hz
    return _measure_mp3_s(data) or len(data) / GUESSED_BYTES_PER_S


def _measure_mp3_s(data: bytes) -> float | None:
    """By the first frame's bit rate; None when there is no such frame where it should be."""
    start = 0
    if data[:3] == b"ID3" and len(data) >= 10:
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    header = data[start : start + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # sync, layer III
        return None
    is_mpeg1 = header[1] & 0x18 == 0x18
    index = header[2] >> 4
    kbits = MP3_KBITS[0 if is_mpeg1 else 1][index] if index < 15 else 0
    return (len(data) - start) * 8 / (kbits * 1000) if kbits else None


def render_subtitles(heard: Heard, *, is_vtt: bool) -> str:
    """SubRip, or WebVTT."""
    mark = "." if is_vtt else ","
    cues = []
    for number, span in enumerate(heard.segments(), start=1):
        times = f"{_clock_time(span.start_s, mark)} --> {_clock_time(span.end_s, mark)}"
        cues.append(f"{times}\n{span.text}\n" if is_vtt else f"{number}\n{times}\n{span.text}\n")
    return ("WEBVTT\n\n" if is_vtt else "") + "\n".join(cues)


def _clock_time(seconds: float, mark: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{milliseconds:03d}"
