"""ElevenLabs' speech and transcription: where things go, what they cost, what they are."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bitmesh_proxy.calls import Media, Operation, SpeechCall, SpokenWord, Transcript, TranscriptionCall, Usage
from bitmesh_proxy.dialects.elevenlabs import speech_dialect, transcription_dialect
from bitmesh_proxy.errors import InvalidRequest, UpstreamBroken
from tests.dialects.cuts import sample
from tests.dialects.offers import make_offer
from tests.providers.contracts import sent_form, sent_json

SPEECH = speech_dialect()
TRANSCRIPTION = transcription_dialect()
SOUND = Media(kind="audio", data=b"ID3", media_type="audio/mpeg")


def speech(**fields: Any) -> SpeechCall:
    return SpeechCall(**{"model": "m", "text": "Grüezi", "voice": "v1", **fields})


def request_of(call: SpeechCall, **offer: Any) -> Any:
    return SPEECH.request(call, make_offer(Operation.SPEECH, "eleven_v3", **offer))


def transcription(**fields: Any) -> TranscriptionCall:
    return TranscriptionCall(**{"model": "m", "audio": SOUND, **fields})


def form_of(call: TranscriptionCall) -> dict[str, list[bytes]]:
    return sent_form(TRANSCRIPTION.request(call, make_offer(Operation.TRANSCRIPTION, "scribe_v2")))


@pytest.mark.parametrize(
    ("asked", "path", "sound", "media_type"),
    [
        (None, "/text-to-speech/v1/stream", "mp3_44100_128", "audio/mpeg"),
        ("mp3", "/text-to-speech/v1/stream", "mp3_44100_128", "audio/mpeg"),
        ("opus", "/text-to-speech/v1/stream", "opus_48000_128", "audio/ogg"),
        ("pcm", "/text-to-speech/v1/stream", "pcm_24000", "audio/pcm"),
        ("wav", "/text-to-speech/v1", "wav_44100", "audio/wav"),
        ("mp3_22050_32", "/text-to-speech/v1/stream", "mp3_22050_32", "audio/mpeg"),
        ("ulaw_8000", "/text-to-speech/v1/stream", "ulaw_8000", "audio/basic"),
    ],
)
def test_the_format_is_asked_for_in_the_query(asked: str | None, path: str, sound: str, media_type: str) -> None:
    call = speech(output_format=asked)
    request = request_of(call)
    assert (request.path, request.query) == (path, (("output_format", sound),))
    assert SPEECH.media_type(call, {}) == media_type
    assert SPEECH.media_type(call, {"content-type": "Audio/MPEG"}) == "audio/mpeg"
    assert SPEECH.media_type(call, {"Content-Type": "application/octet-stream"}) == media_type


def test_voices_have_names_and_cannot_leave_their_place_in_the_path() -> None:
    options = {"default_voice": "alloy", "voices": {"alloy": "21m00Tcm4TlvDq8ikWAM"}}
    for voice in (None, "alloy"):
        path = request_of(speech(voice=voice), options=options).path
        assert path == "/text-to-speech/21m00Tcm4TlvDq8ikWAM/stream"
    assert request_of(speech(voice="../x?y=/z")).path == "/text-to-speech/..%2Fx%3Fy%3D%2Fz/stream"
    for voice in (".", ".."):
        with pytest.raises(InvalidRequest) as refused:
            request_of(speech(voice=voice))
        assert refused.value.param == "voice"


def test_the_body() -> None:
    call = speech(speed=1.1, options={"seed": 7, "voice_settings": {"stability": 0.4}, "unknown": 1})
    assert sent_json(request_of(call, defaults={"apply_text_normalization": "on", "seed": 1})) == {
        "apply_text_normalization": "on",
        "text": "Grüezi",
        "model_id": "eleven_v3",
        "seed": 7,
        "voice_settings": {"stability": 0.4, "speed": 1.1},
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"voice": None}, "voice"),
        ({"speed": 2.0}, "speed"),
        ({"instructions": "Whisper"}, "instructions"),
        ({"output_format": "flac"}, "response_format"),
        ({"output_format": "mp3_x&a=b"}, "response_format"),
        ({"options": {"stream_format": "sse"}}, "stream_format"),
    ],
)
def test_what_cannot_be_spoken_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_of(speech(**fields))
    assert caught.value.param == param


def test_characters_are_confirmed_by_the_header() -> None:
    assert SPEECH.read_usage(speech(), {"Character-Cost": "3"}) == Usage(characters=6)
    assert SPEECH.read_usage(speech(), {"character-cost": "3"}) == Usage(characters=6)
    assert SPEECH.read_usage(speech(), {"character-cost": "0"}) == Usage()
    assert SPEECH.read_usage(speech(), {}) == Usage(characters=6, is_estimated=True)


def test_a_sound_is_a_file_or_a_link() -> None:
    options = {"diarize": True, "temperature": 0.5, "timestamp_granularities": ["word", "segment"], "unknown": 1}
    assert form_of(transcription(language="de", response_format="text", options=options)) == {
        "model_id": [b"scribe_v2"],
        "language_code": [b"de"],
        "timestamps_granularity": [b"word"],
        "diarize": [b"true"],
        "temperature": [b"0.5"],
        "file": [b"ID3"],
    }
    link = Media(kind="audio", url="https://x.test/a.mp3")
    assert form_of(transcription(audio=link)) == {"model_id": [b"scribe_v2"], "source_url": [b"https://x.test/a.mp3"]}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "Ueli"}, "prompt"),
        ({"response_format": "srt"}, "response_format"),
        ({"into_english": True}, "model"),
    ],
)
def test_what_cannot_be_transcribed_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        form_of(transcription(**fields))
    assert caught.value.param == param


def test_a_transcript_is_read_with_its_length() -> None:
    body = sample("elevenlabs/transcript.json")
    assert TRANSCRIPTION.read_transcript(transcription(), body) == Transcript(
        text="Hello world!",
        language="eng",
        duration_s=1.5,
        words=[SpokenWord("Hello", 0.119, 0.5), SpokenWord("world!", 0.6, 1.25)],
    )
    assert TRANSCRIPTION.read_usage(transcription(), body) == Usage(duration_ms=1500)
    answer = orjson.loads(body)
    del answer["audio_duration_secs"]
    assert TRANSCRIPTION.read_usage(transcription(), orjson.dumps(answer)) == Usage(duration_ms=1250)
    silent = b'{"text":"","words":[{"type":"spacing","end":null}]}'
    assert TRANSCRIPTION.read_usage(transcription(duration_s=2.0), silent) == Usage(duration_ms=2000, is_estimated=True)
    nothing_said = b'{"text":"","words":[],"audio_duration_secs":2.0}'
    assert TRANSCRIPTION.read_transcript(transcription(), nothing_said) == Transcript(text="", duration_s=2.0, words=[])
    assert TRANSCRIPTION.read_usage(transcription(), nothing_said) == Usage(duration_ms=2000)
    with pytest.raises(UpstreamBroken):
        TRANSCRIPTION.read_usage(transcription(), b"<html>")
