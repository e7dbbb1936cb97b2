from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.endpoints.responses.fields import Fields
from bitmesh_proxy.endpoints.responses.items import check_call_ids, read_input, read_messages
from bitmesh_proxy.errors import InvalidRequest
from tests.endpoints.responses.making import counted_ids
from tests.endpoints.responses.specification import violations

CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "seen"}


def items_of(value: Any) -> list[Any]:
    return list(read_input(Fields({"input": value}), counted_ids()))


def messages_of(value: Any) -> list[Any]:
    return list(read_messages(Fields({"messages": value}), counted_ids()))


@pytest.mark.parametrize(
    "item",
    [
        {"role": "user", "content": "hi"},
        {"type": "message", "role": "assistant", "content": "hi", "phase": "commentary", "id": None, "status": None},
        {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "https://a.test/b"}]},
        CALL,
        OUTPUT,
        {**OUTPUT, "output": [{"type": "input_text", "text": "seen"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "content": None},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
        {"type": "compaction", "encrypted_content": "x"},
        {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "iVBORw0KGgo="},
    ],
)
def test_what_comes_in_can_be_shown_again(item: dict[str, Any]) -> None:
    """Every item becomes one that the standard's own schema of items takes."""
    (read,) = items_of([item])
    assert violations("ItemField", read) == []
    assert read["id"] == item.get("id") or read["id"].endswith("_1")
    assert items_of([read]) == [read]


def test_a_string_is_one_message_of_the_users() -> None:
    (item,) = items_of("hi")
    assert (item["role"], item["content"]) == ("user", [{"type": "input_text", "text": "hi"}])


@pytest.mark.parametrize("reference", [{"id": "msg_1"}, {"type": None, "id": "msg_1"}])
def test_an_id_alone_is_a_reference(reference: Any) -> None:
    assert items_of([reference]) == [{"type": "item_reference", "id": "msg_1"}]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        (5, "input[0]"),
        ({"type": "message", "content": "x"}, "input[0].role"),
        ({"role": "king", "content": "x"}, "input[0].role"),
        ({"role": "user"}, "input[0].content"),
        ({"role": "user", "content": "x", "phase": "commentary"}, "input[0].phase"),
        ({"type": "hologram"}, "input[0].type"),
        ({"type": "acme:search", "id": "x", "status": "completed"}, "input[0].type"),
        ({**CALL, "call_id": None}, "input[0].call_id"),
        ({**CALL, "call_id": "c" * 65}, "input[0].call_id"),
        ({**CALL, "name": "no spaces"}, "input[0].name"),
        ({**CALL, "arguments": {}}, "input[0].arguments"),
        ({**OUTPUT, "output": 5}, "input[0].output"),
        ({**OUTPUT, "output": None}, "input[0].output"),
        ({**OUTPUT, "output": [{"type": "text"}]}, "input[0].output[0].text"),
        ({"type": "reasoning", "summary": ["x"]}, "input[0].summary[0]"),
        ({"type": "compaction"}, "input[0].encrypted_content"),
        ({"type": "item_reference"}, "input[0].id"),
    ],
)
def test_what_is_wrong_is_named(item: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        items_of([item])
    assert raised.value.param == param


def test_messages_may_be_those_of_chat_completions() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    items = messages_of(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "seen"},
            {"role": "assistant", "content": "I saw.", "tool_calls": [{**call, "id": "c2"}]},
        ]
    )
    kinds = [item["type"] for item in items]
    assert kinds == ["message", "function_call", "function_call_output", "message", "function_call"]
    assert items[2]["output"] == "seen"
    check_call_ids(items, param="messages")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("hi", "messages"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "bard", "content": "x"}], "messages[0].role"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "assistant", "tool_calls": [{"id": "c"}]}], "messages[0].tool_calls[0].function"),
    ],
)
def test_what_is_wrong_in_messages_is_named(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        messages_of(messages)
    assert raised.value.param == param


def test_an_output_must_answer_a_call() -> None:
    check_call_ids(items_of([CALL, OUTPUT]), param="input")
    for orphan in ([OUTPUT], [OUTPUT, CALL]):
        with pytest.raises(InvalidRequest) as raised:
            check_call_ids(items_of(orphan), param="input")
        assert raised.value.param == "input"


CUSTOM_CALL = {"type": "custom_tool_call", "call_id": "c1", "name": "patch", "input": "*** Begin"}
CUSTOM_OUTPUT = {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}


def test_calls_of_custom_tools_come_in() -> None:
    call, output = items_of([CUSTOM_CALL, CUSTOM_OUTPUT])
    assert call == {**CUSTOM_CALL, "id": "ctc_1", "status": "completed"}
    assert output == {**CUSTOM_OUTPUT, "id": "ctco_2", "status": "completed"}
    assert items_of([call, output]) == [call, output]
    check_call_ids([call, output], param="input")
    with pytest.raises(InvalidRequest, match="c1"):
        check_call_ids([output], param="input")


def test_chat_completions_nest_the_call_of_a_custom_tool() -> None:
    said = {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    answer = {"role": "tool", "tool_call_id": "c1", "content": "done"}
    call, output = messages_of([{"role": "assistant", "content": None, "tool_calls": [said]}, answer])
    assert call == {**CUSTOM_CALL, "id": "ctc_1", "status": "completed"}
    check_call_ids([call, output], param="messages")
