"""Google's Gemini API as it publishes it: its models, its keys, its words for what goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.sandbox.callers import Answer, Caller, assert_published, calling

FLASH = "/gemini/v1beta/models/gemini-3.8-flash"


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as caller:
        caller.session.headers["x-goog-api-key"] = "some-key"
        yield caller


async def say(caller: Caller, text: str, **more: Any) -> Answer:
    return await caller.post(f"{FLASH}:generateContent", {"contents": [{"parts": [{"text": text}]}], **more})


async def test_models_are_listed(caller: Caller) -> None:
    listed = await caller.get("/gemini/v1beta/models")
    assert_published("gemini", "models", listed.json)
    names = [model["name"] for model in listed.json["models"]]
    assert "models/veo-2.0-generate-001" in names
    one = await caller.get(f"/gemini/v1beta/{names[0]}")
    assert_published("gemini", "model", one.json)
    assert one.json == listed.json["models"][0]
    missing = await caller.get("/gemini/v1beta/models/gemini-none")
    assert (missing.status, missing.error["status"]) == (404, "NOT_FOUND")


async def test_a_refused_key_is_an_invalid_argument_with_the_truth_in_the_details(caller: Caller) -> None:
    refused = await caller.get("/gemini/v1beta/models", headers={"x-goog-api-key": "bad-key"})
    assert_published("gemini", "error", refused.json)
    assert (refused.status, refused.error["status"]) == (400, "INVALID_ARGUMENT")
    assert refused.error["details"][0]["reason"] == "API_KEY_INVALID"
    missing = await caller.get("/gemini/v1beta/models", headers={"x-goog-api-key": ""})
    assert (missing.status, missing.error["status"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("model", "method", "body"),
    [
        ("no-such-model", "generateContent", {"contents": [{"parts": [{"text": "x"}]}]}),
        ("veo-2.0-generate-001", "generateContent", {"contents": [{"parts": [{"text": "x"}]}]}),
        ("gemini-3.8-flash", "predict", {"instances": [{"prompt": "x"}]}),
        ("gemini-3.8-flash", "predictLongRunning", {"instances": [{"prompt": "x"}]}),
    ],
)
async def test_a_model_does_its_own_work_only(caller: Caller, model: str, method: str, body: Any) -> None:
    answer = await caller.post(f"/gemini/v1beta/models/{model}:{method}", body)
    assert (answer.status, answer.error["status"]) == (404, "NOT_FOUND")
    assert f"models/{model} is not found" in answer.error["message"]


async def test_members_that_the_schema_does_not_name_are_refused_on_every_level(caller: Caller) -> None:
    answer = await say(caller, "x", generationConfig={"thinkingConfig": {"effort": "high"}})
    assert_published("gemini", "error", answer.json)
    assert "Unknown name \"effort\" at 'generationConfig.thinkingConfig'" in answer.error["message"]
    top = await say(caller, "x", stream=True)
    assert top.error["message"] == 'Invalid JSON payload received. Unknown name "stream": Cannot find field.'
    none = await caller.post(f"{FLASH}:generateContent", {})
    assert none.error["details"][0]["fieldViolations"][0]["field"] == "contents"


async def test_a_wait_stands_in_the_details(caller: Caller) -> None:
    answer = await say(caller, "x [[sandbox: status=429 retry_after=7]]")
    assert_published("gemini", "error", answer.json)
    assert (answer.status, answer.error["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert answer.error["details"] == [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}]
