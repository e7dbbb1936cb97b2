"""Speech as a row of tones, one a letter: real WAV, MP3, FLAC and raw PCM, without an encoder library.

The text itself rides along in the file's own comment field, so that the sandbox's transcription can give it back.
Opus and AAC need an encoder and are not made.
"""

from __future__ import annotations

import array
import io
import math
import sys
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from bitmesh_proxy.sandbox.sound_files import flac_of, mp3_of, with_wave_comment

SpeechFormat = Literal["wav", "mp3", "flac", "pcm_s16le", "pcm_f32le"]
MEDIA_TYPES: Mapping[SpeechFormat, str] = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "pcm_s16le": "audio/pcm",
    "pcm_f32le": "audio/pcm",
}
EXTENSIONS: Mapping[SpeechFormat, str] = {
    "wav": "wav",
    "mp3": "mp3",
    "flac": "flac",
    "pcm_s16le": "pcm",
    "pcm_f32le": "pcm",
}
#: The rate of OpenAI's raw PCM, and of every MP3 made here.
DEFAULT_RATE_HZ = 24_000
LETTER_S = 0.072
MAX_LETTERS = 1000
PEAK = 9000
#: Tones are multiples of this, the width of one line of an MP3's spectrum at 24 kHz.
LINE_HZ = DEFAULT_RATE_HZ / 2 / 576


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """A text to be spoken. ``speed`` 2.0 is twice as fast. ``voice`` moves the pitch."""

    text: str
    voice: str = ""
    format: SpeechFormat = "wav"
    rate_hz: int = DEFAULT_RATE_HZ
    speed: float = 1.0

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.format]

    @property
    def extension(self) -> str:
        return EXTENSIONS[self.format]

    @property
    def lines(self) -> list[int | None]:
        """A line of the spectrum for each letter; None is silence."""
        base = 12 + sum(self.voice.encode()) % 12
        return [_line(letter, base) for letter in self.text[:MAX_LETTERS]] or [None]

    @property
    def letter_s(self) -> float:
        return LETTER_S / self.speed

    @property
    def duration_s(self) -> float:
        return len(self.lines) * self.letter_s

    def render(self) -> bytes:
        """The file's bytes. Blocks."""
        if self.format == "mp3":
            return mp3_of(self.lines, letter_s=self.letter_s, comment=self.text)
        samples = self._samples()
        match self.format:
            case "wav":
                return with_wave_comment(_wave_of(samples, self.rate_hz), self.text)
            case "flac":
                return flac_of(samples, rate_hz=self.rate_hz, comment=self.text)
            case "pcm_f32le":
                return _little(array.array("f", (sample / 32768 for sample in samples)))
            case _:
                return _little(samples)

    def _samples(self) -> array.array[int]:
        samples = array.array("h")
        for line in self.lines:
            samples.extend(_tone(line, self.rate_hz, round(self.letter_s * self.rate_hz)))
        return samples


def _line(letter: str, base: int) -> int | None:
    """Letters and digits sound, everything else is a pause."""
    return base + ord(letter.lower()) % 32 if letter.isalnum() else None


@lru_cache(maxsize=256)
def _tone(line: int | None, rate_hz: int, count: int) -> array.array[int]:
    """One letter: a sine that swells and dies, so that letters do not click."""
    if line is None:
        return array.array("h", bytes(2 * count))
    step = 2 * math.pi * (line + 0.5) * LINE_HZ / rate_hz
    swell = math.pi / count
    return array.array("h", (round(PEAK * math.sin(n * step) * math.sin(n * swell)) for n in range(count)))


def _wave_of(samples: array.array[int], rate_hz: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(_little(samples))
    return buffer.getvalue()


def _little(samples: array.array[int] | array.array[float]) -> bytes:
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes()
