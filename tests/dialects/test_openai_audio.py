"""Speech and transcription in OpenAI's protocol: what they used, and what they are."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import (
    Media,
    Operation,
    SpeechCall,
    TranscriptionCall,
    Usage,
)
from bitmesh_proxy.dialects.openai_audio import speech_dialect, transcription_dialect
from bitmesh_proxy.errors import MissingParameter, ProviderRefused, UnsupportedValue, UpstreamBroken, UpstreamError
from tests.dialects.offers import make_offer
from tests.providers.contracts import sent_json

SPEECH = speech_dialect()
TRANSCRIPTION = transcription_dialect()


def test_speech_counts_characters_and_needs_a_voice() -> None:
    call = SpeechCall(model="m", text="Grüße", output_format="flac")
    assert SPEECH.read_usage(call, {}) == Usage(characters=5, is_estimated=True)
    assert SPEECH.media_type(call, {"Content-Type": "application/octet-stream"}) == "audio/flac"
    assert SPEECH.media_type(call, {"content-type": "audio/mpeg; q=1"}) == "audio/mpeg"
    with pytest.raises(MissingParameter):
        SPEECH.request(call, make_offer(Operation.SPEECH, "tts-1"))
    offer = make_offer(Operation.SPEECH, "tts-1", options={"default_voice": "alloy"})
    assert sent_json(SPEECH.request(call, offer))["voice"] == "alloy"


SOUND = Media(kind="audio", data=b"RIFF", media_type="audio/wav")


def transcription(**fields: Any) -> TranscriptionCall:
    return TranscriptionCall(model="m", audio=SOUND, **fields)


@pytest.mark.parametrize(
    ("call", "body", "usage"),
    [
        (
            transcription(),
            b'{"text":"Hi","usage":{"type":"tokens","input_tokens":14,"output_tokens":5,"total_tokens":19}}',
            Usage(input_tokens=14, output_tokens=5),
        ),
        (
            transcription(duration_s=9.0),
            b'{"text":"Hi","usage":{"type":"tokens","input_tokens":"14","output_tokens":5}}',
            Usage(duration_ms=9000, is_estimated=True),
        ),
        (
            transcription(duration_s=9.0),
            b'{"text":"Hi","usage":{"type":"tokens","input_tokens":14,"output_tokens":[5]}}',
            Usage(duration_ms=9000, is_estimated=True),
        ),
        (transcription(), b'{"text":"Hi","usage":{"type":"duration","seconds":3.5}}', Usage(duration_ms=3500)),
        (transcription(response_format="verbose_json"), b'{"text":"Hi","duration":2.25}', Usage(duration_ms=2250)),
        (
            transcription(duration_s=9.0),
            b'{"text":"Hi","usage":{"seconds":"1e999999999"},"duration":"1e999990"}',
            Usage(duration_ms=9000, is_estimated=True),
        ),
        (transcription(duration_s=9.0), b'{"text":"Hi"}', Usage(duration_ms=9000, is_estimated=True)),
        (
            transcription(response_format="srt", duration_s=1.5),
            b"1\n00:00:00,000 --> 00:00:01,000\nHi\n",
            Usage(duration_ms=1500, is_estimated=True),
        ),
    ],
)
def test_a_transcription_is_metered(call: TranscriptionCall, body: bytes, usage: Usage) -> None:
    assert TRANSCRIPTION.read_usage(call, body) == usage
    assert "Hi" in TRANSCRIPTION.read_transcript(call, body).text


def test_a_translation_goes_elsewhere() -> None:
    offer = make_offer(Operation.TRANSCRIPTION, "whisper-1")
    paths = [TRANSCRIPTION.request(transcription(into_english=on), offer).path for on in (False, True)]
    assert paths == ["/audio/transcriptions", "/audio/translations"]


def test_the_prompt_of_silence_has_tokens_and_its_text_none() -> None:
    body = b'{"text":"","usage":{"type":"tokens","input_tokens":14,"output_tokens":0}}'
    assert TRANSCRIPTION.read_usage(transcription(duration_s=9.0), body) == Usage(input_tokens=14)


@pytest.mark.parametrize("body", [b'{"text":""}', b'{"text":"","segments":[],"error":null}'])
def test_of_silence_the_transcript_is_empty(body: bytes) -> None:
    call = transcription(duration_s=9.0)
    assert TRANSCRIPTION.read_transcript(call, body).text == ""
    assert TRANSCRIPTION.read_usage(call, body) == Usage(duration_ms=9000, is_estimated=True)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"text":"","error":"No such model"}', ProviderRefused),
        (b'{"text":null}', UpstreamBroken),
        (b'{"detail":"No such model"}', UpstreamBroken),
    ],
)
def test_what_holds_no_text_is_no_transcript(body: bytes, error: type[UpstreamError]) -> None:
    with pytest.raises(error):
        TRANSCRIPTION.read_usage(transcription(), body)


def test_events_are_refused_by_who_sends_bytes() -> None:
    call = SpeechCall(model="m", text="hi", voice="v", options={"stream_format": "sse"})
    offer = make_offer(Operation.SPEECH, "tts-1")
    assert sent_json(SPEECH.request(call, offer))["stream_format"] == "sse"
    with pytest.raises(UnsupportedValue) as caught:
        speech_dialect(options=frozenset()).request(call, offer)
    assert caught.value.param == "stream_format"
