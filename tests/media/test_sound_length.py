"""Lengths of WAV files, good and made up."""

from __future__ import annotations

import io
import struct
import wave

import pytest

from bitmesh_proxy.media.sound_length import sound_length_s


def wav(*, seconds: float = 2.0, rate: int = 8000, channels: int = 1, sample_bytes: int = 2) -> bytes:
    """As Python's own module writes it."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(sample_bytes)
        file.setframerate(rate)
        file.writeframes(bytes(int(seconds * rate) * channels * sample_bytes))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("rate", "channels", "sample_bytes"), [(8000, 1, 1), (16_000, 1, 2), (44_100, 2, 2), (48_000, 2, 3), (96_000, 6, 4)]
)
def test_samples_are_counted(rate: int, channels: int, sample_bytes: int) -> None:
    data = wav(seconds=1.5, rate=rate, channels=channels, sample_bytes=sample_bytes)
    assert sound_length_s(data) == pytest.approx(1.5)


def test_chunks_before_the_samples_are_passed_over() -> None:
    data = wav()
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    assert sound_length_s(data[:12] + odd + data[12:]) == pytest.approx(2.0)


def test_what_is_cut_off_or_has_no_size_goes_to_the_end() -> None:
    data = wav()
    assert sound_length_s(data[: 44 + 16_000]) == pytest.approx(1.0)
    for size in (0, 0xFFFFFFFF, 0x7FFFFFFF):
        assert sound_length_s(data[:40] + struct.pack("<I", size) + data[44:]) == pytest.approx(2.0)
    assert sound_length_s(data[:40] + struct.pack("<I", 8000) + data[44:]) == pytest.approx(0.5)


def with_format(tag: int = 1, channels: int = 1, rate: int = 8000, frame_bytes: int = 2, bits: int = 16) -> bytes:
    data = wav()
    return data[:20] + struct.pack("<HHIIHH", tag, channels, rate, 1, frame_bytes, bits) + data[36:]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ID3" + bytes(100),
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WEBP" + bytes(100),
        wav()[:44],
        wav()[:30],
        wav()[:12] + wav()[36:],  # samples of no known form
        b"RIFF\0\0\0\0WAVE" + (b"junk" + bytes(4)) * 1000,
        with_format(tag=2, bits=4),
        with_format(rate=0),
        with_format(channels=0),
        with_format(frame_bytes=1),
    ],
)
def test_what_cannot_be_told_is_not_made_up(data: bytes) -> None:
    assert sound_length_s(data) is None


def test_the_figures_that_nobody_decodes_by_do_not_count() -> None:
    assert sound_length_s(with_format()) == pytest.approx(2.0), "the rate of bytes is 1 there"
