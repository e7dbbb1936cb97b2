"""Google's Gemini API: ``/gemini/v1beta``. Chat, pictures, speech, Imagen, Veo, models.

Source: Google's discovery document of generativelanguage v1beta (2026-08-22) for requests and answers, its Python SDK
2.34.0 for Imagen and Veo. The key is taken from the header only, and names in camel case only: the real one also takes
``?key=`` and snake case.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox import gemini_predictions
from bitmesh_proxy.sandbox.gemini_answers import (
    answer_headers,
    bad_credential,
    credential,
    missing_credential,
    refuse_model,
    refuse_violation,
    render_refusal,
)
from bitmesh_proxy.sandbox.gemini_conversation import last_user_text
from bitmesh_proxy.sandbox.gemini_generate import count, generate, generate_stream
from bitmesh_proxy.sandbox.gemini_predictions import first_prompt
from bitmesh_proxy.sandbox.plays import Ask, Play, Route
from bitmesh_proxy.sandbox.replies import send_json

GENERATES = ("generateContent", "countTokens")
#: What ``GET /models`` lists: model → (tokens in, tokens out, methods). Any other id is played too.
MODELS: Mapping[str, tuple[int, int, tuple[str, ...]]] = {
    "gemini-3.8-flash": (1_048_576, 65_536, GENERATES),
    "gemini-2.5-pro": (1_048_576, 65_536, GENERATES),
    "gemini-2.5-flash": (1_048_576, 65_536, GENERATES),
    "gemini-2.5-flash-image": (32_768, 32_768, GENERATES),
    "gemini-3.8-flash-tts": (8_192, 16_384, GENERATES),
    "imagen-4.0-generate-001": (480, 8_192, ("predict",)),
    "veo-2.0-generate-001": (480, 8_192, ("predictLongRunning",)),
    "veo-3.1-generate-001": (480, 8_192, ("predictLongRunning",)),
}


async def models(ask: Ask) -> web.StreamResponse:
    return await send_json(ask, {"models": [_model(model) for model in MODELS]})


async def model(ask: Ask) -> web.StreamResponse:
    name = ask.request.match_info["model"]
    if name not in MODELS:
        raise refuse_model(name)
    return await send_json(ask, _model(name))


def _model(name: str) -> dict[str, Any]:
    most_in, most_out, methods = MODELS[name]
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name.replace("-", " ").title(),
        "inputTokenLimit": most_in,
        "outputTokenLimit": most_out,
        "supportedGenerationMethods": list(methods),
    }


said = partial(Route, method="POST", prompt=last_user_text)
predicted = partial(Route, method="POST", prompt=first_prompt)

PLAY = Play(
    name="gemini",
    credential=credential,
    missing_credential=missing_credential,
    bad_credential=bad_credential,
    render_refusal=render_refusal,
    refuse_violation=refuse_violation,
    missing_model=refuse_model,
    moderated=None,
    answer_headers=answer_headers,
    routes=(
        said(path="/v1beta/models/{model}:generateContent", handler=generate, schema="generate"),
        said(path="/v1beta/models/{model}:streamGenerateContent", handler=generate_stream, schema="generate_stream"),
        said(path="/v1beta/models/{model}:countTokens", handler=count, schema="count"),
        predicted(path="/v1beta/models/{model}:predict", handler=gemini_predictions.predict, schema="predict"),
        predicted(
            path="/v1beta/models/{model}:predictLongRunning",
            handler=gemini_predictions.predict_long_running,
            schema="predict_long_running",
        ),
        Route(
            method="GET",
            path="/v1beta/models/{model}/operations/{operation}",
            handler=gemini_predictions.get_operation,
        ),
        Route(method="GET", path="/v1beta/files/{file}:download", handler=gemini_predictions.download),
        Route(method="HEAD", path="/v1beta/files/{file}:download", handler=gemini_predictions.download),
        Route(method="GET", path="/v1beta/models", handler=models),
        Route(method="GET", path="/v1beta/models/{model}", handler=model),
    ),
)
