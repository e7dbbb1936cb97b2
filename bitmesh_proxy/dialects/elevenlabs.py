"""ElevenLabs: speech as a stream of bytes, and text from speech.

The voice is part of the path, the format of the sound a query parameter. An answer's header says what it cost in the
provider's own credits, which are worth more or fewer characters by model. Source: the API description that ElevenLabs
publishes, 2026-08-22.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import orjson

from bitmesh_proxy.calls import JsonObject, SpeechCall, SpokenWord, Transcript, TranscriptionCall, Usage
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import SpeechDialect, TranscriptionDialect, UpstreamRequest
from bitmesh_proxy.dialects.json_answers import objects, read_success, string
from bitmesh_proxy.dialects.media_inputs import file_part, is_remote, link_of, text_part
from bitmesh_proxy.errors import MissingParameter, UnsupportedParameter, UnsupportedValue

#: The words of OpenAI's speech in the provider's: codec, samples a second, kbit a second.
_FORMATS: Final = {
    "mp3": "mp3_44100_128",
    "opus": "opus_48000_128",
    "pcm": "pcm_24000",
    "wav": "wav_44100",
}
_DEFAULT_FORMAT: Final = "mp3_44100_128"
_OWN_FORMAT: Final = re.compile(r"(?:mp3|opus|pcm|wav|ulaw|alaw)_\d{4,5}(?:_\d{2,3})?")
_MEDIA_TYPES: Final = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "pcm": "audio/pcm",
    "wav": "audio/wav",
    "ulaw": "audio/basic",
    "alaw": "audio/x-alaw-basic",
}
#: Documentation of voice settings: slower or faster than this is refused.
_SLOWEST: Final = 0.7
_FASTEST: Final = 1.2

_SPEECH_OPTIONS: Final = (
    "apply_text_normalization",
    "language_code",
    "next_text",
    "previous_text",
    "seed",
    "voice_settings",
)
_TRANSCRIPTION_OPTIONS: Final = ("diarize", "num_speakers", "seed", "tag_audio_events", "temperature")


def speech_dialect() -> SpeechDialect:
    """``POST /text-to-speech/{voice}/stream``.

    An offer's options: ``default_voice``; ``voices`` maps callers' names of voices to the provider's ids.
    """
    return SpeechDialect(request=_speech_request, read_usage=_speech_usage, media_type=_media_type)


def transcription_dialect() -> TranscriptionDialect:
    """``POST /speech-to-text``, a form. The provider fetches links itself."""
    return TranscriptionDialect(
        wire_format="elevenlabs_transcription",
        request=_transcription_request,
        read_usage=_transcription_usage,
        read_transcript=_transcript,
    )


def _speech_request(call: SpeechCall, offer: Offer) -> UpstreamRequest:
    if call.instructions:
        raise UnsupportedParameter("This model takes no instructions.", param="instructions")
    if call.options.get("stream_format") == "sse":
        raise UnsupportedValue("This model's speech comes as bytes, not as events.", param="stream_format")
    voice = call.voice or offer.options.get("default_voice")
    if not voice:
        raise MissingParameter("This model needs a voice.", param="voice")
    voice = offer.options.get("voices", {}).get(voice, voice)
    if voice in (".", ".."):  # all that can leave its place in the path, for there is nothing in them to be escaped
        raise UnsupportedValue("This model knows no such voice.", param="voice")
    sound = _format_of(call)
    chosen = {name: call.options[name] for name in _SPEECH_OPTIONS if call.options.get(name) is not None}
    body: dict[str, Any] = {**offer.defaults, "text": call.text, "model_id": offer.upstream_model, **chosen}
    if call.speed is not None:
        if not _SLOWEST <= call.speed <= _FASTEST:
            raise UnsupportedValue(f"This model speaks at a speed of {_SLOWEST} to {_FASTEST}.", param="speed")
        body["voice_settings"] = {**body.get("voice_settings", {}), "speed": call.speed}
    # WAV has its length in front, so that it cannot be streamed.
    ending = "" if sound.startswith("wav") else "/stream"
    return UpstreamRequest(
        path=f"/text-to-speech/{quote(str(voice), safe='')}{ending}",
        query=(("output_format", sound),),
        headers={"Accept": "*/*"},
        body=orjson.dumps(body),
    )


def _format_of(call: SpeechCall) -> str:
    asked = call.output_format
    if asked is None:
        return _DEFAULT_FORMAT
    if asked in _FORMATS:
        return _FORMATS[asked]
    if _OWN_FORMAT.fullmatch(asked):
        return asked
    raise UnsupportedValue(f"This model makes {', '.join(_FORMATS)}.", param="response_format")


def _speech_usage(call: SpeechCall, headers: Mapping[str, str]) -> Usage:
    """The characters of the text, confirmed by the header (nothing, where it says that it cost nothing)."""
    cost = next((value for name, value in headers.items() if name.lower() == "character-cost"), None)
    if cost is None:
        return Usage(characters=len(call.text), is_estimated=True)
    return Usage(characters=0 if cost.strip() == "0" else len(call.text))


def _media_type(call: SpeechCall, headers: Mapping[str, str]) -> str:
    declared = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    declared = declared.partition(";")[0].strip().lower()
    return declared if declared.startswith("audio/") else _MEDIA_TYPES[_format_of(call).partition("_")[0]]


def _transcription_request(call: TranscriptionCall, offer: Offer) -> UpstreamRequest:
    if call.into_english:
        raise UnsupportedValue("This model does not translate.", param="model")
    if call.prompt:
        raise UnsupportedParameter("This model takes no prompt.", param="prompt")
    if call.response_format not in (None, "json", "text", "verbose_json"):
        raise UnsupportedValue("This model answers json, text and verbose_json.", param="response_format")
    fields = {
        **offer.defaults,
        "model_id": offer.upstream_model,
        "language_code": call.language,
        "timestamps_granularity": _granularity(call),
        **{name: call.options.get(name) for name in _TRANSCRIPTION_OPTIONS},
    }
    parts = [text_part(name, value) for name, value in fields.items() if value is not None]
    if is_remote(call.audio):
        parts.append(text_part("source_url", link_of(call.audio)))
    else:
        parts.append(file_part("file", call.audio, param="file"))
    return UpstreamRequest(path="/speech-to-text", form=tuple(parts))


def _granularity(call: TranscriptionCall) -> str | None:
    asked = call.options.get("timestamp_granularities")
    return None if asked is None else "word" if "word" in asked else "none"


def _read_transcript(body: bytes) -> dict[str, Any]:
    return read_success(body, "text", "words", may_be_empty=True)


def _transcript(_call: TranscriptionCall, body: bytes) -> Transcript:
    answer = _read_transcript(body)
    return Transcript(
        text=string(answer.get("text")),
        language=string(answer.get("language_code")) or None,
        duration_s=_heard_s(answer) or None,
        words=[
            SpokenWord(string(word.get("text")), _seconds(word.get("start")), end_s)
            for word in objects(answer.get("words"))
            if word.get("type") == "word" and (end_s := _seconds(word.get("end")))
        ],
    )


def _transcription_usage(call: TranscriptionCall, body: bytes) -> Usage:
    """The sound's length as the provider says; else where its last word ends; else as it was measured."""
    if seconds := _heard_s(_read_transcript(body)):
        return Usage(duration_ms=int(seconds * 1000))
    return Usage(duration_ms=int((call.duration_s or 0) * 1000), is_estimated=True)


def _heard_s(answer: JsonObject) -> float:
    """The sound's length as the provider says; else where its last word ends; else 0."""
    ends = [end for word in objects(answer.get("words")) if (end := _seconds(word.get("end")))]
    return _seconds(answer.get("audio_duration_secs")) or max(ends, default=0.0)


def _seconds(value: object) -> float:
    """A length in seconds; 0 for anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if 0 < value < 1e9 else 0.0
