"""How OpenAI words a refusal, and the headers on its answers."""

from __future__ import annotations

from collections.abc import Mapping

from bitmesh_proxy.sandbox.plays import Json, Refused
from bitmesh_proxy.sandbox.schemas import Violation
from bitmesh_proxy.sandbox.stage import Stage

KINDS: Mapping[int, str] = {429: "requests", 403: "permission_error"}
#: The error's code where nobody said another.
CODES: Mapping[int, str] = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def render_refusal(refused: Refused) -> Json:
    kind = refused.kind or KINDS.get(refused.status)
    if kind is None:
        kind = "invalid_request_error" if refused.status < 500 else "server_error"
    code = refused.code or CODES.get(refused.status)
    return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": code}}


def refuse_violation(violation: Violation) -> Refused:
    """The words of the real thing for what is missing, unknown or of a wrong type."""
    match violation.kind:
        case "missing":
            message, code = f"Missing required parameter: '{violation.field}'.", "missing_required_parameter"
        case "unknown":
            message, code = f"Unknown parameter: '{violation.field}'.", "unknown_parameter"
        case "type":
            message, code = f"Invalid type for '{violation.field}': {violation.message}", "invalid_type"
        case _:
            message, code = f"Invalid value for '{violation.field}': {violation.message}", "invalid_value"
    return Refused(400, message, code=code, param=violation.field or None)


def refuse_model(model: str) -> Refused:
    message = f"The model '{model}' does not exist or you do not have access to it."
    return Refused(404, message, code="model_not_found")


def refuse_moderated() -> Refused:
    return Refused(
        400,
        "Your request was rejected by the safety system.",
        kind="image_generation_user_error",
        code="moderation_blocked",
    )


def answer_headers(stage: Stage) -> Mapping[str, str]:
    return {
        "x-request-id": f"req_{stage.new_id(32, '0123456789abcdef')}",
        "openai-version": "2020-10-01",
        "openai-processing-ms": "1",
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "6ms",
        "x-ratelimit-limit-tokens": "2000000",
        "x-ratelimit-remaining-tokens": "1999970",
        "x-ratelimit-reset-tokens": "6m0s",
    }
