"""What is taken at a glance is what the rules would have made of it, for good bodies and for nearly good ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.calls import ChatCall
from bitmesh_proxy.context import Caller
from bitmesh_proxy.endpoints.bitmesh import parse_chat, parse_chat_by_rules
from bitmesh_proxy.endpoints.plain_chat import plain_chat
from bitmesh_proxy.errors import ValidationFailed

FREE = Caller(account_id="acc_1", key_id="key_1")
BOUND = Caller(account_id="acc_1", key_id="key_2", bound_model="vendor/bound")
COMMON: dict[str, Any] = {
    "model": "vendor/m",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    "temperature": 0.7,
    "max_tokens": 64,
}

NAMES = frozenset((*COMMON, "stream", "test", "repetition_penalty", "frequency_penalty", "presence_penalty"))
NAMES |= {"max_completion_tokens", "n"}
NAMES |= {"messages.*.role", "messages.*.content", "messages.*.content.*.type"}

_SCALARS: list[Any] = [None, True, False, 0, 1, "", "x", " x", "1", [], {}, 1.0]
_NUMBERS: list[Any] = [*_SCALARS, 2, -2, 3, -3, -0.0, 0.5, 2.00000000000001, 1.9999999999999999, -2.0000000000000004]
_LIMITS: list[Any] = [1e-300, 1.7976931348623157e308, math.inf, -math.inf, math.nan, 2**63 - 1, 2**63, 2**64, " 0.5 "]
_PARTS: list[Any] = [{"type": "text"}, {"type": " "}, {"type": 1}, {"type": None}, {}, "x", None, {"type": "\u200b"}]
_CONTENTS: list[Any] = [*_SCALARS, " \t", "\u200b", "\u2060", "\xa0x", "x\x00", *([part] for part in _PARTS)]
_TOOL_CALLS: list[Any] = [None, [], [{"id": "c"}], "x", " ", {}, {"a": 1}, 0]
_ROLES: list[Any] = [*_SCALARS, "system", "user ", "assistant", " assistant", "tool", "developer"]


def _messages() -> list[Any]:
    """Lists of messages with one or two things that are seldom or wrong."""
    contents = [{"role": role, "content": content} for role in ("user", "assistant") for content in _CONTENTS]
    calls = [
        {"role": role, "content": content, name: value}
        for role in ("assistant", "user", " assistant")
        for content in (None, "", "x")
        for name in ("tool_calls", "function_call")
        for value in _TOOL_CALLS
    ]
    roles = [{"role": role, "content": "x"} for role in _ROLES]
    odd = [{"content": "x"}, {"role": "user"}, {"role": "assistant", "tool_calls": [{}]}, [], None, "x", {}, 5]
    several = [contents[0:1] * 2, [COMMON["messages"][0], {"role": "user", "content": " "}]]
    return [*([each] for each in (*contents, *calls, *roles, *odd)), *several, *_SCALARS]


#: What may stand in each field; the first of pairs is any of the fields, so that errors of several come together.
FIELDS: dict[str, list[Any]] = {
    "model": [*_SCALARS, "vendor/m ", "\u200evendor/m", "a"],
    "messages": _messages(),
    "max_tokens": [*_NUMBERS, *_LIMITS],
    "temperature": [*_NUMBERS, *_LIMITS],
    "repetition_penalty": [*_NUMBERS, *_LIMITS],
    "frequency_penalty": [*_NUMBERS, *_LIMITS],
    "presence_penalty": [*_NUMBERS, *_LIMITS],
    "max_completion_tokens": [*_NUMBERS, *_LIMITS],
    "n": [*_NUMBERS, *_LIMITS],
    "stream": [*_SCALARS, "0", 0.0, 2],
    "test": [*_SCALARS, "0", 0.0, 2],
    "top_p": [None, 0.5, [1]],
    "messages.*.role": [None, 1],
}
_PAIRS = [("messages", "model"), ("messages", "stream"), ("max_tokens", "temperature"), ("stream", "test")]
_PAIRS += [("temperature", "repetition_penalty"), ("frequency_penalty", "presence_penalty"), ("model", "top_p")]
_PAIRS += [("n", "max_completion_tokens"), ("n", "presence_penalty")]


def nearly_good() -> Iterator[dict[str, Any]]:
    """The common body, with one field changed in every way, and two fields in every way together."""
    for name, values in FIELDS.items():
        yield {other: value for other, value in COMMON.items() if other != name}
        for value in values:
            yield {**COMMON, name: value}
    for first, second in _PAIRS:
        for one, other in itertools.product(FIELDS[first], FIELDS[second]):
            yield {**COMMON, first: one, second: other}


_ANYTHING = st.recursive(
    st.sampled_from([*_SCALARS, "user", 0.7, 64]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["role", "content"]), inner, max_size=2)
    ),
    max_leaves=6,
)


def by_rules(body: dict[str, Any], caller: Caller) -> ChatCall | dict[str, list[str]]:
    try:
        return parse_chat_by_rules(body, caller)
    except ValidationFailed as exc:
        return {name: list(messages) for name, messages in exc.fields.items()}


def shown(call: object) -> object:
    """With the order of the options, which is the order in which the provider gets them, and 1 told from 1.0."""
    return repr(call), repr(list(call.options)) if isinstance(call, ChatCall) else None


def check(body: dict[str, Any], caller: Caller) -> bool:
    """Hold both ways against each other. Was a glance enough?"""
    glanced = plain_chat(body, caller.bound_model, without=NAMES)
    if glanced is None:
        return False
    assert shown(glanced) == shown(by_rules(body, caller)) == shown(parse_chat(body, caller))
    return True


@pytest.mark.parametrize("caller", [FREE, BOUND])
def test_a_glance_sees_what_the_rules_would(caller: Caller) -> None:
    seen = [0, 0]
    for body in nearly_good():
        if caller is BOUND and body.get("model") == COMMON["model"]:
            del body["model"]
        seen[check(body, caller)] += 1
    assert sum(seen) > 4_000
    assert min(seen) > 400


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), _ANYTHING), st.sampled_from([FREE, BOUND]))
def test_anything_at_all_is_seen_alike(body: dict[str, Any], caller: Caller) -> None:
    check({**COMMON, **body}, caller)
    check(body, caller)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"stream": True},
        {"stream": False, "test": True},
        {"stream": None, "temperature": None, "top_p": None},
        {"repetition_penalty": 1.1, "frequency_penalty": -2, "presence_penalty": 2.0, "top_p": 0.9, "stop": ["x"]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}], "name": "n"}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]},
        {"messages": [{"role": "user", "content": "x "}] * 1_000},
    ],
)
def test_common_bodies_need_no_rules(more: dict[str, Any]) -> None:
    body = orjson.loads(orjson.dumps({**COMMON, **more}))
    call = plain_chat(body, None, without=NAMES)
    assert call is not None
    assert shown(call) == shown(parse_chat_by_rules(body, FREE))


@pytest.mark.parametrize(
    "more",
    [
        {"model": " vendor/m"},
        {"messages": [{"role": "user", "content": "x"}] * 1_001},
        {"messages": [{"role": "user", "content": [{"type": "text"}] * 1_000}]},
        {"temperature": "0.5"},
        {"stream": 1},
        {"max_tokens": 64.0},
    ],
)
def test_what_the_rules_would_change_is_theirs(more: dict[str, Any]) -> None:
    assert plain_chat({**COMMON, **more}, None, without=NAMES) is None
    assert isinstance(by_rules({**COMMON, **more}, FREE), ChatCall)
