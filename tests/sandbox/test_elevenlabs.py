"""ElevenLabs' API as it publishes it: speech whole and streamed, what it costs, transcription, refusals."""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientPayloadError

from bitmesh_proxy.sandbox.faults import Fault, parse_directives
from tests.sandbox.callers import Answer, Caller, assert_published, calling

TEXT = "Good morning, dear reader"
VOICE = "21m00Tcm4TlvDq8ikWAM"


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as caller:
        caller.session.headers["xi-api-key"] = "some-key"
        yield caller


async def speak(
    caller: Caller, text: str = TEXT, form: str | None = None, *, voice: str = VOICE, ending: str = "", **more: Any
) -> Answer:
    body = {"text": text, "model_id": "eleven_multilingual_v2", **more}
    query = f"?output_format={form}" if form else ""
    return await caller.post(f"/elevenlabs/v1/text-to-speech/{voice}{ending}{query}", body)


async def transcribe(caller: Caller, sound: bytes | None, **fields: str) -> Answer:
    form = aiohttp.FormData({"model_id": "scribe_v2", **fields}, default_to_multipart=True)
    if sound is not None:
        form.add_field("file", io.BytesIO(sound), filename="a.wav")
    return await caller.post("/elevenlabs/v1/speech-to-text", data=form)


def detail(answer: Answer) -> Any:
    return answer.json["detail"]


@pytest.mark.parametrize(
    ("form", "media_type", "magic"),
    [(None, "audio/mpeg", b"ID3"), ("mp3_24000_48", "audio/mpeg", b"ID3"), ("pcm_16000", "audio/pcm", b"\0\0")],
)
async def test_a_stream_tells_the_same_as_the_whole(
    caller: Caller, form: str | None, media_type: str, magic: bytes
) -> None:
    whole, streamed = [await speak(caller, form=form, ending=ending) for ending in ("", "/stream")]
    assert whole.body == streamed.body
    assert whole.body.startswith(magic)
    for answer in (whole, streamed):
        assert (answer.status, answer.headers["Content-Type"]) == (200, media_type)
        assert answer.headers["character-cost"] == str(len(TEXT))
        assert answer.headers["request-id"]
    assert int(whole.headers["Content-Length"]) == len(whole.body)
    assert streamed.headers["Transfer-Encoding"] == "chunked"


async def test_a_wave_has_the_rate_asked_for_and_is_not_streamed(caller: Caller) -> None:
    with wave.open(io.BytesIO((await speak(caller, form="wav_16000")).body)) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (16_000, 16 * 72 * len(TEXT))
    refused = await speak(caller, form="wav_16000", ending="/stream")
    assert_published("elevenlabs", "validation_error", refused.json)
    assert (refused.status, detail(refused)[0]["loc"]) == (422, ["query", "output_format"])


async def test_a_flash_model_costs_half_and_speed_shortens(caller: Caller) -> None:
    flash = await speak(caller, model_id="eleven_flash_v2_5")
    assert flash.headers["character-cost"] == str((len(TEXT) + 1) // 2)
    fast = await speak(caller, form="pcm_16000", voice_settings={"speed": 1.2})
    assert len(fast.body) < len((await speak(caller, form="pcm_16000")).body)
    assert "character-cost" not in (await speak(caller, "x [[sandbox: no_usage]]")).headers


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"voice": "alloy"}, "voice_not_found"),
        ({"model_id": "eleven_none"}, "model_not_found"),
        ({"model_id": "no-such-model"}, "model_not_found"),
        ({"text": " "}, "input_text_empty"),
        ({"text": "x" * 10_001}, "max_character_limit_exceeded"),
        ({"voice_settings": {"speed": 2}}, "invalid_voice_settings"),
        ({"form": "opus_48000_64"}, "unsupported_output_format"),
    ],
)
async def test_what_is_refused(caller: Caller, more: dict[str, Any], word: str) -> None:
    answer = await speak(caller, **more)
    assert (answer.status, detail(answer)["status"]) == (400, word)
    assert detail(answer)["message"]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, ["body", "text"]),
        ({"text": "x", "seed": "1"}, ["body", "seed"]),
        ({"text": "x", "voice_settings": {"stability": 2}}, ["body", "voice_settings", "stability"]),
    ],
)
async def test_what_the_schema_refuses_is_a_list(caller: Caller, body: Any, place: list[str]) -> None:
    answer = await caller.post(f"/elevenlabs/v1/text-to-speech/{VOICE}", body)
    assert answer.status == 422
    assert_published("elevenlabs", "validation_error", answer.json)
    assert detail(answer)[0]["loc"] == place


@pytest.mark.parametrize(("key", "word"), [("bad-key", "invalid_api_key"), ("", "needs_authorization")])
async def test_a_key_is_required(caller: Caller, key: str, word: str) -> None:
    answer = await caller.get("/elevenlabs/v1/models", headers={"xi-api-key": key})
    assert (answer.status, detail(answer)["status"]) == (401, word)


async def test_faults_are_worded_as_its_own(caller: Caller) -> None:
    busy = await speak(caller, "x [[sandbox: status=429]]")
    assert (busy.status, detail(busy)["status"]) == (429, "too_many_concurrent_requests")
    spent = await speak(caller, "x [[sandbox: status=401 code=quota_exceeded]]")
    assert (spent.status, detail(spent)["status"]) == (401, "quota_exceeded")
    moderated = await speak(caller, "x [[sandbox: moderated]]")
    assert (moderated.status, detail(moderated)["status"]) == (400, "content_moderation_violation")


async def test_a_stream_can_break_off(caller: Caller) -> None:
    with pytest.raises(ClientPayloadError):
        await speak(caller, "x [[sandbox: break_after=3]]", ending="/stream")


async def test_what_was_said_is_heard(caller: Caller) -> None:
    said = await speak(caller, form="wav_16000")
    heard = await transcribe(caller, said.body)
    assert_published("elevenlabs", "transcription", heard.json)
    assert heard.json["text"] == TEXT
    assert heard.json["audio_duration_secs"] == pytest.approx(0.072 * len(TEXT))
    assert "".join(word["text"] for word in heard.json["words"]) == TEXT
    assert heard.json["words"][-1]["end"] == pytest.approx(heard.json["audio_duration_secs"], abs=0.01)
    bare = (await transcribe(caller, said.body, timestamps_granularity="none", diarize="true")).json["words"]
    assert not any("start" in word for word in bare)
    assert {word["speaker_id"] for word in bare} == {"speaker_0"}


@pytest.mark.parametrize(
    ("sound", "fields", "status"),
    [
        (None, {}, 400),
        (None, {"source_url": "https://example.org/a.mp3"}, 400),
        (b"RIFF", {"source_url": "https://example.org/a.mp3"}, 400),
        (b"RIFF", {"webhook": "true"}, 400),
        (b"RIFF", {"model_id": "whisper-1"}, 422),
        (b"RIFF", {"num_speakers": "33"}, 422),
    ],
)
async def test_transcriptions_that_are_refused(
    caller: Caller, sound: bytes | None, fields: dict[str, str], status: int
) -> None:
    answer = await transcribe(caller, sound, **fields)
    assert answer.status == status
    assert detail(answer)


async def test_a_transcription_suffers_what_control_says(caller: Caller) -> None:
    caller.sandbox.faults.add(Fault(directives=parse_directives("status=503"), path="/elevenlabs/*"))
    answer = await transcribe(caller, b"RIFF")
    assert (answer.status, detail(answer)["status"]) == (503, "system_busy")
    assert (await transcribe(caller, b"RIFF")).status == 200


async def test_models_are_listed(caller: Caller) -> None:
    listed = (await caller.get("/elevenlabs/v1/models")).json
    for model in listed:
        assert_published("elevenlabs", "model", model)
    assert "eleven_v3" in {model["model_id"] for model in listed}
