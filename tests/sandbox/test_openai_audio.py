"""OpenAI's sound, and the loop from text to speech to text."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any

import aiohttp
import pytest

from tests.sandbox.callers import Answer, Caller, assert_published

TEXT = "Good morning, dear reader"


async def speak(caller: Caller, **more: Any) -> Answer:
    body = {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": TEXT, **more}
    return await caller.post("/openai/v1/audio/speech", body)


async def transcribe(
    caller: Caller, sound: bytes, name: str = "a.wav", work: str = "transcriptions", **fields: Any
) -> Answer:
    form = aiohttp.FormData({"model": "whisper-1", **fields}, default_to_multipart=True)
    form.add_field("file", io.BytesIO(sound), filename=name)
    return await caller.post(f"/openai/v1/audio/{work}", data=form)


@pytest.mark.parametrize(
    ("form", "media_type", "magic"),
    [
        (None, "audio/mpeg", b"ID3"),
        ("mp3", "audio/mpeg", b"ID3"),
        ("wav", "audio/wav", b"RIFF"),
        ("flac", "audio/flac", b"fLaC"),
        ("pcm", "audio/pcm", b"\0\0"),
    ],
)
async def test_speech_is_a_real_file(caller: Caller, form: str | None, media_type: str, magic: bytes) -> None:
    answer = await speak(caller, **({"response_format": form} if form else {}))
    assert (answer.status, answer.headers["Content-Type"]) == (200, media_type)
    assert answer.body.startswith(magic)


async def test_what_cannot_be_encoded_is_said(caller: Caller) -> None:
    for form in ("opus", "aac"):
        answer = await speak(caller, response_format=form)
        assert (answer.status, answer.error["param"]) == (400, "response_format")
        assert form in answer.error["message"]


async def test_speed_and_a_voice_of_ones_own(caller: Caller) -> None:
    def length_s(answer: Answer) -> float:
        with wave.open(io.BytesIO(answer.body)) as file:
            return float(file.getnframes() / file.getframerate())

    slow = await speak(caller, response_format="wav")
    fast = await speak(caller, response_format="wav", speed=4)
    assert length_s(slow) == pytest.approx(4 * length_s(fast), rel=0.01)
    assert (await speak(caller, voice={"id": "voice_1"})).status == 200
    assert (await speak(caller, speed=5)).status == 400


async def test_streamed_speech(caller: Caller) -> None:
    whole = await speak(caller)
    stream = await speak(caller, stream_format="sse")
    *deltas, done = stream.json_events
    for delta in deltas:
        assert_published("openai", "speech_delta", delta)
    assert_published("openai", "speech_done", done)
    assert b"".join(base64.b64decode(delta["audio"]) for delta in deltas) == whole.body
    assert done["usage"]["input_tokens"] == 5
    silent = await speak(caller, stream_format="sse", input="x [[sandbox: no_usage]]")
    assert "usage" not in silent.json_events[-1]


async def test_huge_speech(caller: Caller) -> None:
    assert len((await speak(caller, input="x [[sandbox: huge=1234567]]")).body) == 1_234_567


@pytest.mark.parametrize("form", ["mp3", "wav", "flac"])
@pytest.mark.parametrize("model", ["whisper-1", "gpt-4o-transcribe"])
async def test_what_was_spoken_is_understood(caller: Caller, form: str, model: str) -> None:
    sound = (await speak(caller, response_format=form)).body
    answer = await transcribe(caller, sound, f"a.{form}", model=model)
    assert_published("openai", "transcription", answer.json)
    assert answer.json["text"] == TEXT
    usage = answer.json["usage"]
    if model == "whisper-1":
        assert usage == {"type": "duration", "seconds": 2.0}
    else:
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert usage["output_tokens"] == 5


async def test_the_other_forms_of_a_transcript(caller: Caller) -> None:
    sound = (await speak(caller, response_format="wav")).body
    text = await transcribe(caller, sound, response_format="text")
    assert (text.headers["Content-Type"], text.body.decode()) == ("text/plain; charset=utf-8", TEXT + "\n")
    assert (await transcribe(caller, sound, response_format="srt")).body.startswith(b"1\n00:00:00,000 --> ")
    assert (await transcribe(caller, sound, response_format="vtt")).body.startswith(b"WEBVTT\n\n00:00:00.000 --> ")
    verbose = await transcribe(caller, sound, response_format="verbose_json", **{"timestamp_granularities[]": "word"})
    assert_published("openai", "transcription_verbose", verbose.json)
    assert [word["word"] for word in verbose.json["words"]] == TEXT.split()
    assert "segments" not in verbose.json
    verbose = await transcribe(caller, sound, response_format="verbose_json")
    assert_published("openai", "transcription_verbose", verbose.json)
    assert [segment["text"] for segment in verbose.json["segments"]] == [TEXT]
    diarized = await transcribe(caller, sound, model="gpt-4o-transcribe-diarize", response_format="diarized_json")
    assert_published("openai", "transcription_diarized", diarized.json)


async def test_a_translation(caller: Caller) -> None:
    sound = (await speak(caller, response_format="wav")).body
    plain = await transcribe(caller, sound, work="translations")
    assert_published("openai", "translation", plain.json)
    assert plain.json == {"text": TEXT}
    verbose = await transcribe(caller, sound, work="translations", response_format="verbose_json")
    assert_published("openai", "translation_verbose", verbose.json)
    assert (verbose.json["task"], verbose.json["language"]) == ("translate", "english")
    assert (await transcribe(caller, sound, work="translations", response_format="srt")).body.startswith(b"1\n")
    for change in ({"language": "de"}, {"model": "gpt-4o-transcribe"}, {"response_format": "diarized_json"}):
        assert (await transcribe(caller, sound, work="translations", **change)).status == 400


async def test_a_streamed_transcript(caller: Caller) -> None:
    sound = (await speak(caller, response_format="wav")).body
    *deltas, done = (await transcribe(caller, sound, model="gpt-4o-transcribe", stream="true")).json_events
    for delta in deltas:
        assert_published("openai", "transcript_delta", delta)
    assert_published("openai", "transcript_done", done)
    assert "".join(delta["delta"] for delta in deltas) == done["text"] == TEXT
    # Whisper does not stream, it just answers.
    assert (await transcribe(caller, sound, stream="true")).json["text"] == TEXT


async def test_transcriptions_that_are_refused(caller: Caller) -> None:
    assert (await transcribe(caller, b"x", "a.txt")).error["param"] == "file"
    assert (await transcribe(caller, b"x", model="gpt-4o-transcribe", response_format="srt")).status == 400
    assert (await transcribe(caller, b"x", temperature="hot")).error["param"] == "temperature"
    assert (await transcribe(caller, b"x", colour="red")).error["param"] == "colour"
    assert (await transcribe(caller, bytes(26_214_401))).status == 413
    form = aiohttp.FormData({"model": "whisper-1"}, default_to_multipart=True)
    answer = await caller.post("/openai/v1/audio/transcriptions", data=form)
    assert (answer.status, answer.error["param"]) == (400, "file")


async def test_a_transcript_without_usage(caller: Caller) -> None:
    assert "usage" not in (await transcribe(caller, b"x", prompt="[[sandbox: no_usage]]")).json
