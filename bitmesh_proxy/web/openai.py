"""OpenAI's routes, each under ``/v1/openai`` (the older gateway's prefix) and under ``/v1``.

Clips are in ``openai_videos``, the list of models in ``models``. Whole pictures are held open like clips, because they
may take minutes; under the older prefix the setting ``answers.legacy_errors_as_ok`` counts for them.
"""

from __future__ import annotations

from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.context import Surface
from bitmesh_proxy.endpoints import openai_audio, openai_chat, openai_images, openai_vectors
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.errors import UnsupportedParameter
from bitmesh_proxy.web.call_bodies import read_call_body
from bitmesh_proxy.web.held_open import WholeReply, answer_held_open
from bitmesh_proxy.web.replies import HttpReply
from bitmesh_proxy.web.route import LEGACY_PREFIX, OPENAI_PREFIXES, HttpHandler, Route
from bitmesh_proxy.web.serve_call import call_handler, serve_call


def pictures_handler(endpoint: Endpoint) -> HttpHandler:
    """Pictures, whole (held open) or as a stream."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await read_call_body(request, fields=openai_images.FIELDS)
        if body.get("stream") is True:
            streamed = HttpReply(request)
            await serve_call(request, endpoint, streamed, body=body)
            assert streamed.response is not None, "the pipeline answers or raises"
            return streamed.response

        async def whole() -> WholeReply:
            reply = WholeReply()
            await serve_call(request, endpoint, reply, body=body)
            return reply

        is_legacy = request.path.startswith(LEGACY_PREFIX + "/")
        as_ok = is_legacy and request.app[keys.SETTINGS].answers.legacy_errors_as_ok
        return await answer_held_open(request, whole(), errors_as_ok=as_ok)

    handle.__name__ = f"handle_{endpoint.name}"
    return handle


async def handle_variations(_request: web.Request) -> web.StreamResponse:
    """Ended with the one model that could."""
    raise UnsupportedParameter("No model makes variations any more; send the picture to images/edits with a prompt.")


def routes() -> list[Route]:
    """Everything in this file's docstring."""
    table: list[tuple[str, HttpHandler, str]] = [
        ("/chat/completions", call_handler(openai_chat.COMPLETIONS), "chat"),
        ("/embeddings", call_handler(openai_vectors.EMBEDDINGS), "embedding"),
        ("/moderations", call_handler(openai_vectors.MODERATIONS), "moderation"),
        ("/audio/speech", call_handler(openai_audio.SPEECH), "speech"),
        (
            "/audio/transcriptions",
            call_handler(openai_audio.TRANSCRIPTIONS, fields=openai_audio.TRANSCRIPTION_FIELDS, files="audio"),
            "transcription",
        ),
        (
            "/audio/translations",
            call_handler(openai_audio.TRANSLATIONS, fields=openai_audio.TRANSLATION_FIELDS, files="audio"),
            "transcription",
        ),
        ("/images/generations", pictures_handler(openai_images.GENERATIONS), "image"),
        ("/images/edits", pictures_handler(openai_images.EDITS), "image"),
        ("/images/variations", handle_variations, "image"),
    ]
    return [
        Route(
            method="POST",
            path=prefix + path,
            handler=handler,
            name=name,
            surface=Surface.OPENAI,
            plain_call=openai_chat.COMPLETIONS if path == "/chat/completions" else None,
        )
        for path, handler, name in table
        for prefix in OPENAI_PREFIXES
    ]
