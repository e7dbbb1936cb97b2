"""A chat call as Google's request: conversation, tools, thinking, format."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import ChatCall, Operation
from bitmesh_proxy.dialects.gemini_chat import dialect
from bitmesh_proxy.errors import InvalidRequest
from tests.dialects.offers import make_offer
from tests.providers.chat_options import SCHEMA_FORMAT, TOOL
from tests.providers.contracts import sent_json

USER = {"role": "user", "content": "Hi"}
PNG = "data:image/png;base64,iVBORw=="
CALLS = [
    {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}},
    {"id": "b", "type": "function", "function": {"name": "now", "arguments": ""}},
]


def body_of(
    asked: dict[str, Any] | None = None, messages: list[dict[str, Any]] | None = None, **offer: Any
) -> dict[str, Any]:
    call = ChatCall(model="m", messages=messages or [USER], options=asked or {})
    body: dict[str, Any] = sent_json(dialect().request(call, make_offer(Operation.CHAT, "gemini-x", **offer)))
    return body


def config_of(asked: dict[str, Any], **offer: Any) -> dict[str, Any]:
    config: dict[str, Any] = body_of(asked, **offer).get("generationConfig", {})
    return config


def test_plain_and_streamed_are_two_methods() -> None:
    offer = make_offer(Operation.CHAT, "gemini-3.8-flash")
    plain = dialect().request(ChatCall(model="m", messages=[USER]), offer)
    streamed = dialect().request(ChatCall(model="m", messages=[USER], stream=True), offer)
    assert (plain.path, plain.query) == ("/models/gemini-3.8-flash:generateContent", ())
    assert (streamed.path, streamed.query) == (
        "/models/gemini-3.8-flash:streamGenerateContent",
        (("alt", "sse"),),
    )
    assert plain.body == streamed.body


def test_a_models_name_cannot_leave_its_place_in_the_path() -> None:
    request = dialect().request(ChatCall(model="m", messages=[USER]), make_offer(Operation.CHAT, "../x?y"))
    assert request.path == "/models/..%2Fx%3Fy:generateContent"


def test_the_conversation() -> None:
    body = body_of(
        messages=[
            {"role": "system", "content": "Be brief."},
            USER,
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
            {"role": "assistant", "content": "Let me see.", "tool_calls": CALLS},
            {"role": "tool", "tool_call_id": "a", "content": '{"sky":"grey"}'},
            {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "noon"}]},
            {"role": "user", "content": "And?"},
        ]
    )
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Hi"}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}]},
        {
            "role": "model",
            "parts": [
                {"text": "Let me see."},
                {"functionCall": {"name": "weather", "args": {"city": "Bern"}}},
                {"functionCall": {"name": "now", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "weather", "response": {"sky": "grey"}}},
                {"functionResponse": {"name": "now", "response": {"result": "noon"}}},
                {"text": "And?"},
            ],
        },
    ]


def test_the_first_tool_call_carries_the_signature() -> None:
    known = {"role": "assistant", "tool_calls": CALLS, "reasoning_details": [{"data": "CiQB"}]}
    unknown = {"role": "assistant", "tool_calls": CALLS}

    def signatures(message: dict[str, Any], **offer: Any) -> list[str | None]:
        parts = body_of(messages=[USER, message], **offer)["contents"][1]["parts"]
        return [part.get("thoughtSignature") for part in parts]

    assert signatures(known) == ["CiQB", None]
    assert signatures(unknown) == [None, None]
    first, second = signatures(unknown, options={"signs_thoughts": True})
    assert first is not None
    assert second is None


def test_sounds_and_files_are_parts_too() -> None:
    parts = [
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,aGk="}},
    ]
    sent = body_of(messages=[{"role": "user", "content": parts}])["contents"][0]["parts"]
    assert [part["inlineData"]["mimeType"] for part in sent] == ["audio/mpeg", "application/pdf", "video/mp4"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": ""}, "messages.1.content"),
        ({"role": "function", "content": "x"}, "messages.1.role"),
        ({"role": "tool", "tool_call_id": "unknown", "content": "x"}, "messages.1.tool_call_id"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.test/a"}}]},
            "messages.1.content.0",
        ),
        ({"role": "user", "content": [{"type": "hologram"}]}, "messages.1.content.0"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "messages.1.tool_calls"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body_of(messages=[USER, message])
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("asked", "param"), [({"n": 2}, "n"), ({"stop": list("abcdef")}, "stop"), ({"stop": 5}, "stop")]
)
def test_what_cannot_be_done_is_refused_by_name(asked: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        body_of(asked)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {}),
        (
            {"temperature": 2, "top_p": 0.5, "top_k": 3, "seed": 7, "presence_penalty": 1, "frequency_penalty": -1},
            {
                "temperature": 2,
                "topP": 0.5,
                "topK": 3,
                "seed": 7,
                "presencePenalty": 1,
                "frequencyPenalty": -1,
            },
        ),
        ({"max_tokens": 5}, {"maxOutputTokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 9}, {"maxOutputTokens": 9}),
        ({"stop": "END"}, {"stopSequences": ["END"]}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"responseMimeType": "application/json"}),
        (
            {"response_format": SCHEMA_FORMAT},
            {
                "responseMimeType": "application/json",
                "responseJsonSchema": {"type": "object", "properties": {}},
            },
        ),
        ({"reasoning_effort": "low"}, {"thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True}}),
        ({"reasoning_effort": "xhigh"}, {"thinkingConfig": {"thinkingLevel": "HIGH", "includeThoughts": True}}),
        ({"reasoning_effort": "none"}, {"thinkingConfig": {"thinkingLevel": "MINIMAL"}}),
    ],
)
def test_the_generation_config(asked: dict[str, Any], expected: dict[str, Any]) -> None:
    assert config_of(asked) == expected


def test_older_models_think_by_the_token_and_some_do_not_think() -> None:
    assert config_of({"reasoning_effort": "medium"}, options={"thinking": "budget"}) == {
        "thinkingConfig": {"thinkingBudget": 8192, "includeThoughts": True}
    }
    assert config_of({"reasoning_effort": "none"}, options={"thinking": "budget"}) == {
        "thinkingConfig": {"thinkingBudget": 0}
    }
    assert config_of({"reasoning_effort": "high"}, options={"thinking": "none"}) == {}


def test_an_offer_has_defaults_and_may_refuse() -> None:
    config = config_of({"top_k": 1}, defaults={"temperature": 1}, options={"refuses": ["topK"]})
    assert config == {"temperature": 1}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, None),
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "weather"}}, {"mode": "ANY", "allowedFunctionNames": ["weather"]}),
    ],
)
def test_tools(choice: Any, expected: Any) -> None:
    body = body_of({"tools": [TOOL], "tool_choice": choice})
    (declaration,) = body["tools"][0]["functionDeclarations"]
    assert declaration["name"] == "weather"
    assert declaration["parametersJsonSchema"]["required"] == ["city"]
    assert body.get("toolConfig", {}).get("functionCallingConfig") == expected


def test_a_tool_that_is_no_function_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no tools of the type 'custom'") as caught:
        body_of({"tools": [TOOL, {"type": "custom", "custom": {"name": "patch"}}]})
    assert caught.value.param == "tools[1]"


def test_a_call_of_a_custom_tool_is_repeated_as_an_object() -> None:
    call = {"id": "call_1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    messages: list[dict[str, Any]] = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    (part,) = body_of(messages=messages)["contents"][1]["parts"]
    assert part["functionCall"] == {"name": "patch", "args": {"input": "*** Begin"}}
