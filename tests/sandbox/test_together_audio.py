"""Together's sound."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any

import aiohttp
import pytest

from tests.sandbox.callers import Answer, Caller, assert_published

TEXT = "Good morning"


async def speak(caller: Caller, **more: Any) -> Answer:
    body = {"model": "hexgrad/Kokoro-82M", "voice": "af_heart", "input": TEXT, **more}
    return await caller.post("/together/v1/audio/speech", body)


async def test_speech_is_wav_at_the_rate_asked(caller: Caller) -> None:
    for more, rate_hz in (({}, 44_100), ({"sample_rate": 16_000}, 16_000)):
        answer = await speak(caller, **more)
        assert answer.headers["Content-Type"] == "audio/wav"
        with wave.open(io.BytesIO(answer.body)) as file:
            assert file.getframerate() == rate_hz


@pytest.mark.parametrize(
    ("more", "media_type"),
    [
        ({"response_format": "mp3"}, "audio/mpeg"),
        ({"response_format": "raw"}, "audio/pcm"),
        ({"response_format": "raw", "response_encoding": "pcm_s16le"}, "audio/pcm"),
    ],
)
async def test_other_formats(caller: Caller, more: dict[str, str], media_type: str) -> None:
    answer = await speak(caller, **more)
    assert (answer.status, answer.headers["Content-Type"]) == (200, media_type)


async def test_streamed_speech_is_raw_sound_in_events(caller: Caller) -> None:
    more = {"response_format": "raw", "response_encoding": "pcm_s16le", "sample_rate": 24_000}
    whole = await speak(caller, **more)
    stream = await speak(caller, stream=True, **more)
    assert stream.events[-1] == b"[DONE]"
    for event in stream.json_events:
        assert_published("together", "speech_chunk", event)
    assert b"".join(base64.b64decode(event["b64"]) for event in stream.json_events) == whole.body


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": "raw", "response_encoding": "pcm_mulaw"},
        {"sample_rate": 100},
        {"voice": 7},
        {"language": "xx"},
    ],
)
async def test_what_is_not_spoken(caller: Caller, more: dict[str, Any]) -> None:
    answer = await speak(caller, **more)
    assert answer.status == 400
    assert_published("together", "error", answer.json)


async def transcribe(caller: Caller, sound: bytes | None, work: str = "transcriptions", **fields: str) -> Answer:
    form = aiohttp.FormData({"model": "openai/whisper-large-v3", **fields}, default_to_multipart=True)
    if sound is not None:
        form.add_field("file", sound, filename="a.wav", content_type="audio/wav")
    return await caller.post(f"/together/v1/audio/{work}", data=form)


async def test_what_was_spoken_is_understood(caller: Caller) -> None:
    sound = (await speak(caller)).body
    answer = await transcribe(caller, sound)
    assert_published("together", "transcription", answer.json)
    assert answer.json == {"text": TEXT}


async def test_a_verbose_transcription(caller: Caller) -> None:
    sound = (await speak(caller)).body
    answer = await transcribe(caller, sound, response_format="verbose_json", timestamp_granularities="word")
    assert_published("together", "transcription_verbose", answer.json)
    assert [word["word"] for word in answer.json["words"]] == TEXT.split()
    answer = await transcribe(caller, sound, response_format="verbose_json")
    assert "words" not in answer.json


async def test_a_translation(caller: Caller) -> None:
    sound = (await speak(caller)).body
    answer = await transcribe(caller, sound, "translations")
    assert_published("together", "translation", answer.json)
    verbose = await transcribe(caller, sound, "translations", response_format="verbose_json")
    assert_published("together", "translation_verbose", verbose.json)
    assert verbose.json["task"] == "translate"


async def test_a_sound_behind_an_address_is_not_fetched(caller: Caller) -> None:
    answer = await transcribe(caller, None, file="https://example.org/a.wav")
    assert (answer.status, answer.error["param"]) == (400, "file")
    assert (await transcribe(caller, None)).status == 400
