"""Files by hand: their structure, and where ffmpeg is there, what a decoder hears."""

from __future__ import annotations

import array
import io
import math
import shutil
import subprocess
import wave
from itertools import pairwise
from pathlib import Path

import pytest

from bitmesh_proxy.sandbox.sound_files import (
    CRC8,
    CRC16,
    FRAME_BYTES,
    FRAME_HEADER,
    _crc,
    find_comment,
    flac_of,
    mp3_of,
    with_wave_comment,
)
from bitmesh_proxy.sandbox.sounds import LINE_HZ, Speech, SpeechFormat

SINE = array.array("h", (round(9000 * math.sin(n / 9)) for n in range(10_000)))


def test_checksums_are_the_published_ones() -> None:
    """Check values of CRC-8/SMBUS and CRC-16/UMTS, which are FLAC's."""
    assert _crc(b"123456789", CRC8, 8) == 0xF4
    assert _crc(b"123456789", CRC16, 16) == 0xFEE8


@pytest.mark.parametrize("text", ["", "Grüße, 世界", "x" * 3000])
@pytest.mark.parametrize("form", ["wav", "mp3", "flac"])
def test_the_text_rides_along(form: SpeechFormat, text: str) -> None:
    assert find_comment(Speech(text=text, format=form).render()) == text


def test_other_sounds_carry_no_text() -> None:
    assert find_comment(b"RIFF" + bytes(200_000)) is None


def test_a_wav_with_a_comment_is_still_one() -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(SINE.tobytes())
    data = with_wave_comment(buffer.getvalue(), "odd")
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    with wave.open(io.BytesIO(data)) as file:
        assert file.readframes(99_999) == SINE.tobytes()


def test_an_mp3_is_frame_after_frame() -> None:
    data = mp3_of([10, None, 11], letter_s=0.072, comment="hello")
    size = sum((byte & 0x7F) << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    frames = data[10 + size :]
    assert len(frames) == 9 * FRAME_BYTES
    assert all(frames[start : start + 4] == FRAME_HEADER for start in range(0, len(frames), FRAME_BYTES))


def test_a_flac_has_its_length_in_its_head() -> None:
    data = flac_of(SINE, rate_hz=24_000, comment="x")
    assert data[:4] == b"fLaC"
    packed = int.from_bytes(data[18:26])
    assert (packed >> 44, packed & 0xFFFFFFFFF) == (24_000, len(SINE))


def decoded(data: bytes, tmp_path: Path) -> array.array[int]:
    path = tmp_path / "sound"
    path.write_bytes(data)
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "s16le", "-ac", "1", "-ar", "24000", "-"]
    run = subprocess.run(command, capture_output=True, check=True)
    assert run.stderr == b""
    return array.array("h", run.stdout)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_a_decoder_reads_the_flac_back(tmp_path: Path) -> None:
    assert decoded(flac_of(SINE, rate_hz=24_000, comment="x"), tmp_path) == SINE


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("line", [8, 13, 40])
def test_a_decoder_hears_the_tone_of_the_mp3(line: int, tmp_path: Path) -> None:
    """Zero crossings count the frequency; the first and last quarter are left out, where the sound swells and dies."""
    samples = decoded(mp3_of([line], letter_s=1.0, comment=""), tmp_path)
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    assert max(map(abs, middle)) > 2000
    crossings = sum(1 for one, other in pairwise(middle) if (one < 0) != (other < 0))
    heard_hz = crossings / 2 / (len(middle) / 24_000)
    assert heard_hz == pytest.approx((line + 0.5) * LINE_HZ, rel=0.05)
