"""What is heard in a sound, how long it is, and how it is written down."""

from __future__ import annotations

import pytest

from bitmesh_proxy.sandbox.hearing import Heard, hear, measure_s, render_subtitles
from bitmesh_proxy.sandbox.plays import Upload
from bitmesh_proxy.sandbox.sounds import LETTER_S, Speech, SpeechFormat

TEXT = "Good morning, dear reader"


@pytest.mark.parametrize("form", ["wav", "mp3", "flac"])
def test_the_sandboxs_own_speech_is_understood(form: SpeechFormat) -> None:
    heard = hear(Upload(name="a", media_type="audio/x", data=Speech(text=TEXT, format=form).render()))
    assert heard.text == TEXT
    assert heard.duration_s == pytest.approx(len(TEXT) * LETTER_S, abs=0.05)


def test_any_other_sound_is_not_listened_to() -> None:
    heard = hear(Upload(name="song.ogg", media_type="audio/ogg", data=bytes(32_000)))
    assert heard == Heard(text="This is the sandbox. It did not listen to song.ogg.", duration_s=2.0)


@pytest.mark.parametrize("data", [b"RIFF", b"RIFF" + bytes(100), b"fLaC" + bytes(60), b"ID3\x03", b"\xff\xf3", b""])
def test_a_broken_file_has_a_guessed_length(data: bytes) -> None:
    assert measure_s(data) == len(data) / 16_000


def test_words_and_segments_share_the_time() -> None:
    heard = Heard(text=" ".join(f"w{n}" for n in range(20)), duration_s=10.0)
    words = heard.words()
    assert (words[0].start_s, words[0].end_s, words[-1].end_s) == (0.0, 0.5, 10.0)
    segments = list(heard.segments())
    assert [segment.text.split()[0] for segment in segments] == ["w0", "w8", "w16"]
    assert [segment.end_s for segment in segments] == [4.0, 8.0, 10.0]
    assert list(Heard(text="", duration_s=1.0).segments()) == []


def test_subtitles() -> None:
    heard = Heard(text="one two", duration_s=3725.5)
    assert render_subtitles(heard, is_vtt=False) == "1\n00:00:00,000 --> 01:02:05,500\none two\n"
    assert render_subtitles(heard, is_vtt=True) == "WEBVTT\n\n00:00:00.000 --> 01:02:05.500\none two\n"
