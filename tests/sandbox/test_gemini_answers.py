"""How Google words what it refuses."""

from __future__ import annotations

import pytest

from bitmesh_proxy.sandbox.gemini_answers import bad_credential, missing_credential, refuse_model, render_refusal
from bitmesh_proxy.sandbox.plays import Refused
from tests.sandbox.callers import assert_published


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (400, "INVALID_ARGUMENT"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
def test_a_status_has_its_word(status: int, word: str) -> None:
    rendered = render_refusal(Refused(status, "no"))
    assert_published("gemini", "error", rendered)
    assert rendered["error"] == {"code": status, "message": "no", "status": word}


@pytest.mark.parametrize("refused", [missing_credential(), bad_credential("k"), refuse_model("m", "predict")])
def test_refusals_are_as_published(refused: Refused) -> None:
    assert_published("gemini", "error", render_refusal(refused))
