"""What a provider's answer comes to by its head and its first words, on whichever way it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson

from bitmesh_proxy.dialects.provider_errors import refused_within_success
from bitmesh_proxy.errors import GatewayError, UpstreamBroken
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.heads import AnswerHead

#: Error bodies are read up to here; more is noise.
MAX_ERROR_BYTES: Final = 64 * 1024

#: One of these is in an answer, beside whatever else.
_MADE: Final = ("choices", "data", "results", "usage")

_MARK: Final = "X-Bitmesh-Sandbox"


def is_good(status: int) -> bool:
    """Is it an answer, and not an error?"""
    return 200 <= status < 300


def refusal_of(access: ProviderAccess, head: AnswerHead, body: bytes) -> GatewayError:
    """What an answer means that is no answer: an error status, or anything else where a stream was asked for."""
    body = body[:MAX_ERROR_BYTES]
    if not is_good(head.code):
        return access.provider.read_error(head.code, head.headers, body)
    if head.media_type.endswith("json") and b'"error"' in body:
        return access.provider.read_error(502, head.headers, body)
    return UpstreamBroken("The provider did not answer with a stream.")


def check_is_no_refusal(body: bytes) -> None:
    """What is passed on whole must be more than an error under a status of success, which some providers send.

    Raises ProviderRefused.
    """
    # (In a text of JSON the quotes would be escaped.)
    if len(body) > MAX_ERROR_BYTES or b'"error"' not in body:
        return
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return
    if isinstance(answer, dict) and answer.get("error") and not any(answer.get(name) for name in _MADE):
        raise refused_within_success(answer)


def too_large() -> UpstreamBroken:
    """The error for a whole answer beyond its bound."""
    return UpstreamBroken("The provider's answer is larger than this service takes.")


def marks_of(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a provider's head concerns the caller: that the sandbox made it."""
    return {_MARK: "1"} if headers.get(_MARK) == "1" else {}
