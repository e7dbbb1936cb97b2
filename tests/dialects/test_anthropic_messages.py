"""A chat call as Anthropic's request: conversation, tools, thinking."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import ChatCall, Operation
from bitmesh_proxy.dialects.anthropic_messages import dialect
from bitmesh_proxy.errors import InvalidRequest
from tests.dialects.offers import make_offer
from tests.providers.chat_options import TOOL
from tests.providers.contracts import sent_json

USER = {"role": "user", "content": "Hi"}
PNG = "data:image/png;base64,iVBORw=="


def body_of(
    asked: dict[str, Any] | None = None, messages: list[dict[str, Any]] | None = None, **offer: Any
) -> dict[str, Any]:
    call = ChatCall(model="m", messages=messages or [USER], options=asked or {})
    body: dict[str, Any] = sent_json(dialect().request(call, make_offer(Operation.CHAT, "claude", **offer)))
    return body


def text(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": each} for each in texts]


def test_the_system_prompt_is_no_message_and_neighbours_are_one() -> None:
    body = body_of(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
            USER,
            {"role": "user", "content": "Are you there?"},
            {"role": "assistant", "content": ""},
            {"role": "assistant", "content": "Yes."},
            USER,
        ]
    )
    assert body["system"] == text("Be brief.", "Be kind.")
    assert body["messages"] == [
        {"role": "user", "content": text("Hi", "Are you there?")},
        {"role": "assistant", "content": text("Yes.")},
        {"role": "user", "content": text("Hi")},
    ]


def test_tool_calls_and_their_results_are_blocks() -> None:
    calls = [
        {"id": "call.1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": ""}},
    ]
    body = body_of(
        messages=[
            USER,
            {"role": "assistant", "content": "Let me see.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call.1", "content": "Rain."},
            {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
            {"role": "user", "content": "And?"},
        ]
    )
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="}}
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                *text("Let me see."),
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Bern"}},
                {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": text("Rain.")},
                {"type": "tool_result", "tool_use_id": "call_2", "content": [picture]},
                *text("And?"),
            ],
        },
    ]


def test_thinking_goes_back_as_it_came_and_comes_first() -> None:
    details = [
        {"type": "reasoning.text", "text": "Hm.", "signature": "EqQB"},
        {"type": "reasoning.encrypted", "data": "Em4K"},
        {"type": "reasoning.text", "text": "Unsigned thoughts cannot go back."},
    ]
    message = {"role": "assistant", "content": "Yes.", "reasoning_details": details}
    assert body_of(messages=[USER, message])["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
        {"type": "redacted_thinking", "data": "Em4K"},
        *text("Yes."),
    ]


def test_pictures_and_documents() -> None:
    parts = [
        {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
    ]
    assert body_of(messages=[{"role": "user", "content": parts}])["messages"][0]["content"] == [
        {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
        },
    ]


def part(kind: str, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": kind, kind: fields}]}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": ""}, "messages.1.content"),
        ({"role": "function", "name": "f", "content": "x"}, "messages.1.role"),
        (part("input_audio", data="aa", format="wav"), "messages.1.content.0"),
        (part("image_url", url="data:image/tiff;base64,aa"), "messages.1.content.0"),
        (part("image_url", url="data:image/png,aa"), "messages.1.content.0"),
        (part("file", file_data="data:text/html;base64,aa"), "messages.1.content.0"),
        (part("file", file_id="f"), "messages.1.content.0"),
        ({**part("image_url", url=PNG), "role": "system"}, "messages.1.content"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "messages.1.tool_calls"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body_of(messages=[USER, message])
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("options", "most", "sent"),
    [
        ({}, None, 4096),
        ({}, 64_000, 64_000),
        ({"max_tokens": 10}, 64_000, 10),
        ({"max_tokens": 10, "max_completion_tokens": 20}, None, 20),
        ({"max_tokens": 100_000}, 64_000, 64_000),
    ],
)
def test_a_limit_is_always_sent(options: dict[str, Any], most: int | None, sent: int) -> None:
    assert body_of(options, max_output_tokens=most)["max_tokens"] == sent


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 1.7, "top_p": 0.5, "top_k": 3}, {"temperature": 1, "top_p": 0.5, "top_k": 3}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "\n"]}, {"stop_sequences": ["a"]}),
        ({"user": "u"}, {"metadata": {"user_id": "u"}}),
        ({"seed": 1, "logprobs": False, "frequency_penalty": 1, "unknown": 1}, {}),
        ({"response_format": {"type": "text"}}, {}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        ),
    ],
)
def test_options(options: dict[str, Any], expected: dict[str, Any]) -> None:
    body = body_of(options)
    assert {name: value for name, value in body.items() if name not in ("model", "messages", "max_tokens")} == expected


def test_json_is_asked_for_in_words_where_there_is_no_schema() -> None:
    assert "JSON" in body_of({"response_format": {"type": "json_object"}})["system"][-1]["text"]


@pytest.mark.parametrize(
    ("effort", "manner", "expected"),
    [
        ("low", "adaptive", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        ("minimal", "adaptive", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        ("none", "adaptive", {"thinking": {"type": "disabled"}}),
        ("medium", "budget", {"thinking": {"type": "enabled", "budget_tokens": 8192}}),
        ("max", "budget", {"thinking": {"type": "enabled", "budget_tokens": 16_000}}),
        ("high", "none", {}),
    ],
)
def test_how_much_to_think(effort: str, manner: str, expected: dict[str, Any]) -> None:
    body = body_of({"reasoning_effort": effort}, max_output_tokens=32_000, options={"thinking": manner})
    assert {name: body[name] for name in ("thinking", "output_config") if name in body} == expected


def test_a_budget_leaves_room_for_the_answer_or_is_not_sent() -> None:
    assert "thinking" not in body_of({"reasoning_effort": "high", "max_tokens": 2000}, options={"thinking": "budget"})


def test_sampling_and_forced_tools_give_way() -> None:
    thinking = {"reasoning_effort": "low", "temperature": 0, "top_p": 0.5, "top_k": 1}
    assert body_of(thinking).keys().isdisjoint({"temperature", "top_p", "top_k"})
    forced = body_of({**thinking, "tools": [TOOL], "tool_choice": "required"})
    assert "thinking" not in forced
    assert forced["temperature"] == 0


def test_thinking_in_the_providers_own_words() -> None:
    own = {"type": "enabled", "budget_tokens": 2048}
    assert body_of({"thinking": own, "reasoning_effort": "low"})["thinking"] == own


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        ("auto", None, {"type": "auto"}),
        ("none", False, {"type": "none"}),
        ("required", None, {"type": "any"}),
        ({"type": "function", "function": {"name": "weather"}}, None, {"type": "tool", "name": "weather"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", False, {"type": "any", "disable_parallel_tool_use": True}),
    ],
)
def test_choosing_tools(choice: Any, parallel: bool | None, expected: Any) -> None:
    body = body_of({"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": parallel})
    assert body.get("tool_choice") == expected
    assert body["tools"] == [
        {
            "name": "weather",
            "description": "Tells the weather.",
            "input_schema": TOOL["function"]["parameters"],  # type: ignore[index]  # a literal of mixed values
        }
    ]


def test_several_answers_at_once_are_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        body_of({"n": 2})
    assert caught.value.param == "n"


def test_an_offer_may_refuse_a_field_and_give_defaults() -> None:
    body = body_of({"temperature": 0.5}, options={"refuses": ["temperature"]}, defaults={"top_p": 0.99})
    assert "temperature" not in body
    assert body["top_p"] == 0.99


def test_a_tool_that_is_no_function_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no tools of the type 'custom'") as caught:
        body_of({"tools": [TOOL, {"type": "custom", "custom": {"name": "patch"}}]})
    assert caught.value.param == "tools[1]"


def test_a_call_of_a_custom_tool_is_repeated_as_an_object() -> None:
    call = {"id": "call_1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    messages: list[dict[str, Any]] = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    (block,) = body_of(messages=messages)["messages"][1]["content"]
    assert (block["type"], block["name"], block["input"]) == ("tool_use", "patch", {"input": "*** Begin"})
