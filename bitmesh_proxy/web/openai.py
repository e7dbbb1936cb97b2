"""OpenAI's routes, each under ``/v1/openai`` (the older gateway's prefix) and under ``/v1``."""

from __future__ import annotations

from bitmesh_proxy.context import Surface
from bitmesh_proxy.endpoints import openai_chat, openai_images
from bitmesh_proxy.web.route import HttpHandler, Route
from bitmesh_proxy.web.serve_call import call_handler

PREFIXES = ("/v1", "/v1/openai")


def routes() -> list[Route]:
    """Everything that clients of OpenAI's call, but the list of models."""
    table: list[tuple[str, str, HttpHandler, str]] = [
        ("POST", "/chat/completions", call_handler(openai_chat.COMPLETIONS), "chat"),
        (
            "POST",
            "/images/generations",
            call_handler(openai_images.GENERATIONS, fields=openai_images.FIELDS),
            "image",
        ),
        ("POST", "/images/edits", call_handler(openai_images.EDITS, fields=openai_images.FIELDS), "image"),
    ]
    return [
        Route(method=method, path=prefix + path, handler=handler, name=name, surface=Surface.OPENAI)
        for method, path, handler, name in table
        for prefix in PREFIXES
    ]
