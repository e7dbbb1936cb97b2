"""What is answered to a conversation, before it takes a provider's shape."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import validate

from bitmesh_proxy.sandbox.chat import Completion, answer, count_prompt_tokens, last_user_text, text_of
from bitmesh_proxy.sandbox.faults import NOTHING, Directives
from bitmesh_proxy.sandbox.words import tokenize

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "time"}},
    {"type": "custom", "custom": {"name": "note"}},
]


def ask(text: str = "Hello", directives: Directives = NOTHING, **more: Any) -> Completion:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
    return answer(body, text, directives, player="OpenAI")


def test_the_same_question_gets_the_same_answer() -> None:
    assert ask().choices == ask().choices
    assert ask("Hello", seed=1).choices != ask("Hello", seed=2).choices


def test_the_answer_echoes_the_question() -> None:
    choice = ask("What is red?").choices[0]
    assert "“What is red?”" in choice.text
    assert choice.finish_reason == "stop"


def test_usage_adds_up() -> None:
    completion = ask(n=3)
    assert completion.completion_tokens == sum(len(tokenize(choice.text)) for choice in completion.choices)
    assert completion.total_tokens == completion.prompt_tokens + completion.completion_tokens
    assert len({choice.text for choice in completion.choices}) == 3


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_limit_cuts(field: str) -> None:
    def ended(limit: int | None) -> tuple[int, str]:
        more: dict[str, Any] = {field: limit}
        choice = ask("Hello", **more).choices[0]
        return len(choice.tokens), choice.finish_reason

    assert ended(4) == (4, "length")
    assert ended(4000) == ended(None) == (len(ask().choices[0].tokens), "stop")


def test_the_smaller_limit_counts() -> None:
    assert len(ask(max_tokens=9, max_completion_tokens=2).choices[0].tokens) == 2


@pytest.mark.parametrize("stop", ["sandbox", ["zzz", "sandbox", "playing"]])
def test_a_stop_word_ends_the_answer_before_it(stop: Any) -> None:
    choice = ask(stop=stop).choices[0]
    assert choice.text == "You said “Hello”. This is the "
    assert choice.finish_reason == "stop"


def test_as_many_tokens_as_a_directive_says() -> None:
    assert len(ask(directives=Directives(tokens=321)).choices[0].tokens) == 321


def test_the_first_tool_is_called_with_fitting_arguments() -> None:
    choice = ask("Rome", tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.tool_call is not None
    assert choice.tool_call.name == "weather"
    arguments = json.loads(choice.tool_call.arguments)
    validate(arguments, PARAMETERS)
    assert arguments["city"] == "Rome"
    assert choice.text == choice.tool_call.arguments


@pytest.mark.parametrize(
    ("tool_choice", "called"),
    [
        ("auto", "weather"),
        ("required", "weather"),
        ({"type": "function", "function": {"name": "time"}}, "time"),
        ({"type": "custom", "custom": {"name": "note"}}, "note"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOLS[1]]}},
            "time",
        ),
    ],
)
def test_tool_choice_is_obeyed(tool_choice: Any, called: str) -> None:
    call = ask(tools=TOOLS, tool_choice=tool_choice).choices[0].tool_call
    assert call is not None
    assert (call.name, call.is_custom) == (called, called == "note")


def test_a_limit_cuts_a_call_too() -> None:
    whole = ask("Rome", tools=TOOLS).choices[0]
    cut = ask("Rome", tools=TOOLS, max_tokens=2).choices[0]
    assert (cut.finish_reason, cut.tokens) == ("length", whole.tokens[:2])
    assert cut.tool_call is not None
    assert cut.tool_call.arguments == cut.text
    assert ask("Rome", tools=TOOLS, max_tokens=len(whole.tokens)).choices[0] == whole


def test_no_tool_is_called_when_none_may_be() -> None:
    assert ask(tools=TOOLS, tool_choice="none").choices[0].tool_call is None
    assert ask(tools=[]).choices[0].tool_call is None


def test_a_tools_result_is_answered_in_words() -> None:
    messages = [
        {"role": "user", "content": "Rome?"},
        {"role": "assistant", "tool_calls": []},
        {"role": "tool", "content": "18 degrees", "tool_call_id": "c"},
    ]
    choice = ask("Rome?", tools=TOOLS, messages=messages).choices[0]
    assert choice.tool_call is None
    assert "“Rome? → 18 degrees”" in choice.text


def test_json_is_answered_when_asked_for() -> None:
    choice = ask("Rome", response_format={"type": "json_object"}).choices[0]
    assert json.loads(choice.text) == {"answer": "Rome", "sandbox": True}


def test_structured_output_fits_its_schema() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "strict": True, "schema": PARAMETERS}}
    choice = ask("Rome", response_format=wanted).choices[0]
    validate(json.loads(choice.text), PARAMETERS)


def test_a_text_format_is_words() -> None:
    assert "sandbox" in ask(response_format={"type": "text"}).choices[0].text


def test_the_last_user_message_is_the_prompt() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}],
        },
        {"role": "assistant", "content": "no"},
    ]
    assert last_user_text({"messages": messages}) == "a\nb"


@pytest.mark.parametrize("body", [{}, {"messages": "x"}, {"messages": [1, None]}, {"messages": [{"role": "user"}]}])
def test_what_is_no_conversation_has_no_prompt(body: Any) -> None:
    assert last_user_text(body) == ""
    assert text_of([1, {"text": 2}]) == ""


def test_prompt_tokens_count_text_pictures_and_tools() -> None:
    plain = {"messages": [{"role": "user", "content": "one two three"}]}
    assert count_prompt_tokens(plain) == 4 + 3
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]}
    assert count_prompt_tokens({"messages": [*plain["messages"], picture]}) == 4 + 3 + 4 + 85
    assert count_prompt_tokens({**plain, "tools": TOOLS}) > 50
