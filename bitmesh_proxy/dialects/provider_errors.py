"""What a provider says when it refuses, in all the shapes that are met, made into one ``ProviderRefused``.

Rules: the status decides first, then the body's own code or type, never its prose. A refusal of *our* credential, or
of our account for want of money, is none of the caller's business: 502, and not a word of the provider's. No message
holds anything that looks like a secret. The caller sees the provider's status only where it can mean the caller.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from bitmesh_proxy.dialects.base import ErrorReader
from bitmesh_proxy.errors import ProviderRefused
from bitmesh_proxy.nesting import MAX_WRITTEN_DEPTH, is_deeper, parsed_is_deeper

_MAX_MESSAGE_CHARACTERS: Final = 1000
_MAX_TEXT_CHARACTERS: Final = 300
_MAX_WAIT_S: Final = 24 * 3600.0

#: Statuses that may concern the caller's request, and 5xx that say the same from us as from the provider.
_KEPT_STATUSES: Final = frozenset({400, 404, 408, 409, 413, 415, 422, 429, 451, 500, 502, 503, 504})

#: Our key, our account, our money: whatever the status, the caller can do nothing about them.
_OUR_OWN_CODES: Final = frozenset(
    {
        "API_KEY_INVALID",
        "authentication_error",
        "billing_error",
        "billing_hard_limit_reached",
        "enforced_spend_limit_reached",
        "insufficientCredits",
        "insufficient_quota",
        "invalidApiKey",
        "invalid_api_key",
        "permission_error",
        "quota_exceeded",
    }
)

_SECRET: Final = re.compile(
    rb"(?i)\b(?:sk|pk|rk|tgp|xai|gsk|hf|r8)[-_][a-z0-9_\-*]{8,}"  # sk-…, tgp_v1_…, also half masked ones
    rb"|\bAIza[0-9a-z_\-]{20,}"  # Google
    rb"|\b(?:bearer|basic)\s+[a-z0-9._~+/=\-]{16,}"  # a header, quoted
    rb"|(?<=[?&]key=)[^&\s\"'<>\\]+"  # an address with the key in it
)
#: They mean our credential or account there.
_CREDENTIAL_STATUSES: Final = frozenset({401, 402, 403})
_GO_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_GO_UNITS_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def error_reader(*, refusal_codes: frozenset[str] = frozenset()) -> ErrorReader:
    """Make a provider's error reader.

    ``refusal_codes`` are codes or types that make a 403 a refusal of this one request (moderation, too long an input);
    the caller then gets a 400.
    """

    def read(status: int, headers: Mapping[str, str], body: bytes) -> ProviderRefused:
        return read_error(status, headers, body, refusal_codes=refusal_codes)

    return read


def read_error(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    refusal_codes: frozenset[str] = frozenset(),
) -> ProviderRefused:
    """Read one refusal. Never raises, whatever the body is."""
    answer = read_redacted(body)
    error = _error_object(answer)
    words = {error_code(answer), _text(error.get("code")), _text(error.get("type")), *_google_reasons(error)}
    code = error_code(answer)
    wait_s = retry_after_s(headers, answer) if status in (408, 425, 429) or status >= 500 else None
    is_refusal = status == 403 and not words.isdisjoint(refusal_codes)
    if not words.isdisjoint(_OUR_OWN_CODES) or (status in _CREDENTIAL_STATUSES and not is_refusal):
        return ProviderRefused(
            "The provider did not accept this service's own account.",
            status=502,
            provider_status=status,
            provider_code=code,
            retry_after_s=wait_s,
        )
    meant = 400 if is_refusal else status
    return ProviderRefused(
        error_message(answer) or _plain_message(status, headers, body),
        status=meant if meant in _KEPT_STATUSES else 502,
        body=answer if isinstance(answer, dict) else None,
        provider_status=meant,
        provider_code=code,
        param=_param(error),
        retry_after_s=wait_s,
    )


def refused_within_success(answer: Mapping[str, Any], *, status: int = 502) -> ProviderRefused:
    """The refusal that a provider sent with a status of success. A number in its ``code`` is the status it meant.

    Never raises, as ``read_error``: of an answer that is too deep to be written again the status is all that is kept.
    """
    code = _error_object(answer).get("code")
    meant = code if isinstance(code, int) and 400 <= code <= 599 else status
    return read_error(meant, {}, b"" if is_deeper(answer, MAX_WRITTEN_DEPTH) else orjson.dumps(answer))


def error_message(answer: object) -> str | None:
    """The provider's sentence, wherever it stands: ``error.message``, ``error``, ``message``, ``detail`` …"""
    if isinstance(answer, dict):
        for name in ("error", "message", "detail", "errors", "error_message", "msg", "title"):
            if message := error_message(answer.get(name)):
                return message
        return None
    if isinstance(answer, list):
        messages = [message for item in answer[:10] if (message := error_message(item))]
        return _shorten("; ".join(messages)) or None
    return _shorten(answer) if isinstance(answer, str) and answer.strip() else None


def error_code(answer: object) -> str | None:
    """The provider's stable word for the error: ``code`` before ``status`` before ``type``, never a sentence."""
    error = _error_object(answer)
    for source in (error, answer if isinstance(answer, dict) else {}):
        for name in ("code", "status", "type", "name"):
            if (code := _text(source.get(name))) and " " not in code:
                return code
    return None


def retry_after_s(headers: Mapping[str, str], answer: object = None) -> float | None:
    """How long to wait, in seconds, from whatever the provider uses. ``None`` when it does not say.

    ``retry-after-ms``, ``retry-after`` in seconds or as a date (counted from the answer's own ``Date``, so that no
    clock is needed), Google's ``RetryInfo``, and OpenAI's ``x-ratelimit-reset-*`` of whatever is used up.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    candidates = (
        _scaled(lower.get("retry-after-ms"), 0.001),
        _scaled(lower.get("retry-after"), 1.0),
        _until(lower.get("retry-after"), lower.get("date")),
        _google_delay(answer),
        _reset_of_used_up(lower),
    )
    wait = next((candidate for candidate in candidates if candidate is not None), None)
    return None if wait is None else min(max(wait, 0.0), _MAX_WAIT_S)


def redact(text: bytes) -> bytes:
    """``text`` without anything that looks like a credential."""
    return _SECRET.sub(b"[redacted]", text)


def redacted(value: Any) -> Any:
    """A value of JSON with every text in it redacted. (Not the JSON: there ``\\r`` and ``\\n`` are letters that a word
    may seem to begin with, and what stands for them is no JSON any more.)"""
    if isinstance(value, str):
        return redact(value.encode()).decode()
    if isinstance(value, list):
        return [redacted(item) for item in value]
    if isinstance(value, dict):
        return {redacted(name): redacted(item) for name, item in value.items()}
    return value


def read_redacted(text: bytes) -> object:
    """What JSON says, without anything that looks like a credential; ``None`` for what is none, or too deep."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return None if parsed_is_deeper(value, text, MAX_WRITTEN_DEPTH) else redacted(value)


def _error_object(answer: object) -> Mapping[str, Any]:
    if isinstance(answer, list) and answer:
        return _error_object(answer[0])  # Google, when it was asked for an array
    if not isinstance(answer, dict):
        return {}
    for name in ("error", "detail"):
        if isinstance(answer.get(name), dict):
            inner: dict[str, Any] = answer[name]
            return inner
    errors = answer.get("errors") or answer.get("detail")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        return errors[0]
    return answer


def _param(error: Mapping[str, Any]) -> str | None:
    where = error.get("loc")
    if isinstance(where, list):  # FastAPI: ["body", "messages", 0, "role"]
        return ".".join(str(step) for step in where if step != "body") or None
    return _text(error.get("param")) or _text(error.get("parameter"))


def _plain_message(status: int, headers: Mapping[str, str], body: bytes) -> str:
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    text = redact(body[:4096]).decode("utf-8", "replace").strip()
    is_page = "html" in kind.lower() or text.startswith("<")
    if text and not is_page and not text.startswith(("{", "[")) and text.isprintable():
        return text[:_MAX_TEXT_CHARACTERS]
    return f"The provider answered with status {status}."


def _shorten(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _MAX_MESSAGE_CHARACTERS else text[: _MAX_MESSAGE_CHARACTERS - 1] + "…"


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _scaled(value: str | None, factor: float) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number * factor if number is not None and math.isfinite(number) else None


def _until(value: str | None, now: str | None) -> float | None:
    if value is None or now is None:
        return None
    try:
        moments = [parsedate_to_datetime(text) for text in (value, now)]
    except (TypeError, ValueError):
        return None
    later, earlier = (moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in moments)
    return (later - earlier).total_seconds()


def _google_details(error: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = error.get("details")
    return [detail for detail in found if isinstance(detail, dict)] if isinstance(found, list) else []


def _google_reasons(error: Mapping[str, Any]) -> set[str | None]:
    # An invalid key is a 400 INVALID_ARGUMENT there, with the truth in the details.
    return {_text(detail.get("reason")) for detail in _google_details(error)}


def _google_delay(answer: object) -> float | None:
    for detail in _google_details(_error_object(answer)):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and delay.endswith("s"):
            return _scaled(delay[:-1], 1.0)
    return None


def _reset_of_used_up(lower: Mapping[str, str]) -> float | None:
    waits = [
        wait
        for unit in ("requests", "tokens")
        if lower.get(f"x-ratelimit-remaining-{unit}") == "0"
        and (wait := _go_duration_s(lower.get(f"x-ratelimit-reset-{unit}"))) is not None
    ]
    return max(waits, default=None)


def _go_duration_s(text: str | None) -> float | None:
    """``6m0s`` and ``12ms``, as Go writes a duration."""
    parts = _GO_DURATION.findall(text or "")
    return sum(float(number) * _GO_UNITS_S[unit] for number, unit in parts) if parts else None
