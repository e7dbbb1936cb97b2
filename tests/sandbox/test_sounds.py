"""Speech as tones: lengths, formats, and that different letters sound different."""

from __future__ import annotations

import array
import io
import wave
from dataclasses import replace

import pytest

from bitmesh_proxy.sandbox.sounds import LETTER_S, MAX_LETTERS, MEDIA_TYPES, Speech, SpeechFormat

HELLO = Speech(text="Hello you", voice="alloy")


def samples_of(data: bytes) -> array.array[int]:
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return array.array("h", file.readframes(file.getnframes()))


def test_a_wav_lasts_as_long_as_its_letters() -> None:
    samples = samples_of(HELLO.render())
    assert len(samples) / 24_000 == pytest.approx(9 * LETTER_S, abs=0.01)
    assert HELLO.duration_s == pytest.approx(9 * LETTER_S)


def test_letters_sound_and_spaces_do_not() -> None:
    samples = samples_of(HELLO.render())
    letter = len(samples) // 9
    loudness = [max(map(abs, samples[n * letter : (n + 1) * letter])) for n in range(9)]
    assert [volume > 1000 for volume in loudness] == [letter != " " for letter in "Hello you"]


def test_text_voice_and_speed_change_the_sound() -> None:
    heard = {
        bytes(samples_of(speech.render()))
        for speech in (HELLO, replace(HELLO, text="Hello me!"), replace(HELLO, voice="nova"), replace(HELLO, speed=2.0))
    }
    assert len(heard) == 4
    assert len(samples_of(replace(HELLO, speed=2.0).render())) == len(samples_of(HELLO.render())) // 2


def test_any_rate() -> None:
    with wave.open(io.BytesIO(replace(HELLO, rate_hz=44_100).render())) as file:
        assert file.getframerate() == 44_100


@pytest.mark.parametrize("form", MEDIA_TYPES)
def test_every_format_is_made_and_repeats(form: SpeechFormat) -> None:
    speech = replace(HELLO, format=form)
    assert speech.render() == replace(speech).render()
    assert len(speech.render()) > 1000


def test_raw_samples_are_those_of_the_wav() -> None:
    samples = samples_of(HELLO.render())
    assert array.array("h", replace(HELLO, format="pcm_s16le").render()) == samples
    floats = array.array("f", replace(HELLO, format="pcm_f32le").render())
    assert [round(value * 32768) for value in floats] == list(samples)


def test_a_book_is_not_read_to_its_end() -> None:
    assert len(Speech(text="x" * 100_000).lines) == MAX_LETTERS
    assert len(samples_of(Speech(text="").render())) > 0
