"""What a provider's answer comes to by its head and its first words, on whichever way it is read."""

from __future__ import annotations

import codecs
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

#: One of these is in a transcript that comes as JSON; they may be empty.
_HEARD: Final = ("text", "segments", "words")
#: How a page begins, whatever type it says it has.
_PAGE_STARTS: Final = (b"<!doctype html", b"<html")

_MARK: Final = "X-Bitmesh-Sandbox"


def is_good(status: int) -> bool:
    """Is it an answer, and not an error?"""
    return 200 <= status < 300


def refusal_of(access: ProviderAccess, head: AnswerHead, body: bytes) -> GatewayError:
    """What an answer means that is no answer: an error status, a compressed one, or anything else where a stream was
    asked for."""
    body = body[:MAX_ERROR_BYTES]
    if not is_good(head.code):
        return access.provider.read_error(head.code, head.headers, body)
    if head.is_coded:
        return UpstreamBroken("The provider's answer is compressed, although that was not offered.")
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
    if isinstance(answer, dict) and answer.get("error") and not any(_is_something(answer.get(name)) for name in _MADE):
        raise refused_within_success(answer)


def _is_something(value: object) -> bool:
    """A usage of nothing but zeros is nothing; what it says in detail is in its sums."""
    return (
        any(each for each in value.values() if not isinstance(each, dict)) if isinstance(value, dict) else bool(value)
    )


def check_is_transcript(body: bytes, media_type: str) -> None:
    """A transcript may be text as well as JSON, and not every server names its type rightly: what it holds decides.

    Raises ProviderRefused for an object with an error and nothing that was heard; UpstreamBroken for a page, and for an
    object without either that is called JSON. (Called text, it may be what was heard.)
    """
    text = body.removeprefix(codecs.BOM_UTF8).lstrip()
    if text[:64].lower().startswith(_PAGE_STARTS):
        raise UpstreamBroken("The provider answered with a page.")
    if len(text) > MAX_ERROR_BYTES or not text.startswith(b"{"):
        return
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        return
    if (answer.get("error") or answer.get("errors")) and not any(answer.get(name) for name in _HEARD):
        raise refused_within_success(answer)
    if media_type.endswith("json") and not any(name in answer for name in _HEARD):
        raise UpstreamBroken("The provider's answer holds no transcript.")


def too_large() -> UpstreamBroken:
    """The error for a whole answer beyond its bound."""
    return UpstreamBroken("The provider's answer is larger than this service takes.", is_too_large=True)


def marks_of(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a provider's head concerns the caller: that the sandbox made it."""
    return {_MARK: "1"} if headers.get(_MARK) == "1" else {}
