from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.endpoints.responses.resource import (
    Cost,
    ResponseState,
    render_items,
    render_response,
    render_usage,
)
from bitmesh_proxy.money import parse_usd
from tests.endpoints.responses.making import TOOLS, a_request
from tests.endpoints.responses.specification import check_response, violations

STATE = ResponseState(response_id="resp_1", created_at_s=1_795_300_000, status="in_progress")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": [{"role": "user", "content": "hi"}]},
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"}},
        {"text": {"format": {"type": "json_object"}}},
        {"text": {}, "reasoning": {}},
        {"reasoning": {"effort": "minimal", "summary": "auto"}},
        {"tools": TOOLS, "tool_choice": {"type": "function", "name": "look"}},
        {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "look"}]}},
        {"temperature": 0, "top_p": 0.5, "presence_penalty": -2, "frequency_penalty": 2, "top_logprobs": 20},
        {"max_output_tokens": 16, "max_tool_calls": 1, "parallel_tool_calls": False},
        {"metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k", "previous_response_id": "resp_0"},
        {"store": False, "truncation": "auto", "instructions": "x"},
        {"background": True, "service_tier": "flex"},
    ],
)
def test_every_echo_keeps_the_schema(fields: dict[str, Any]) -> None:
    response = render_response(a_request(**fields), STATE)
    check_response(response)
    for name in ("store", "truncation", "instructions", "temperature", "metadata", "background", "top_logprobs"):
        if name in fields:
            assert response[name] == fields[name]
    assert response["created"] == response["created_at"]


def test_defaults_are_values_and_not_null() -> None:
    response = render_response(a_request(), STATE)
    assert (response["temperature"], response["top_p"], response["top_logprobs"]) == (1, 1, 0)
    assert (response["store"], response["background"], response["truncation"]) == (True, False, "disabled")
    assert (response["tool_choice"], response["text"]) == ("auto", {"format": {"type": "text"}})
    assert response["reasoning"] is None
    assert "warnings" not in response


def test_usage_has_both_vocabularies() -> None:
    usage = render_usage(Usage(input_tokens=3, output_tokens=4), Cost())
    assert violations("Usage", usage) == []
    assert usage["total_tokens"] == 7
    assert usage.keys().isdisjoint({"total_cost", "latency_ms"})
    billed = render_usage(
        Usage(input_tokens=3, output_tokens=4), Cost(charge_nano_usd=parse_usd("0.04"), latency_ms=12)
    )
    assert billed == {**usage, "total_cost": 0.04, "latency_ms": 12}


def test_items_are_the_messages_in_the_documents_words() -> None:
    text = {"type": "output_text", "text": "![image](u)", "annotations": [], "logprobs": []}
    parts = [
        {"type": "input_image", "image_url": "u", "detail": "auto"},
        {"type": "input_video", "video_url": "u"},
        {"type": "input_file", "file_url": "u", "media_type": "audio/mpeg"},
    ]
    output: list[Any] = [
        {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed", "content": content}
        for number, content in enumerate(
            [[text], *([text, part] for part in parts), [{"type": "refusal", "refusal": "no"}]]
        )
    ]
    output.append({"id": "fc_1", "type": "function_call"})
    assert [item["content"] for item in render_items(output)] == [
        [{"type": "text", "text": "![image](u)"}],
        [{"type": "image_url", "image_url": {"url": "u"}}],
        [{"type": "video_url", "video_url": {"url": "u"}}],
        [{"type": "audio_url", "audio_url": {"url": "u"}}],
        [{"type": "text", "text": "no"}],
    ]
