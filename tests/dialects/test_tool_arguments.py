"""Whatever a caller repeats as a tool call's arguments becomes an object, or is refused with its place."""

from __future__ import annotations

import pytest

from bitmesh_proxy.dialects.tool_arguments import tool_arguments, tool_called
from bitmesh_proxy.errors import InvalidRequest


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city": "Oslo"}', {"city": "Oslo"}),
        ({"city": "Oslo"}, {"city": "Oslo"}),
        ("", {}),
        (None, {}),
        ('"Oslo"', {"value": "Oslo"}),
        ("[1, 2]", {"value": [1, 2]}),
        ("null", {"value": None}),
    ],
)
def test_arguments_become_an_object(arguments: object, expected: dict[str, object]) -> None:
    assert tool_arguments(arguments, "messages.1") == expected


@pytest.mark.parametrize("arguments", ["{", "Oslo", '{"city": }', '{"a":' * 300 + "1" + "}" * 300])
def test_what_is_not_json_or_too_deep_is_refused_with_its_place(arguments: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tool_arguments(arguments, "messages.1")
    assert caught.value.param == "messages.1.tool_calls"


def test_a_call_is_a_name_and_an_object() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Oslo"}'}}
    assert tool_called(call, "messages.1") == ("look", {"city": "Oslo"})
    call = {"id": "call_1", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}
    assert tool_called(call, "messages.1") == ("patch", {"input": "*** Begin"})
    assert tool_called({}, "messages.1") == ("", {})
