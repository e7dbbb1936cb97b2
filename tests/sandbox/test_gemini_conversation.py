"""A request for content in the shape that the sandbox answers, and what of it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.sandbox.gemini_conversation import as_chat, check, last_user_text, lowered, pictures_of
from bitmesh_proxy.sandbox.plays import Refused

USER = {"role": "user", "parts": [{"text": "hi"}]}
CALL = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"a": 1}}}]}
SIGNED = {"role": "model", "parts": [{**CALL["parts"][0], "thoughtSignature": "c2ln"}]}  # type: ignore[dict-item]
RESULT = {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"b": 2}}}]}


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        ([USER, CALL], "hi"),
        ([{"parts": [{"text": "a"}, {"text": "b"}]}], "a\nb"),
        ([USER, CALL, RESULT], ""),
        ([], ""),
        ("none", ""),
        (["x"], ""),
    ],
)
def test_the_users_last_text(contents: Any, text: str) -> None:
    assert last_user_text({"contents": contents}) == text


def test_a_result_goes_last_and_a_call_is_told_in_json() -> None:
    told = as_chat({"contents": [USER, CALL, RESULT], "systemInstruction": {"parts": [{"text": "Be brief."}]}}, "m")
    assert told["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": '{"a": 1}'},
        {"role": "tool", "content": '{"b": 2}'},
    ]


@pytest.mark.parametrize(
    ("calling", "choice"),
    [
        ({"mode": "AUTO"}, "auto"),
        ({"mode": "NONE"}, "none"),
        (
            {"mode": "ANY", "allowedFunctionNames": ["f"]},
            {"type": "function", "function": {"name": "f"}},
        ),
    ],
)
def test_tools(calling: Any, choice: Any) -> None:
    declared = {"name": "f", "parameters": {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}}}
    body = {"contents": [USER], "tools": [{"functionDeclarations": [declared]}]}
    told = as_chat({**body, "toolConfig": {"functionCallingConfig": calling}}, "m")
    assert told["tools"][0]["function"]["parameters"] == {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert told["tool_choice"] == choice


def test_pictures_are_found_in_order() -> None:
    parts = [
        {"inlineData": {"mimeType": kind, "data": data}} for kind, data in (("image/png", "a"), ("audio/mp3", "b"))
    ]
    assert pictures_of({"contents": [{"parts": [*parts, {"text": "x"}]}, {"parts": parts[:1]}]}) == ["a", "a"]
    assert lowered([{"type": "STRING", "enum": ["A"]}]) == [{"type": "string", "enum": ["A"]}]


@pytest.mark.parametrize(
    ("body", "model", "message"),
    [
        ({"contents": []}, "gemini-2.5-flash", "contents is not specified"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "gemini-2.5-flash", "valid role"),
        ({"contents": [{"parts": []}]}, "gemini-2.5-flash", "must not be empty"),
        ({"generationConfig": {"candidateCount": 2}}, "gemini-2.5-flash", "Multiple candidates"),
        ({"generationConfig": {"stopSequences": list("abcdef")}}, "gemini-2.5-flash", "at most 5"),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}},
            "gemini-2.5-flash",
            "level is not supported",
        ),
        ({"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}, "gemini-2.5-pro", "Budget 0"),
        ({"contents": [USER, CALL, RESULT]}, "gemini-3.8-flash", "missing a thought_signature"),
    ],
)
def test_what_is_refused(body: Any, model: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        check({"contents": [USER], **body}, model)


def test_only_the_current_turn_has_to_be_signed_and_only_for_gemini_3() -> None:
    check({"contents": [USER, SIGNED, RESULT]}, "gemini-3.8-flash")
    check({"contents": [USER, CALL, RESULT]}, "gemini-2.5-flash")
    check({"contents": [USER, CALL, RESULT, SIGNED, USER]}, "gemini-3.8-flash")
