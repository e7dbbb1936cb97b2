"""What cannot be had is said, and what was not asked for is not missed."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.dialects.unsupported import declared_functions, refuse_logprobs, stop_sequences
from bitmesh_proxy.errors import InvalidRequest, UnsupportedParameter, UnsupportedValue


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 1}, "top_logprobs"),
    ],
)
def test_probabilities_are_refused_by_name(options: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        refuse_logprobs(options)
    assert refused.value.param == param


@pytest.mark.parametrize("options", [{}, {"logprobs": False}, {"logprobs": None, "top_logprobs": 0}])
def test_nothing_asked_is_nothing_refused(options: dict[str, Any]) -> None:
    refuse_logprobs(options)


@pytest.mark.parametrize(
    ("stop", "sequences"), [(None, []), ("", [""]), ("END", ["END"]), ([], []), (["a", " "], ["a", " "])]
)
def test_stop_is_one_text_or_several(stop: Any, sequences: list[str]) -> None:
    assert stop_sequences({"stop": stop}) == sequences


@pytest.mark.parametrize("stop", [5, True, {"a": 1}, ["a", 5], [None], [["a"]]])
def test_a_stop_that_is_no_text_is_refused(stop: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        stop_sequences({"stop": stop})
    assert refused.value.param == "stop"


def test_functions_are_declared() -> None:
    look = {"name": "look", "parameters": {"type": "object"}}
    assert declared_functions({"tools": [{"type": "function", "function": look}]}) == [look]
    assert declared_functions({"tools": None}) == declared_functions({}) == []


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ({"type": "custom", "custom": {"name": "patch"}}, "no tools of the type 'custom'"),
        ({"type": "web_search"}, "no tools of the type 'web_search'"),
        ({"type": "function", "name": "look"}, "no tools without a 'function'"),
        ({"name": "look", "input_schema": {}}, "no tools without a 'function'"),
    ],
)
def test_a_tool_that_is_no_function_is_refused_with_its_place(tool: dict[str, Any], said: str) -> None:
    look = {"type": "function", "function": {"name": "look"}}
    with pytest.raises(UnsupportedValue, match=said) as refused:
        declared_functions({"tools": [look, tool]})
    assert refused.value.param == "tools[1]"
