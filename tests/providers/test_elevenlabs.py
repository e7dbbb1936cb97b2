"""What we send to ElevenLabs is what ElevenLabs publishes, queries included."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import Media, Operation, SpeechCall, TranscriptionCall
from bitmesh_proxy.providers.elevenlabs import PROVIDER
from tests.dialects.offers import make_offer
from tests.providers.contracts import violations


@pytest.mark.parametrize("sound", [None, "mp3", "opus", "pcm", "wav", "mp3_22050_32", "ulaw_8000", "wav_16000"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {
            "speed": 0.9,
            "options": {
                "seed": 7,
                "language_code": "de",
                "previous_text": "a",
                "next_text": "b",
                "voice_settings": {"stability": 0.5, "similarity_boost": 0.7},
                "apply_text_normalization": "off",
            },
        },
    ],
)
def test_every_speech_keeps_the_schema(sound: str | None, fields: dict[str, Any]) -> None:
    assert PROVIDER.speech is not None
    call = SpeechCall(model="m", text="Hello", voice="v1", output_format=sound, **fields)
    assert violations("elevenlabs", PROVIDER.speech.request(call, make_offer(Operation.SPEECH, "eleven_v3"))) == []


@pytest.mark.parametrize(
    "audio",
    [Media(kind="audio", data=b"ID3", media_type="audio/mpeg"), Media(kind="audio", url="https://x.test/a.mp3")],
)
@pytest.mark.parametrize(
    "options", [{}, {"timestamp_granularities": ["segment"], "diarize": True, "num_speakers": 2, "temperature": 0}]
)
def test_every_transcription_keeps_the_schema(audio: Media, options: dict[str, Any]) -> None:
    assert PROVIDER.transcription is not None
    call = TranscriptionCall(model="m", audio=audio, language="de", options=options)
    request = PROVIDER.transcription.request(call, make_offer(Operation.TRANSCRIPTION, "scribe_v2"))
    assert violations("elevenlabs", request) == []


@pytest.mark.parametrize(
    ("status", "body", "shown", "code"),
    [
        (401, b'{"detail":{"status":"quota_exceeded","message":"10 of 10 credits"}}', 502, "quota_exceeded"),
        (401, b'{"detail":{"status":"invalid_api_key","message":"Invalid API key"}}', 502, "invalid_api_key"),
        (404, b'{"detail":{"status":"voice_not_found","message":"No such voice"}}', 404, "voice_not_found"),
        (429, b'{"detail":{"status":"system_busy","message":"Busy"}}', 429, "system_busy"),
        (422, b'{"detail":[{"loc":["body","text"],"msg":"field required","type":"missing"}]}', 422, "missing"),
    ],
)
def test_refusals(status: int, body: bytes, shown: int, code: str) -> None:
    refusal = PROVIDER.read_error(status, {}, body)
    assert (refusal.status, refusal.provider_code) == (shown, code)
    assert "credits" not in refusal.message
