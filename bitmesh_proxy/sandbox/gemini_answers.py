"""How Google words a refusal, and the headers on its answers.

Source: Google's error model (google.rpc.Status with ErrorInfo, RetryInfo and BadRequest as details) and the messages
of the Gemini API, read 2026-11.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitmesh_proxy.sandbox.plays import Json, Refused
from bitmesh_proxy.sandbox.replies import Event, json_event
from bitmesh_proxy.sandbox.schemas import Violation
from bitmesh_proxy.sandbox.stage import Stage

STATUSES: Mapping[int, str] = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
TYPES = "type.googleapis.com/google.rpc"


def render_refusal(refused: Refused) -> Json:
    """``code`` becomes the reason in the details; a wait stands there too, as it does at the real one."""
    status = refused.kind or STATUSES.get(refused.status)
    if status is None:
        status = "INVALID_ARGUMENT" if refused.status < 500 else "INTERNAL"
    error: dict[str, Any] = {"code": refused.status, "message": refused.message, "status": status}
    details: list[dict[str, Any]] = []
    if refused.code is not None:
        details.append({"@type": f"{TYPES}.ErrorInfo", "reason": refused.code, "domain": "googleapis.com"})
    if refused.param is not None:
        violations = [{"field": refused.param, "description": refused.message}]
        details.append({"@type": f"{TYPES}.BadRequest", "fieldViolations": violations})
    if (wait := refused.headers.get("Retry-After")) is not None:
        details.append({"@type": f"{TYPES}.RetryInfo", "retryDelay": f"{wait}s"})
    if details:
        error["details"] = details
    return {"error": error}


def refuse_violation(violation: Violation) -> Refused:
    if violation.kind == "unknown":
        parent, _, name = violation.field.rpartition(".")
        place = f" at '{parent}'" if parent else ""
        message = f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.'
    elif violation.kind == "missing":
        message = f"* GenerateContentRequest.{violation.field}: {violation.field} is not specified"
    else:
        message = f"Invalid value at '{violation.field}': {violation.message}"
    return Refused(400, message, param=violation.field)


def refuse_model(model: str, method: str = "generateContent") -> Refused:
    return Refused(
        404,
        f"models/{model} is not found for API version v1beta, or is not supported for {method}. Call ListModels to see "
        "the list of available models and their supported methods.",
    )


def missing_credential() -> Refused:
    message = (
        "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other "
        "form of API consumer identity to call this API."
    )
    return Refused(403, message)


def bad_credential(_key: str) -> Refused:
    """An invalid key is an invalid argument there; the truth stands in the details."""
    return Refused(400, "API key not valid. Please pass a valid API key.", code="API_KEY_INVALID")


def credential(headers: Mapping[str, str]) -> str | None:
    return headers.get("x-goog-api-key") or None


def broken() -> Event:
    return json_event(render_refusal(Refused(503, "The model is overloaded. Please try again later.")))


def answer_headers(stage: Stage) -> Mapping[str, str]:
    return {
        "server-timing": "gfet4t7; dur=1",
        "x-content-type-options": "nosniff",
        "server": "scaffolding on HTTPServer2",
    }
