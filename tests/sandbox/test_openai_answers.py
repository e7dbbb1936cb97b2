"""How OpenAI words what it refuses."""

from __future__ import annotations

import random

import pytest

from bitmesh_proxy.sandbox.faults import Faults
from bitmesh_proxy.sandbox.openai_answers import (
    answer_headers,
    refuse_model,
    refuse_moderated,
    refuse_violation,
    render_refusal,
)
from bitmesh_proxy.sandbox.plays import Refused
from bitmesh_proxy.sandbox.schemas import Violation, ViolationKind
from bitmesh_proxy.sandbox.stage import Options, make_stage
from tests.hand_clock import HandClock
from tests.sandbox.callers import assert_published


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", None),
        (401, "invalid_request_error", "invalid_api_key"),
        (403, "permission_error", None),
        (429, "requests", "rate_limit_exceeded"),
        (500, "server_error", None),
    ],
)
def test_a_status_has_its_type_and_code(status: int, kind: str, code: str | None) -> None:
    rendered = render_refusal(Refused(status, "no"))
    assert_published("openai", "error", rendered)
    assert (rendered["error"]["type"], rendered["error"]["code"]) == (kind, code)


@pytest.mark.parametrize("refused", [refuse_model("m"), refuse_moderated()])
def test_refusals_are_as_published(refused: Refused) -> None:
    assert_published("openai", "error", render_refusal(refused))


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("missing", "missing_required_parameter", "Missing required parameter: 'a.b'."),
        ("unknown", "unknown_parameter", "Unknown parameter: 'a.b'."),
        ("type", "invalid_type", "Invalid type for 'a.b': why"),
        ("value", "invalid_value", "Invalid value for 'a.b': why"),
    ],
)
def test_a_violation_is_named(kind: ViolationKind, code: str, message: str) -> None:
    refused = refuse_violation(Violation(kind=kind, field="a.b", message="why"))
    assert (refused.status, refused.code, refused.param, refused.message) == (400, code, "a.b", message)


def test_every_answer_has_an_id_of_its_own() -> None:
    stage = make_stage(HandClock(), Faults(), Options(), random.Random(1))
    assert answer_headers(stage)["x-request-id"] != answer_headers(stage)["x-request-id"]
