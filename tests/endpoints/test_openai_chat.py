"""Requests in OpenAI's format: what is refused, naming which field, and what reaches the call."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from bitmesh_proxy.calls import ChatCall
from bitmesh_proxy.context import Caller
from bitmesh_proxy.endpoints import openai_chat
from bitmesh_proxy.endpoints.openai_chat import parse
from bitmesh_proxy.errors import InvalidRequest, MissingParameter

FREE = Caller(account_id="acc_1", key_id="key_1")
BOUND = Caller(account_id="acc_1", key_id="key_2", bound_model="vendor/bound")
GOOD: dict[str, Any] = {"model": "vendor/m", "messages": [{"role": "user", "content": "hi"}]}


def test_everything_arrives() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
        {"role": "tool", "tool_call_id": "c", "content": ""},
    ]
    body = {
        "model": "vendor/m",
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_completion_tokens": 5,
        "stop": None,
        "unheard_of": {"x": 1},
    }
    assert parse(body, FREE) == ChatCall(
        model="vendor/m",
        messages=messages,
        stream=True,
        options={
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_completion_tokens": 5,
            "unheard_of": {"x": 1},
        },
    )


def test_a_test_call_is_no_part_of_this_format() -> None:
    call = parse({**GOOD, "test": True}, FREE)
    assert call.test is False
    assert "test" not in call.options


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(MissingParameter) as caught:
        parse({**GOOD, **change}, FREE)
    assert caught.value.param == param
    assert f"'{param}'" in caught.value.message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": 5}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [GOOD["messages"][0], {"role": "user", "content": ["x"]}]}, "messages[1].content"),
        ({"messages": [GOOD["messages"][0]] * 10_001}, "messages"),
        ({"stream": "true"}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.0}, "max_tokens"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"seed": 1.5}, "seed"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 1]}, "stop"),
        ({"tools": {"type": "function"}}, "tools"),
        ({"tools": ["x"]}, "tools"),
        ({"response_format": "json"}, "response_format"),
        ({"parallel_tool_calls": 0}, "parallel_tool_calls"),
        ({"user": 7}, "user"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse({**GOOD, **change}, FREE)
    assert caught.value.status == 400
    assert caught.value.param == param


def test_a_bound_key_need_not_name_its_model() -> None:
    for model in ("vendor/bound", None, ""):
        assert parse({**GOOD, "model": model}, BOUND).model == "vendor/bound"
    assert parse({"messages": GOOD["messages"]}, BOUND).model == "vendor/bound"
    assert parse(GOOD, BOUND).model == GOOD["model"]  # which may be an alias: routing knows


_ODD: list[Any] = [None, True, False, 0, 1, -1, 2.5, 129, "", "x", [], ["x"], [1], [{}], {}]


def test_of_several_wrong_fields_the_first_of_the_table_is_named() -> None:
    """In whatever order the body has them, and what is right arrives in the body's order."""
    names = [*openai_chat._FIELDS, "unheard_of"]
    for first, second in itertools.permutations(names, 2):
        for one, other in ((each, _ODD[place - 3]) for place, each in enumerate(_ODD)):
            body = {first: one, **GOOD, second: other}
            wrong = [
                name
                for name, (_, is_valid) in openai_chat._FIELDS.items()
                if body.get(name) is not None and not is_valid(body[name])
            ]
            if wrong:
                with pytest.raises(InvalidRequest) as caught:
                    parse(body, FREE)
                assert caught.value.param == wrong[0]
            else:
                call = parse(body, FREE)
                said = {name: value for name, value in body.items() if value is not None}
                assert list(call.options.items()) == [
                    (name, said[name]) for name in said if name not in ("model", "messages", "stream")
                ]
                assert call.stream is (body.get("stream") is True)
