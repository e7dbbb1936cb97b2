"""OpenAI's speech, transcription and translation. Source: OpenAI's published API description of 2026-08-21.

Speech is bytes with no word on what it used: the characters of the text are counted here, which is an estimate by the
books' terms although it is exact. A transcription names tokens or seconds, where it is JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from bitmesh_proxy.calls import SpeechCall, Transcript, TranscriptionCall, Usage
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import SpeechDialect, TranscriptionDialect, UpstreamRequest
from bitmesh_proxy.dialects.json_answers import child, milliseconds, read_success, string
from bitmesh_proxy.dialects.media_inputs import file_part, text_part
from bitmesh_proxy.dialects.openai_usage import parse_usage
from bitmesh_proxy.errors import MissingParameter, UnsupportedValue

TRANSCRIPTION_WIRE_FORMAT: Final = "openai_transcription"

MEDIA_TYPES: Final[Mapping[str, str]] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    "raw": "audio/pcm",
}

_TEXT_FORMATS: Final = frozenset({"text", "srt", "vtt"})
_TRANSCRIPTION_OPTIONS: Final = frozenset({"temperature", "chunking_strategy"})
_TRANSCRIPTION_LISTS: Final = frozenset({"include", "timestamp_granularities", "languages", "keywords"})


def speech_dialect(
    *,
    options: frozenset[str] = frozenset({"stream_format"}),
    takes_instructions: bool = True,
    takes_speed: bool = True,
    default_format: str = "mp3",
) -> SpeechDialect:
    """Make a provider's speech dialect. ``default_format`` is what it sends when none was asked for."""

    def request(call: SpeechCall, offer: Offer) -> UpstreamRequest:
        voice = call.voice or offer.options.get("default_voice")
        if not voice:
            raise MissingParameter("This model needs a voice.", param="voice")
        if call.options.get("stream_format") == "sse" and "stream_format" not in options:
            raise UnsupportedValue("This model's speech comes as bytes, not as events.", param="stream_format")
        said: dict[str, Any] = {
            "model": offer.upstream_model,
            "input": call.text,
            "voice": voice,
            "response_format": call.output_format,
            "speed": call.speed if takes_speed else None,
            "instructions": call.instructions if takes_instructions else None,
            **{name: value for name, value in call.options.items() if name in options},
        }
        body = {**offer.defaults, **{name: value for name, value in said.items() if value is not None}}
        return UpstreamRequest(path="/audio/speech", headers={"Accept": "*/*"}, body=orjson.dumps(body))

    def media_type(call: SpeechCall, headers: Mapping[str, str]) -> str:
        return _declared_type(headers) or MEDIA_TYPES.get(call.output_format or default_format, "audio/mpeg")

    return SpeechDialect(request=request, read_usage=_speech_usage, media_type=media_type)


def transcription_dialect() -> TranscriptionDialect:
    """``POST /audio/transcriptions`` or ``/audio/translations``, a form with the sound as a file."""
    return TranscriptionDialect(
        wire_format=TRANSCRIPTION_WIRE_FORMAT,
        request=_transcription_request,
        read_usage=_transcription_usage,
        read_transcript=lambda call, body: Transcript(text=_transcription_text(call, body)),
    )


def _speech_usage(call: SpeechCall, _headers: Mapping[str, str]) -> Usage:
    return Usage(characters=len(call.text), is_estimated=True)


def _declared_type(headers: Mapping[str, str]) -> str | None:
    """The answer's own type, unless it is one that says nothing."""
    value = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    declared = value.partition(";")[0].strip().lower()
    return declared if declared.startswith("audio/") or declared == "text/event-stream" else None


def _transcription_request(call: TranscriptionCall, offer: Offer) -> UpstreamRequest:
    fields: dict[str, Any] = {
        **offer.defaults,
        "model": offer.upstream_model,
        "language": call.language,
        "prompt": call.prompt,
        "response_format": call.response_format,
        **{name: value for name, value in call.options.items() if name in _TRANSCRIPTION_OPTIONS},
    }
    parts = [file_part("file", call.audio, param="file")]
    parts += [text_part(name, value) for name, value in fields.items() if value is not None]
    for name in sorted(_TRANSCRIPTION_LISTS & call.options.keys()):
        values = call.options[name]
        parts += [text_part(f"{name}[]", value) for value in (values if isinstance(values, list) else [values])]
    return UpstreamRequest(
        path="/audio/translations" if call.into_english else "/audio/transcriptions", form=tuple(parts)
    )


def _transcription_usage(call: TranscriptionCall, body: bytes) -> Usage:
    """Tokens or seconds as the provider says, else the length that was measured from the sound.

    No sound is of 0 tokens, and no text either: where one of the two cannot be read, the length says what both cost.
    """
    if call.response_format not in _TEXT_FORMATS:
        answer = _read_transcript(body)
        usage = child(answer, "usage")
        tokens = None if usage.get("type") == "duration" else parse_usage(usage)
        if tokens is not None and tokens.input_tokens and (tokens.output_tokens or not answer.get("text")):
            return tokens
        for seconds in (usage.get("seconds"), answer.get("duration")):
            if (duration_ms := milliseconds(seconds)) is not None:
                return Usage(duration_ms=duration_ms)
    return Usage(duration_ms=int((call.duration_s or 0) * 1000), is_estimated=True)


def _read_transcript(body: bytes) -> dict[str, Any]:
    return read_success(body, "text", "segments", "usage", may_be_empty=True)


def _transcription_text(call: TranscriptionCall, body: bytes) -> str:
    if call.response_format in _TEXT_FORMATS:
        return body.decode("utf-8", "replace")
    return string(_read_transcript(body).get("text"))
