"""OpenAI's sound: ``/v1/audio/speech``, ``transcriptions`` (both whole or as a stream of events) and ``translations``.

Whisper's usage is a duration, the newer models' is tokens; a translation names none. What is heard stays in the
language it is in: nobody here translates. Opus and AAC are refused: the sandbox has no encoder for them.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox.files import pad
from bitmesh_proxy.sandbox.hearing import Heard, hear, render_subtitles
from bitmesh_proxy.sandbox.pace import paced
from bitmesh_proxy.sandbox.plays import Ask, Refused, Upload
from bitmesh_proxy.sandbox.replies import Event, cut, json_event, send_bytes, send_events, send_json
from bitmesh_proxy.sandbox.sounds import Speech, SpeechFormat
from bitmesh_proxy.sandbox.words import count_tokens, tokenize

FORMATS: Mapping[str, SpeechFormat] = {"mp3": "mp3", "wav": "wav", "flac": "flac", "pcm": "pcm_s16le"}
AUDIO_TOKENS_PER_S = 20
MAX_FILE_BYTES = 26_214_400
EXTENSIONS = ("flac", "m4a", "mp3", "mp4", "mpeg", "mpga", "oga", "ogg", "wav", "webm")
SPEECH_RESPONSE_FORMATS: Mapping[str, tuple[str, ...]] = {
    "whisper-1": ("json", "text", "srt", "verbose_json", "vtt"),
    "gpt-4o-transcribe-diarize": ("json", "text", "diarized_json"),
}
OTHER_RESPONSE_FORMATS = ("json", "text")
TRANSLATING_MODEL = "whisper-1"


# ---------------------------------------------------------------- speech


async def speak(ask: Ask) -> web.StreamResponse:
    body = ask.body
    name = body.get("response_format", "mp3")
    form = FORMATS.get(name)
    if form is None:
        message = f"The sandbox has no encoder for {name}; it speaks {', '.join(FORMATS)}."
        raise Refused(400, message, code="unsupported_format", param="response_format")
    voice = body["voice"] if isinstance(body["voice"], str) else body["voice"]["id"]
    speech = Speech(text=ask.prompt, voice=voice, format=form, speed=body.get("speed", 1.0))
    data = await ask.stage.studio.render(speech)
    if body.get("stream_format") == "sse":
        return await send_events(ask, _speech_events(ask, speech, data), broken=_broken())
    padded = pad(data, speech.media_type, ask.directives.huge).whole()
    return await send_bytes(ask, padded, media_type=speech.media_type)


async def _speech_events(ask: Ask, speech: Speech, data: bytes) -> AsyncIterator[Event]:
    for piece in cut(data):
        await asyncio.sleep(0)
        yield json_event({"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()})
    heard, said = count_tokens(ask.body["input"]), round(speech.duration_s * AUDIO_TOKENS_PER_S)
    done: dict[str, Any] = {"type": "speech.audio.done"}
    if not ask.directives.no_usage:
        done["usage"] = {"input_tokens": heard, "output_tokens": said, "total_tokens": heard + said}
    yield json_event(done)


def _broken() -> Event:
    error = {"type": "server_error", "code": "server_error", "message": "The server had an error.", "param": None}
    return json_event({"type": "error", "error": error})


# ---------------------------------------------------------------- transcription and translation


async def transcribe(ask: Ask) -> web.StreamResponse:
    body = ask.body
    upload = _upload(ask)
    model, form = body["model"], body.get("response_format", "json")
    allowed = SPEECH_RESPONSE_FORMATS.get(model, OTHER_RESPONSE_FORMATS)
    if form not in allowed:
        message = (
            f"response_format '{form}' is not compatible with model '{model}'. Use {' or '.join(allowed)} instead."
        )
        raise Refused(400, message, code="unsupported_value", param="response_format")
    heard = await asyncio.to_thread(hear, upload)
    usage = {} if ask.directives.no_usage else {"usage": _usage(ask, heard)}
    if body.get("stream") and model != "whisper-1":
        return await send_events(ask, _transcript_events(ask, heard, usage), broken=_broken())
    match form:
        case "verbose_json":
            return await send_json(ask, {**_verbose(ask, heard), **usage})
        case "diarized_json":
            return await send_json(ask, {**_diarized(heard), **usage})
        case _:
            return await _send_heard(ask, heard, usage)


async def translate(ask: Ask) -> web.StreamResponse:
    upload = _upload(ask)
    model = ask.body["model"]
    if model != TRANSLATING_MODEL:
        raise Refused(400, f"The model '{model}' does not translate.", code="unsupported_value", param="model")
    heard = await asyncio.to_thread(hear, upload)
    if ask.body.get("response_format") == "verbose_json":
        verbose = _verbose(ask, heard)
        return await send_json(ask, {**verbose, "task": "translate", "language": "english"})
    return await _send_heard(ask, heard, {})


def _upload(ask: Ask) -> Upload:
    """The sound that was sent. Raises Refused for one that is too large, or of no known kind by its name."""
    upload = ask.files["file"][0]
    if len(upload.data) > MAX_FILE_BYTES:
        raise Refused(413, f"Maximum content size limit ({MAX_FILE_BYTES}) exceeded ({len(upload.data)} bytes read)")
    if upload.name.rpartition(".")[2].lower() not in EXTENSIONS:
        raise Refused(400, f"Invalid file format. Supported formats: {list(EXTENSIONS)}", param="file")
    return upload


async def _send_heard(ask: Ask, heard: Heard, usage: Mapping[str, Any]) -> web.StreamResponse:
    """In one of the forms that say the text, or when it was said, and nothing else."""
    match form := ask.body.get("response_format"):
        case "text":
            return await _send_text(ask, heard.text + "\n")
        case "srt" | "vtt":
            return await _send_text(ask, render_subtitles(heard, is_vtt=form == "vtt"))
        case _:
            return await send_json(ask, {"text": heard.text, **usage})


async def _send_text(ask: Ask, text: str) -> web.StreamResponse:
    return await send_bytes(ask, text.encode(), media_type="text/plain; charset=utf-8")


def _usage(ask: Ask, heard: Heard) -> dict[str, Any]:
    if ask.body["model"] == "whisper-1":
        return {"type": "duration", "seconds": -(-heard.duration_s // 1)}
    text, audio = count_tokens(ask.body.get("prompt") or ""), round(heard.duration_s * AUDIO_TOKENS_PER_S / 2)
    output = count_tokens(heard.text)
    return {
        "type": "tokens",
        "input_tokens": text + audio,
        "input_token_details": {"text_tokens": text, "audio_tokens": audio},
        "output_tokens": output,
        "total_tokens": text + audio + output,
    }


def _verbose(ask: Ask, heard: Heard) -> dict[str, Any]:
    granularities = ask.body.get("timestamp_granularities") or ["segment"]
    whole: dict[str, Any] = {
        "task": "transcribe",
        "language": ask.body.get("language", "english"),
        "duration": heard.duration_s,
        "text": heard.text,
    }
    if "word" in granularities:
        whole["words"] = [{"word": span.text, "start": span.start_s, "end": span.end_s} for span in heard.words()]
    if "segment" in granularities:
        whole["segments"] = [
            {
                "id": number,
                "seek": 0,
                "start": span.start_s,
                "end": span.end_s,
                "text": span.text,
                "tokens": list(range(count_tokens(span.text))),
                "temperature": 0.0,
                "avg_logprob": -0.1,
                "compression_ratio": 1.0,
                "no_speech_prob": 0.01,
            }
            for number, span in enumerate(heard.segments())
        ]
    return whole


def _diarized(heard: Heard) -> dict[str, Any]:
    segments = [
        {
            "type": "transcript.text.segment",
            "id": f"seg_{number}",
            "start": span.start_s,
            "end": span.end_s,
            "text": span.text,
            "speaker": "AB"[number % 2],
        }
        for number, span in enumerate(heard.segments())
    ]
    return {"task": "transcribe", "duration": heard.duration_s, "text": heard.text, "segments": segments}


async def _transcript_events(ask: Ask, heard: Heard, usage: Mapping[str, Any]) -> AsyncIterator[Event]:
    async for _, token in paced(ask, tokenize(heard.text)):
        yield json_event({"type": "transcript.text.delta", "delta": token})
    yield json_event({"type": "transcript.text.done", "text": heard.text, **usage})
