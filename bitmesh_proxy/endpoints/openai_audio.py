"""OpenAI's ``audio/speech``, ``audio/transcriptions`` and ``audio/translations``. Pure.

Requests become calls, and transcripts answers; a translation is a transcript in English. Speech passes through as it
comes. A transcript passes through where the provider speaks this format; else what it tells is written as the caller
asked for it. Source: OpenAI's published API description of 2026-08-21.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from msgspec.structs import replace

from bitmesh_proxy.calls import JsonObject, Media, SpeechCall, Transcript, TranscriptionCall
from bitmesh_proxy.context import Caller, Surface
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.endpoints.openai_fields import (
    Field,
    Fields,
    boolean,
    check_fields,
    list_of,
    model_of,
    number,
    one_of,
    others,
    required,
    text,
)
from bitmesh_proxy.errors import InvalidRequest, UnsupportedParameter, UnsupportedValue
from bitmesh_proxy.nesting import MAX_WRITTEN_DEPTH, is_deeper

MAX_TEXT_CHARACTERS: Final = 100_000

_SPEECH_FIELDS: Final[Fields] = {
    "input": text(MAX_TEXT_CHARACTERS, min_characters=1),
    "instructions": text(4096),
    "response_format": one_of("mp3", "opus", "aac", "flac", "wav", "pcm"),
    "speed": number(0.25, 4),
    "stream_format": one_of("audio", "sse"),
}
#: Also how a form's texts become values.
TRANSCRIPTION_FIELDS: Final[Fields] = {
    "language": text(16),
    "prompt": text(10_000),
    "response_format": one_of("json", "text", "srt", "verbose_json", "vtt", "diarized_json"),
    "temperature": number(0, 1),
    "timestamp_granularities": list_of(("word", "segment")),
    "include": list_of(),
    "chunking_strategy": Field(
        expected="'auto' or an object",
        is_valid=lambda value: value == "auto" or isinstance(value, dict),
        read_text=lambda said: said if said == "auto" else _read_object(said),
    ),
    "stream": boolean(),
}
TRANSLATION_FIELDS: Final[Fields] = {
    **{name: TRANSCRIPTION_FIELDS[name] for name in ("prompt", "temperature", "stream")},
    "response_format": one_of("json", "text", "srt", "verbose_json", "vtt"),
}
#: What says how to transcribe, and nothing to those who translate.
_NOT_OF_TRANSLATIONS: Final = TRANSCRIPTION_FIELDS.keys() - TRANSLATION_FIELDS.keys()


def parse_speech(body: JsonObject, caller: Caller) -> SpeechCall:
    """``POST audio/speech``. Raises InvalidRequest."""
    model = model_of(body, caller)
    spoken = required(body, "input")
    check_fields(body, _SPEECH_FIELDS)
    return SpeechCall(
        model=model,
        text=spoken,
        voice=_voice_of(body.get("voice")),
        output_format=body.get("response_format"),
        speed=body.get("speed"),
        instructions=body.get("instructions"),
        options=others(body, ("model", "input", "voice", "response_format", "speed", "instructions", "test", "stream")),
    )


def _voice_of(value: object) -> str | None:
    """A name, or an object with the id of a voice of one's own."""
    if isinstance(value, dict):
        value = value.get("id")
    if value is None or (isinstance(value, str) and value):
        return value
    raise InvalidRequest("Invalid 'voice': expected the name of a voice.", param="voice")


def parse_transcription(body: JsonObject, caller: Caller) -> TranscriptionCall:
    """``POST audio/transcriptions``. Raises InvalidRequest."""
    return _transcription_call(body, caller, TRANSCRIPTION_FIELDS)


def parse_translation(body: JsonObject, caller: Caller) -> TranscriptionCall:
    """``POST audio/translations``: what was said, in English. Raises InvalidRequest."""
    call = _transcription_call(body, caller, TRANSLATION_FIELDS)
    for name in sorted(_NOT_OF_TRANSLATIONS):
        if body.get(name) is not None:
            raise UnsupportedParameter(f"'{name}' is not supported for translations.", param=name)
    return replace(call, into_english=True)


def _transcription_call(body: JsonObject, caller: Caller, fields: Fields) -> TranscriptionCall:
    model = model_of(body, caller)
    audio = required(body, "file")
    if not isinstance(audio, Media):
        raise InvalidRequest("Invalid 'file': expected one sound file in a form.", param="file")
    check_fields(body, fields)
    if body.get("stream"):
        raise UnsupportedParameter("'stream' is not supported here: transcripts come whole.", param="stream")
    return TranscriptionCall(
        model=model,
        audio=audio,
        language=body.get("language"),
        prompt=body.get("prompt"),
        response_format=body.get("response_format"),
        options=others(body, ("model", "file", "language", "prompt", "response_format", "stream", "test")),
    )


def render_transcript(call: TranscriptionCall, transcript: Transcript) -> tuple[bytes, str]:
    """A transcript as the caller asked for it, and its content type. Raises UnsupportedValue."""
    if call.response_format == "text":
        return (transcript.text + "\n").encode(), "text/plain; charset=utf-8"
    if call.response_format in (None, "json"):
        return orjson.dumps({"text": transcript.text}), "application/json"
    if call.response_format == "verbose_json":
        return orjson.dumps(_verbose(call, transcript)), "application/json"
    raise UnsupportedValue(
        f"No provider of this model answers in the format '{call.response_format}'.", param="response_format"
    )


def _verbose(call: TranscriptionCall, transcript: Transcript) -> JsonObject:
    """All that is known. Words where they were asked for; no segments, as no provider of another format tells any."""
    duration_s = transcript.duration_s or call.duration_s
    whole: dict[str, Any] = (
        {"task": "translate", "language": "english"}
        if call.into_english
        else {"task": "transcribe", "language": call.language or transcript.language}
    )
    if duration_s is not None:
        whole["duration"] = duration_s
    whole["text"] = transcript.text
    if "word" in call.options.get("timestamp_granularities", ()):
        whole["words"] = [{"word": each.text, "start": each.start_s, "end": each.end_s} for each in transcript.words]
    return whole


def _read_object(said: str) -> Any:
    try:
        value = orjson.loads(said)
    except orjson.JSONDecodeError:
        return said
    return said if is_deeper(value, MAX_WRITTEN_DEPTH) else value


SPEECH: Final = Endpoint(name="speech", surface=Surface.OPENAI, parse=parse_speech)
TRANSCRIPTIONS: Final = Endpoint(
    name="transcription",
    surface=Surface.OPENAI,
    parse=parse_transcription,
    render_transcript=render_transcript,
)
TRANSLATIONS: Final = replace(TRANSCRIPTIONS, name="translation", parse=parse_translation)
