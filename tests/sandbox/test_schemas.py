"""What published schemas refuse, and a form's texts as their types."""

from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.sandbox.schemas import Violation, coerce_form, load_checker, load_document, load_part_checker


def found(operation: str, body: Any, *, is_strict: bool = False, provider: str = "openai") -> tuple[str, str] | None:
    violation = load_checker(provider, operation, is_strict)(body)
    return None if violation is None else (violation.kind, violation.field)


@pytest.mark.parametrize(
    ("operation", "body", "violation"),
    [
        ("image", {"prompt": "x"}, None),
        ("image", {}, ("missing", "prompt")),
        ("image", {"prompt": 7}, ("type", "prompt")),
        ("image", {"prompt": "x", "n": 11}, ("value", "n")),
        ("image", {"prompt": "x", "background": "pink"}, ("value", "background")),
        ("speech", {"model": "m", "input": "x", "voice": "v", "pitch": 1}, ("unknown", "pitch")),
        ("speech", {"model": "m", "input": "x"}, ("missing", "voice")),
        (
            "image_edit",
            {"prompt": "x", "images": [{"image_url": "https://example.org", "id": "f"}]},
            ("unknown", "images[0].id"),
        ),
        ("chat", {"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 0}, ("value", "n")),
        ("chat", {"model": "m", "messages": []}, ("value", "messages")),
    ],
)
def test_violations_are_named(operation: str, body: Any, violation: tuple[str, str] | None) -> None:
    assert found(operation, body) == violation


def test_strict_closes_what_is_open() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "top_k": 1, "temperature": 1}
    assert found("chat", body) is None
    assert found("chat", body, is_strict=True) == ("unknown", "top_k")


def test_a_conversation_with_tools_is_accepted_by_both() -> None:
    """Calls without an index and a named choice without arguments: what every client sends."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = {
        "model": "m",
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "y", "tool_call_id": "c"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }
    for provider in ("openai", "together"):
        assert found("chat", body, provider=provider, is_strict=True) is None


def test_a_long_message_is_shortened() -> None:
    violation = load_checker("openai", "image")({"prompt": ["x" * 10_000]})
    assert isinstance(violation, Violation)
    assert len(violation.message) < 400


def test_what_is_not_packaged_is_an_error() -> None:
    with pytest.raises(KeyError):
        load_checker("openai", "nonsense")
    with pytest.raises(FileNotFoundError):
        load_document("nobody")


@pytest.mark.parametrize(
    ("provider", "operation", "form", "values"),
    [
        ("openai", "image_edit_form", {"n": ["2"], "stream": ["true"]}, {"n": 2, "stream": True}),
        ("openai", "image_edit_form", {"n": ["two"], "stream": ["yes"]}, {"n": "two", "stream": "yes"}),
        ("openai", "image_edit_form", {"prompt": ["7"]}, {"prompt": "7"}),
        ("openai", "transcription", {"temperature": ["0.5"]}, {"temperature": 0.5}),
        (
            "openai",
            "transcription",
            {"timestamp_granularities": ["word"], "unknown": ["x"]},
            {"timestamp_granularities": ["word"], "unknown": "x"},
        ),
        (
            "openai",
            "transcription",
            {"chunking_strategy": ['{"type": "server_vad"}']},
            {"chunking_strategy": {"type": "server_vad"}},
        ),
        ("openai", "transcription", {"chunking_strategy": ["{"]}, {"chunking_strategy": "{"}),
        ("together", "transcription", {"timestamp_granularities": ["word"]}, {"timestamp_granularities": "word"}),
        (
            "together",
            "transcription",
            {"timestamp_granularities": ["word", "segment"], "diarize": ["false"]},
            {"timestamp_granularities": ["word", "segment"], "diarize": False},
        ),
    ],
)
def test_a_forms_texts_get_their_types(
    provider: str, operation: str, form: dict[str, list[str]], values: dict[str, Any]
) -> None:
    assert coerce_form(provider, operation, form) == values


def test_a_part_is_checked_by_the_name_of_its_component() -> None:
    check = load_part_checker("runware", "GetResponseParams")
    assert check({"taskType": "getResponse", "taskUUID": "x"}) is None
    missing = check({"taskType": "getResponse"})
    assert missing is not None
    assert (missing.kind, missing.field) == ("missing", "taskUUID")
    with pytest.raises(KeyError, match="no component"):
        load_part_checker("runware", "NoSuchParams")
