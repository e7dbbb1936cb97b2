"""Together's sound: ``/v1/audio/speech``, ``/v1/audio/transcriptions`` and ``/v1/audio/translations``.

Speech is bytes, or with ``stream`` events of base64 that end with ``[DONE]``. µ-law and A-law are refused: not made
here. The ``file`` of the others is an upload; a web address is refused, as the sandbox fetches nothing. What is heard
stays in the language it is in: nobody here translates.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox.files import pad
from bitmesh_proxy.sandbox.hearing import Heard, hear
from bitmesh_proxy.sandbox.plays import Ask, Refused
from bitmesh_proxy.sandbox.replies import DONE, Event, cut, json_event, send_bytes, send_events, send_json
from bitmesh_proxy.sandbox.sounds import Speech, SpeechFormat

RAW_FORMATS: Mapping[str, SpeechFormat] = {"pcm_f32le": "pcm_f32le", "pcm_s16le": "pcm_s16le"}
RATES_HZ = (8_000, 48_000)
DEFAULT_RATE_HZ = 44_100


async def speak(ask: Ask) -> web.StreamResponse:
    body = ask.body
    rate_hz = body.get("sample_rate", DEFAULT_RATE_HZ)
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise Refused(400, f"sample_rate must be from {RATES_HZ[0]} to {RATES_HZ[1]}", param="sample_rate")
    speech = Speech(text=ask.prompt, voice=body["voice"], format=_format(body), rate_hz=rate_hz)
    data = await ask.stage.studio.render(speech)
    if body.get("stream"):
        return await send_events(ask, _events(body["model"], data), broken=_broken())
    padded = pad(data, speech.media_type, ask.directives.huge).whole()
    return await send_bytes(ask, padded, media_type=speech.media_type)


def _format(body: Mapping[str, Any]) -> SpeechFormat:
    """Streams are raw, as the provider has it; else what was asked."""
    name = body.get("response_format", "wav")
    if name == "mp3" or (name == "wav" and not body.get("stream")):
        return "mp3" if name == "mp3" else "wav"
    encoding = body.get("response_encoding", "pcm_f32le")
    raw = RAW_FORMATS.get(encoding)
    if raw is None:
        message = f"The sandbox does not make {encoding}; it makes {', '.join(RAW_FORMATS)}."
        raise Refused(400, message, code="unsupported_format", param="response_encoding")
    return raw


async def _events(model: str, data: bytes) -> AsyncIterator[Event]:
    for piece in cut(data):
        await asyncio.sleep(0)
        yield json_event({"object": "audio.tts.chunk", "model": model, "b64": base64.b64encode(piece).decode()})
    yield DONE


def _broken() -> Event:
    return json_event({"error": {"message": "The server had an error while speaking", "type": "server_error"}})


async def transcribe(ask: Ask) -> web.StreamResponse:
    return await _send_heard(ask, "transcribe")


async def translate(ask: Ask) -> web.StreamResponse:
    return await _send_heard(ask, "translate")


async def _send_heard(ask: Ask, task: str) -> web.StreamResponse:
    uploads = ask.files.get("file")
    if not uploads:
        raise Refused(
            400, "The sandbox fetches nothing: send the sound as a file.", code="invalid_params", param="file"
        )
    heard = await asyncio.to_thread(hear, uploads[0])
    if ask.body.get("response_format") != "verbose_json":
        return await send_json(ask, {"text": heard.text})
    return await send_json(ask, _verbose(ask.body, heard, task))


def _verbose(body: Mapping[str, Any], heard: Heard, task: str) -> dict[str, Any]:
    wanted = body.get("timestamp_granularities", "segment")
    whole: dict[str, Any] = {
        "task": task,
        "language": body.get("language", "en"),
        "duration": heard.duration_s,
        "text": heard.text,
        "segments": [
            {"id": number, "start": span.start_s, "end": span.end_s, "text": span.text}
            for number, span in enumerate(heard.segments())
        ],
    }
    if "word" in wanted:
        whole["words"] = [{"word": span.text, "start": span.start_s, "end": span.end_s} for span in heard.words()]
    return whole
