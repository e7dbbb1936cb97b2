"""How an error looks on the wire. One function per format; nothing else writes the body of an error answer.

    Bitmesh          {"error": "message"}; validation {"error": "Validation failed", "errors": {field: [messages]}};
                     a provider's refusal keeps its status and its ``error``
    public media     plain text, for pages that show pictures
    unified, OpenAI  {"error": {"message", "type", "param", "code"}}
    Open Responses   the same with the specification's own names for three of the types

What an error says is its ``message``; its cause, and the text of a fault of ours, never leave the process. A provider's
words about *our* credential or account are withheld too: they name keys and organisations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import orjson

from bitmesh_proxy.context import Surface
from bitmesh_proxy.errors import (
    AuthenticationFailed,
    GatewayError,
    InsufficientBalance,
    InternalError,
    NotFound,
    PermissionDenied,
    ProviderRefused,
    RateLimited,
    Unavailable,
    UpstreamError,
    ValidationFailed,
)

JSON_TYPE: Final = "application/json"
#: Nobody is sent away for longer, whatever a provider says.
MAX_RETRY_AFTER_S: Final = 86_400
INTERNAL_MESSAGE: Final = "Internal server error"
_WITHHELD: Final = "The provider cannot be used at the moment."
_CHALLENGE: Final = 'Bearer realm="bitmesh-proxy", OAuth realm="bitmesh-proxy"'


class RenderedError(msgspec.Struct, frozen=True, kw_only=True):
    """An error answer, ready to be sent. ``headers`` hold the content type and all others."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Kinds(msgspec.Struct, frozen=True):
    """The words of one vocabulary for ``error.type``."""

    rate_limit: str
    model: str
    internal: str


_OPENAI_KINDS: Final = _Kinds(rate_limit="rate_limit_error", model="internal_error", internal="internal_error")
_OPEN_RESPONSES_KINDS: Final = _Kinds(rate_limit="too_many_requests", model="model_error", internal="server_error")


def render_error(error: GatewayError, surface: Surface, request_id: str) -> RenderedError:
    """The error in the format of ``surface``. Never raises."""
    status, content_type, body = _FORMATS[surface](error)
    if not 400 <= status <= 599:  # a refusal that a provider sent as a success
        status = 502
    headers = {**error.headers, "Content-Type": content_type}
    if request_id:
        headers["X-Request-Id"] = request_id
    if (retry_after_s := retry_after_of(error)) is not None:
        headers["Retry-After"] = str(retry_after_s)
    if status == 401:
        headers["WWW-Authenticate"] = _CHALLENGE
    return RenderedError(status=status, headers=headers, body=body)


def render_stream_error(error: GatewayError) -> bytes:
    """The error as an event of a stream that has begun, the same for Bitmesh's and OpenAI's callers.

    The streams of ``/v1/responses`` are ended by their own writer (``endpoints/responses/writer.py``).
    """
    return b"data: " + orjson.dumps({"error": _error_object(error, _OPENAI_KINDS)}) + b"\n\n"


def retry_after_of(error: GatewayError) -> int | None:
    """Whole seconds, rounded up, at least 1; None where nobody knows."""
    seconds = error.retry_after_s if isinstance(error, RateLimited | ProviderRefused | Unavailable) else None
    if seconds is None or math.isnan(seconds):
        return None
    return max(1, math.ceil(min(seconds, MAX_RETRY_AFTER_S)))


def public_message(error: GatewayError) -> str:
    """What the caller may read."""
    if isinstance(error, InternalError) or type(error) is GatewayError:
        return INTERNAL_MESSAGE
    if _is_about_us(error):
        return _WITHHELD
    return error.message.encode("utf-8", "replace").decode()  # a header's stray byte must not break the answer


def _is_about_us(error: GatewayError) -> bool:
    """Did the provider refuse our credential or account, rather than the call?"""
    return isinstance(error, ProviderRefused) and error.status != error.provider_status


def _json(status: int, value: object) -> tuple[int, str, bytes]:
    return status, JSON_TYPE, orjson.dumps(value)


def _bitmesh(error: GatewayError) -> tuple[int, str, bytes]:
    if isinstance(error, ValidationFailed):
        return _json(error.status, {"error": error.message, "errors": dict(error.fields)})
    if isinstance(error, ProviderRefused) and error.body and error.body.get("error") and not _is_about_us(error):
        return _json(error.status, {"error": error.body["error"]})
    return _json(error.status, {"error": public_message(error)})


def _public_media(error: GatewayError) -> tuple[int, str, bytes]:
    status, text = error.status, public_message(error)
    if isinstance(error, NotFound):
        text = "Resource not found"
    elif isinstance(error, UpstreamError) or status == 500:
        status, text = 500, "Error fetching image"
    return status, "text/plain; charset=utf-8", text.encode("utf-8", "replace")


def _unified(error: GatewayError) -> tuple[int, str, bytes]:
    return _json(_status_of(error), {"error": _error_object(error, _OPENAI_KINDS)})


def _openai(error: GatewayError) -> tuple[int, str, bytes]:
    return _json(_status_of(error), {"error": _error_object(error, _OPENAI_KINDS)})


def _open_responses(error: GatewayError) -> tuple[int, str, bytes]:
    return _json(_status_of(error), {"error": _error_object(error, _OPEN_RESPONSES_KINDS)})


_FORMATS: Final[Mapping[Surface, Callable[[GatewayError], tuple[int, str, bytes]]]] = {
    Surface.BITMESH: _bitmesh,
    Surface.PUBLIC_MEDIA: _public_media,
    Surface.UNIFIED: _unified,
    Surface.OPEN_RESPONSES: _open_responses,
    Surface.OPENAI: _openai,
}


def _status_of(error: GatewayError) -> int:
    """422 is Bitmesh's word for an invalid field; everybody else says 400."""
    return 400 if isinstance(error, ValidationFailed) else error.status


def _error_object(error: GatewayError, kinds: _Kinds) -> dict[str, Any]:
    message, code = public_message(error), error.code
    if isinstance(error, ValidationFailed) and error.fields:
        message = " ".join(sentence for sentences in error.fields.values() for sentence in sentences[:1])
    if isinstance(error, ProviderRefused) and error.provider_code and not _is_about_us(error):
        code = error.provider_code
    return {"message": message, "type": _type_of(error, kinds), "param": error.param, "code": code}


def _type_of(error: GatewayError, kinds: _Kinds) -> str:
    """``error.type``: by class where a class means one thing, else by status."""
    status = error.status
    if isinstance(error, AuthenticationFailed) or status == 401:
        return "authentication_error"
    if isinstance(error, InsufficientBalance) or status == 402:
        return "insufficient_quota"
    if isinstance(error, PermissionDenied) or status == 403:
        return "permission_error"
    if isinstance(error, NotFound) or status == 404:
        return "not_found"
    if isinstance(error, RateLimited) or status == 429:
        return kinds.rate_limit
    if status < 500:
        return "invalid_request_error"
    return kinds.model if isinstance(error, UpstreamError) else kinds.internal
