"""ElevenLabs: ``/elevenlabs/v1``. Speech whole and as a stream of bytes, transcription, models.

Opus, µ-law and A-law are refused: not made here; an MP3 has always 24 kHz, whatever its name asks for. A transcription
is of an uploaded file: the sandbox fetches nothing. Source: the API description that ElevenLabs publishes (2026-08-22)
and its documentation of errors, models and the ``character-cost`` header, read 2026-11.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from aiohttp import web

from bitmesh_proxy.sandbox.files import pad
from bitmesh_proxy.sandbox.hearing import Heard, hear
from bitmesh_proxy.sandbox.plays import Ask, Json, Play, Refused, Route, text_at
from bitmesh_proxy.sandbox.replies import cut, send_bytes, send_json, send_stream
from bitmesh_proxy.sandbox.schemas import Violation
from bitmesh_proxy.sandbox.sounds import Speech, SpeechFormat
from bitmesh_proxy.sandbox.stage import Stage

DEFAULT_MODEL = "eleven_multilingual_v2"
DEFAULT_FORMAT = "mp3_44100_128"
#: Model → (name, most characters, credits a character). Others are unknown to the API, too.
MODELS: Mapping[str, tuple[str, int, float]] = {
    "eleven_v3": ("Eleven v3", 5_000, 1.0),
    "eleven_multilingual_v2": ("Eleven Multilingual v2", 10_000, 1.0),
    "eleven_flash_v2_5": ("Eleven Flash v2.5", 40_000, 0.5),
    "eleven_turbo_v2_5": ("Eleven Turbo v2.5", 40_000, 0.5),
}
VOICE: Final = re.compile(r"[A-Za-z0-9]{20}")
MP3_FORMATS = ("22050_32", "24000_48", "44100_32", "44100_64", "44100_96", "44100_128", "44100_192")
RATES_HZ = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
OPUS_FORMATS = ("48000_32", "48000_64", "48000_96", "48000_128", "48000_192")
#: Every ``output_format``; a stream has no WAV.
STREAMED_FORMATS = (
    *(f"mp3_{name}" for name in MP3_FORMATS),
    *(f"pcm_{rate}" for rate in RATES_HZ),
    *(f"opus_{name}" for name in OPUS_FORMATS),
    "ulaw_8000",
    "alaw_8000",
)
FORMATS = (*STREAMED_FORMATS, *(f"wav_{rate}" for rate in RATES_HZ))
CODECS: Mapping[str, SpeechFormat] = {"mp3": "mp3", "pcm": "pcm_s16le", "wav": "wav"}
SPEEDS = (0.7, 1.2)


# ---------------------------------------------------------------- refusals

#: The error's word where nobody said another.
WORDS: Mapping[int, str] = {
    401: "invalid_api_key",
    402: "payment_required",
    403: "forbidden",
    404: "not_found",
    413: "payload_too_large",
    429: "too_many_concurrent_requests",
    503: "system_busy",
}


def render_refusal(refused: Refused) -> Json:
    """An object with a word and a sentence; for what a schema refuses, a list as FastAPI writes it."""
    if refused.status == 422:
        where = [int(step) if step.isdecimal() else step for step in (refused.param or "body").split(".")]
        return {"detail": [{"loc": where, "msg": refused.message, "type": refused.kind or "value_error"}]}
    word = refused.code or WORDS.get(refused.status)
    if word is None:
        word = "invalid_parameters" if refused.status < 500 else "internal_server_error"
    return {"detail": {"status": word, "message": refused.message}}


def refuse_violation(violation: Violation) -> Refused:
    message = "Field required" if violation.kind == "missing" else violation.message
    place = "body." + violation.field.replace("[", ".").replace("]", "")
    return Refused(422, message, kind=violation.kind, param=place.rstrip("."))


def refuse_model(model: str) -> Refused:
    return Refused(400, f"A model with model ID {model} does not exist.", code="model_not_found")


def credential(headers: Mapping[str, str]) -> str | None:
    return headers.get("xi-api-key") or None


def missing_credential() -> Refused:
    message = "Neither authorization header nor xi-api-key received, please provide one."
    return Refused(401, message, code="needs_authorization")


# ---------------------------------------------------------------- speech


async def speak(ask: Ask) -> web.StreamResponse:
    speech, headers = _order(ask, FORMATS)
    data = await ask.stage.studio.render(speech)
    padded = pad(data, speech.media_type, ask.directives.huge).whole()
    return await send_bytes(ask, padded, media_type=speech.media_type, headers=headers)


async def speak_streamed(ask: Ask) -> web.StreamResponse:
    speech, headers = _order(ask, STREAMED_FORMATS)
    data = await ask.stage.studio.render(speech)
    padded = pad(data, speech.media_type, ask.directives.huge).whole()
    return await send_stream(ask, _pieces(ask, padded), media_type=speech.media_type, headers=headers)


async def _pieces(ask: Ask, data: bytes) -> AsyncIterator[bytes]:
    interval_ms = ask.directives.interval_ms
    interval_s = ask.stage.options.token_interval_s if interval_ms is None else interval_ms / 1000
    for piece in cut(data):
        await asyncio.sleep(interval_s)
        yield piece


def _order(ask: Ask, formats: tuple[str, ...]) -> tuple[Speech, dict[str, str]]:
    """What is to be said, and the headers that say what it costs. Raises Refused for what is not made."""
    body = ask.body
    voice = ask.request.match_info["voice"]
    if not VOICE.fullmatch(voice):
        raise Refused(400, f"A voice with the voice_id {voice} was not found.", code="voice_not_found")
    model = body.get("model_id", DEFAULT_MODEL)
    if model not in MODELS:
        raise refuse_model(model)
    _, most, credits_each = MODELS[model]
    if not body["text"].strip():
        raise Refused(400, "The input text is empty.", code="input_text_empty")
    if len(body["text"]) > most:
        message = f"The text is too long: {len(body['text'])} characters. This model takes at most {most}."
        raise Refused(400, message, code="max_character_limit_exceeded")
    form, rate_hz = _format(ask.request.query.get("output_format", DEFAULT_FORMAT), formats)
    speech = Speech(text=ask.prompt, voice=voice, format=form, rate_hz=rate_hz, speed=_speed(body))
    headers = {} if ask.directives.no_usage else {"character-cost": str(math.ceil(len(body["text"]) * credits_each))}
    return speech, headers | {"history-item-id": ask.stage.new_id(20)}


def _format(name: str, formats: tuple[str, ...]) -> tuple[SpeechFormat, int]:
    if name not in formats:
        known = ", ".join(f"'{known}'" for known in formats)
        raise Refused(422, f"Input should be {known}", kind="enum", param="query.output_format")
    codec, rate_hz, *_ = name.split("_")
    if codec not in CODECS:
        made = ", ".join(CODECS)
        raise Refused(
            400, f"The sandbox has no encoder for {codec}; it makes {made}.", code="unsupported_output_format"
        )
    return CODECS[codec], int(rate_hz)


def _speed(body: Json) -> float:
    speed = (body.get("voice_settings") or {}).get("speed")
    if speed is None:
        return 1.0
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        message = f"Invalid setting for speed received, expected to be from {SPEEDS[0]} to {SPEEDS[1]}."
        raise Refused(400, message, code="invalid_voice_settings")
    return float(speed)


# ---------------------------------------------------------------- transcription


async def transcribe(ask: Ask) -> web.StreamResponse:
    uploads = ask.files.get("file", ())
    addresses = [name for name in ("source_url", "cloud_storage_url") if ask.body.get(name)]
    if len(uploads) + len(addresses) != 1:
        message = "Exactly one of the file, source_url and cloud_storage_url parameters has to be given."
        raise Refused(400, message, code="invalid_parameters")
    if addresses or ask.body.get("webhook"):
        message = "The sandbox fetches nothing and calls nobody: send the sound as a file, without a webhook."
        raise Refused(400, message, code="invalid_parameters")
    heard = await asyncio.to_thread(hear, uploads[0])
    body: dict[str, Any] = {
        "language_code": ask.body.get("language_code") or "eng",
        "language_probability": 1.0,
        "text": heard.text,
        "words": _words(ask.body, heard),
        "transcription_id": ask.stage.new_id(20),
    }
    if not ask.directives.no_usage:
        body["audio_duration_secs"] = heard.duration_s
    return await send_json(ask, body)


def _words(body: Json, heard: Heard) -> list[dict[str, Any]]:
    """The words and the spaces between them, with their times unless they are not wanted."""
    is_timed = body.get("timestamps_granularity", "word") != "none"
    speaker = {"speaker_id": "speaker_0"} if body.get("diarize") else {}
    words: list[dict[str, Any]] = []
    for span in heard.words():
        if words:
            times = {"start": span.start_s, "end": span.start_s} if is_timed else {}
            words.append({"text": " ", "type": "spacing", "logprob": 0.0, **times, **speaker})
        times = {"start": span.start_s, "end": span.end_s} if is_timed else {}
        words.append({"text": span.text, "type": "word", "logprob": 0.0, **times, **speaker})
    return words


# ---------------------------------------------------------------- the rest


async def models(ask: Ask) -> web.StreamResponse:
    return await send_json(ask, [_model(model) for model in MODELS])


def _model(model: str) -> dict[str, Any]:
    title, most, credits_each = MODELS[model]
    return {
        "model_id": model,
        "name": title,
        "description": "A model of the sandbox.",
        "can_be_finetuned": False,
        "can_do_text_to_speech": True,
        "can_do_voice_conversion": False,
        "can_use_style": False,
        "can_use_speaker_boost": False,
        "serves_pro_voices": False,
        "requires_alpha_access": False,
        "token_cost_factor": credits_each,
        "model_rates": {"character_cost_multiplier": credits_each},
        "max_characters_request_free_user": most,
        "max_characters_request_subscribed_user": most,
        "maximum_text_length_per_request": most,
        "languages": [{"language_id": "en", "name": "English"}],
        "concurrency_group": "standard",
    }


def answer_headers(stage: Stage) -> Mapping[str, str]:
    return {
        "request-id": stage.new_id(20),
        "current-concurrent-requests": "1",
        "maximum-concurrent-requests": "15",
    }


PLAY = Play(
    name="elevenlabs",
    credential=credential,
    missing_credential=missing_credential,
    bad_credential=lambda key: Refused(401, "Invalid API key", code="invalid_api_key"),
    render_refusal=render_refusal,
    refuse_violation=refuse_violation,
    missing_model=refuse_model,
    moderated=lambda: Refused(
        400, "The text was blocked by our content moderation.", code="content_moderation_violation"
    ),
    answer_headers=answer_headers,
    routes=(
        Route(
            method="POST",
            path="/v1/text-to-speech/{voice}",
            handler=speak,
            schema="speech",
            prompt=text_at("text"),
        ),
        Route(
            method="POST",
            path="/v1/text-to-speech/{voice}/stream",
            handler=speak_streamed,
            schema="speech_stream",
            prompt=text_at("text"),
        ),
        # A transcription has no text of the caller's; faults reach it through /_control.
        Route(method="POST", path="/v1/speech-to-text", handler=transcribe, form_schema="transcription"),
        Route(method="GET", path="/v1/models", handler=models),
    ),
)
