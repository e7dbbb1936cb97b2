"""Requests for speech and transcripts, and transcripts as callers want them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bitmesh_proxy.calls import Media, SpeechCall, SpokenWord, Transcript, TranscriptionCall
from bitmesh_proxy.context import Caller
from bitmesh_proxy.endpoints.openai_audio import (
    TRANSCRIPTION_FIELDS,
    TRANSLATION_FIELDS,
    parse_speech,
    parse_transcription,
    parse_translation,
    render_transcript,
)
from bitmesh_proxy.endpoints.openai_fields import body_of_form
from bitmesh_proxy.errors import InvalidRequest, MissingParameter, UnsupportedParameter, UnsupportedValue

CALLER = Caller(account_id="acc_1", key_id="key_1")
SOUND = Media(kind="audio", data=b"RIFF", media_type="audio/wav")


def test_speech_arrives() -> None:
    body = {
        "model": "m", "input": "hello", "voice": {"id": "v1"}, "response_format": "wav", "speed": 1.5,
        "instructions": "slowly", "stream_format": "sse", "own": 1, "test": True,
    }  # fmt: skip
    assert parse_speech(body, CALLER) == SpeechCall(
        model="m",
        text="hello",
        voice="v1",
        output_format="wav",
        speed=1.5,
        instructions="slowly",
        options={"stream_format": "sse", "own": 1},
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", ""), ("input", 5), ("input", "a" * 100_001), ("voice", ""), ("voice", 5), ("voice", {"id": 5}),
        ("response_format", "ogg"), ("speed", 0.2), ("speed", 4.1), ("speed", "1"), ("instructions", 1),
        ("stream_format", "ndjson"),
    ],
)  # fmt: skip
def test_a_bad_field_of_speech_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_speech({"model": "m", "input": "hello", field: value}, CALLER)
    assert caught.value.param == field


def test_a_transcription_arrives_from_a_form() -> None:
    texts = [
        ("model", "m"), ("language", "en"), ("prompt", "p"), ("response_format", "verbose_json"),
        ("temperature", "0.5"), ("timestamp_granularities[]", "word"),
        ("chunking_strategy", '{"type":"server_vad"}'), ("stream", "false"),
    ]  # fmt: skip
    body = body_of_form(texts, [("file", SOUND)], TRANSCRIPTION_FIELDS)
    assert parse_transcription(body, CALLER) == TranscriptionCall(
        model="m",
        audio=SOUND,
        language="en",
        prompt="p",
        response_format="verbose_json",
        options={
            "temperature": 0.5,
            "timestamp_granularities": ["word"],
            "chunking_strategy": {"type": "server_vad"},
        },
    )


def test_what_a_transcription_lacks_or_cannot_be_is_named() -> None:
    with pytest.raises(MissingParameter, match="'file'"):
        parse_transcription({"model": "m"}, CALLER)
    for change, error, param in (
        ({"file": "a link"}, InvalidRequest, "file"),
        ({"file": [SOUND, SOUND]}, InvalidRequest, "file"),
        ({"stream": True}, UnsupportedParameter, "stream"),
        ({"chunking_strategy": "often"}, InvalidRequest, "chunking_strategy"),
        ({"chunking_strategy": '{"a":' * 300 + "1" + "}" * 300}, InvalidRequest, "chunking_strategy"),
        ({"temperature": 2}, InvalidRequest, "temperature"),
        ({"timestamp_granularities": "word"}, InvalidRequest, "timestamp_granularities"),
    ):
        with pytest.raises(error) as caught:
            parse_transcription({"model": "m", "file": SOUND, **change}, CALLER)
        assert caught.value.param == param


def test_a_translation_takes_what_openai_publishes_for_it() -> None:
    texts = [("model", "m"), ("prompt", "p"), ("response_format", "vtt"), ("temperature", "1"), ("stream", "false")]
    body = body_of_form(texts, [("file", SOUND)], TRANSLATION_FIELDS)
    assert parse_translation(body, CALLER) == TranscriptionCall(
        model="m", audio=SOUND, into_english=True, prompt="p", response_format="vtt", options={"temperature": 1}
    )
    for change, error, param in (
        ({"file": None}, MissingParameter, "file"),
        ({"response_format": "diarized_json"}, InvalidRequest, "response_format"),
        ({"temperature": 2}, InvalidRequest, "temperature"),
        ({"stream": True}, UnsupportedParameter, "stream"),
        ({"language": "de"}, UnsupportedParameter, "language"),
        ({"timestamp_granularities": ["word"]}, UnsupportedParameter, "timestamp_granularities"),
    ):
        with pytest.raises(error) as caught:
            parse_translation({"model": "m", "file": SOUND, **change}, CALLER)
        assert caught.value.param == param


def test_a_translation_is_english() -> None:
    call = TranscriptionCall(model="m", audio=SOUND, into_english=True, response_format="verbose_json")
    told = Transcript(text="Hello", language="fr", duration_s=2.5)
    assert orjson.loads(render_transcript(call, told)[0]) == {
        "task": "translate",
        "language": "english",
        "duration": 2.5,
        "text": "Hello",
    }


def test_a_text_is_written_as_asked() -> None:
    call = TranscriptionCall(model="m", audio=SOUND, language="en", duration_s=2.5)

    def written(response_format: str | None) -> tuple[bytes, str]:
        return render_transcript(
            TranscriptionCall(
                model="m", audio=SOUND, language="en", duration_s=call.duration_s, response_format=response_format
            ),
            Transcript(text="hé"),
        )

    assert written("text") == ("hé\n".encode(), "text/plain; charset=utf-8")
    for response_format in (None, "json"):
        body, content_type = written(response_format)
        assert (orjson.loads(body), content_type) == ({"text": "hé"}, "application/json")
    assert orjson.loads(written("verbose_json")[0]) == {
        "task": "transcribe",
        "language": "en",
        "text": "hé",
        "duration": 2.5,
    }
    with pytest.raises(UnsupportedValue) as caught:
        written("srt")
    assert caught.value.param == "response_format"


def test_what_the_provider_tells_is_told() -> None:
    told = Transcript(
        text="hé you", language="fr", duration_s=2.5, words=[SpokenWord("hé", 0.5, 1), SpokenWord("you", 1, 2)]
    )

    def verbose(**fields: Any) -> Any:
        call = TranscriptionCall(model="m", audio=SOUND, response_format="verbose_json", **fields)
        return orjson.loads(render_transcript(call, told)[0])

    plain = {"task": "transcribe", "language": "fr", "duration": 2.5, "text": "hé you"}
    assert verbose(duration_s=9.0) == verbose(options={"timestamp_granularities": ["segment"]}) == plain
    words = [{"word": "hé", "start": 0.5, "end": 1.0}, {"word": "you", "start": 1.0, "end": 2.0}]
    asked = verbose(language="en", options={"timestamp_granularities": ["segment", "word"]})
    assert asked == {**plain, "language": "en", "words": words}
