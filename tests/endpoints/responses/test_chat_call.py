from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.calls import ChatCall
from bitmesh_proxy.endpoints.responses.chat_call import chat_call, short_call_id
from bitmesh_proxy.errors import InvalidRequest, UnsupportedParameter
from tests.endpoints.responses.making import TOOLS, a_request

PNG = "data:image/png;base64,iVBORw0KGgo="


def call_of(**fields: Any) -> ChatCall:
    return chat_call(a_request(**fields))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_the_order_is_instructions_context_input() -> None:
    context = a_request(input=[user("before"), {"role": "assistant", "content": "said"}]).items
    call = chat_call(a_request(input="now", instructions="Be brief."), context)
    assert call.messages == [
        {"role": "system", "content": "Be brief."},
        user("before"),
        {"role": "assistant", "content": "said"},
        user("now"),
    ]


def test_parts_get_the_names_of_chat_completions() -> None:
    parts = [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": PNG, "detail": "low"},
        {"type": "input_video", "video_url": "https://a.test/v"},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": "https://a.test/a.flac"}},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
    ]
    (message,) = call_of(input=[{"role": "user", "content": parts}]).messages
    assert message["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "video_url", "video_url": {"url": "https://a.test/v"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": "https://a.test/a.flac"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}},
    ]


def test_a_link_to_a_file_is_refused_and_not_dropped() -> None:
    part = {"type": "input_file", "file_url": "https://a.test/a.pdf"}
    with pytest.raises(InvalidRequest) as raised:
        call_of(input=[{"role": "user", "content": [part]}])
    assert raised.value.param == "input"


def test_calls_join_the_words_before_them_and_each_other() -> None:
    def call(number: int) -> dict[str, Any]:
        return {"type": "function_call", "call_id": f"c{number}", "name": "look", "arguments": "{}"}

    def sent(number: int) -> dict[str, Any]:
        return {"id": f"c{number}", "type": "function", "function": {"name": "look", "arguments": "{}"}}

    picture = {"type": "input_image", "image_url": PNG}
    outputs = [
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}, picture]},
    ]
    said = {"role": "assistant", "content": "Let me look."}
    thought = {"type": "reasoning", "summary": []}
    messages = call_of(input=[user("?"), said, thought, call(1), call(2), *outputs, call(3)]).messages
    assert messages == [
        user("?"),
        {**said, "tool_calls": [sent(1), sent(2)]},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
        {"role": "assistant", "content": None, "tool_calls": [sent(3)]},
    ]


def test_developers_are_the_system_and_refusals_stay() -> None:
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    two = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    messages = call_of(input=[{"role": "developer", "content": two}, refusal]).messages
    assert messages[0] == {"role": "system", "content": "a\n\nb"}
    assert messages[1] == {"role": "assistant", "content": None, "refusal": "No."}


def test_options_are_what_the_caller_sent_and_no_default() -> None:
    assert call_of().options == {}
    call = call_of(
        temperature=0.5,
        max_output_tokens=100,
        reasoning={"effort": "high"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}, "verbosity": "low"},
        top_logprobs=3,
        seed=7,
        tools=TOOLS,
        parallel_tool_calls=False,
        metadata={"secret": "stays here"},
        user="u",
    )
    options = dict(call.options)
    tools = options.pop("tools")
    assert [tool["function"]["name"] for tool in tools] == ["look", "listen", "speak"]
    assert options == {
        "temperature": 0.5,
        "max_completion_tokens": 100,
        "reasoning_effort": "high",
        "verbosity": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": False},
        },
        "logprobs": True,
        "top_logprobs": 3,
        "seed": 7,
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "user": "u",
    }


def test_json_objects_are_asked_for() -> None:
    assert call_of(text={"format": {"type": "json_object"}}).options == {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_items": 2}, "max_items"),
        ({"size": "1x1"}, "size"),
        ({"quality": "hd"}, "quality"),
        ({"seconds": 5}, "seconds"),
        ({"response_format": "b64_json"}, "response_format"),
        ({"mask": PNG}, "mask"),
        ({"n": 2}, "max_items"),
        ({"functions": []}, "functions"),
    ],
)
def test_what_text_models_cannot_take_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        call_of(**fields)
    assert raised.value.param == param


def test_what_changes_nothing_is_taken() -> None:
    assert call_of(max_items=1, response_format="url", size="auto").options == {}


def test_long_ids_are_shortened() -> None:
    assert short_call_id("c" * 64) == "c" * 64
    assert len(short_call_id("c" * 65)) <= 64


def test_the_call_of_a_custom_tool_keeps_its_text() -> None:
    call = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "*** Begin"}
    output = {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}
    turn, answer = call_of(input=[call, output]).messages
    sent = {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    assert turn == {"role": "assistant", "content": None, "tool_calls": [sent]}
    assert answer == {"role": "tool", "tool_call_id": "c1", "content": "done"}
