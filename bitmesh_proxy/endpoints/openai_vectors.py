"""OpenAI's ``embeddings`` and ``moderations``: requests to calls. Answers pass through. Pure.

Source: OpenAI's published API description of 2026-08-21.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from bitmesh_proxy.calls import EmbeddingCall, JsonObject, ModerationCall
from bitmesh_proxy.context import Caller, Surface
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.endpoints.openai_fields import (
    Fields,
    check_fields,
    integer,
    model_of,
    one_of,
    others,
    required,
    text,
)
from bitmesh_proxy.errors import InvalidRequest

#: Inputs of one call. OpenAI takes as many.
MAX_INPUTS: Final = 2048
DEFAULT_MODERATION_MODEL: Final = "omni-moderation-latest"

_EMBEDDING_FIELDS: Final[Fields] = {
    "encoding_format": one_of("float", "base64"),
    "dimensions": integer(1),
    "user": text(512),
}


def parse_embedding(body: JsonObject, caller: Caller) -> EmbeddingCall:
    """``POST embeddings``. Raises InvalidRequest."""
    model = model_of(body, caller)
    check_fields(body, _EMBEDDING_FIELDS)
    return EmbeddingCall(
        model=model,
        inputs=_embedding_inputs(required(body, "input")),
        options=others(body, ("model", "input", "test")),
    )


def parse_moderation(body: JsonObject, caller: Caller) -> ModerationCall:
    """``POST moderations``. Raises InvalidRequest."""
    model = model_of(body, caller, default=DEFAULT_MODERATION_MODEL)
    return ModerationCall(
        model=model,
        inputs=_moderation_inputs(required(body, "input")),
        options=others(body, ("model", "input", "test")),
    )


def _embedding_inputs(value: object) -> Sequence[Any]:
    """One text, several, one list of tokens, or several of them; none of them empty."""
    if isinstance(value, str) and value:
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(each, str) and each for each in value) or all(map(_is_tokens, value)):
            _check_count(value)
            return value
        if _is_tokens(value):
            return value
    raise InvalidRequest(
        "Invalid 'input': expected a non-empty string, or a list of them, or lists of tokens.", param="input"
    )


def _is_tokens(value: object) -> bool:
    # By their types at once: there may be a million of them. (True and False have another.)
    return isinstance(value, list) and bool(value) and set(map(type, value)) == {int} and min(value) >= 0


def _moderation_inputs(value: object) -> Sequence[Any]:
    """A text, texts, or parts with text and pictures."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and (_are_texts(value) or all(map(_is_part, value))):
        _check_count(value)
        return value
    raise InvalidRequest(
        "Invalid 'input': expected a string, a list of strings, or a list of text and image_url parts.", param="input"
    )


def _are_texts(value: list[Any]) -> bool:
    return all(isinstance(each, str) for each in value)


def _is_part(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    if value.get("type") == "text":
        return isinstance(value.get("text"), str)
    link = value.get("image_url")
    return value.get("type") == "image_url" and isinstance(link, dict) and isinstance(link.get("url"), str)


def _check_count(value: Sequence[Any]) -> None:
    if len(value) > MAX_INPUTS:
        raise InvalidRequest(f"Invalid 'input': expected at most {MAX_INPUTS} inputs.", param="input")


EMBEDDINGS: Final = Endpoint(name="embedding", surface=Surface.OPENAI, parse=parse_embedding)
MODERATIONS: Final = Endpoint(name="moderation", surface=Surface.OPENAI, parse=parse_moderation)
