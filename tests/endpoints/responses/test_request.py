from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.endpoints.responses.request import (
    ResponseRequest,
    Vocabulary,
    parse_request,
    vocabulary_of,
    vocabulary_of_start,
)
from bitmesh_proxy.errors import InvalidRequest
from tests.endpoints.responses.making import a_request, counted_ids

MESSAGES = [{"role": "user", "content": "hi"}]


def parse(body: dict[str, Any], **more: Any) -> ResponseRequest:
    return parse_request(body, counted_ids(), **more)


@pytest.mark.parametrize(
    ("body", "vocabulary"),
    [
        ({"input": "hi"}, Vocabulary.OPEN_RESPONSES),
        ({"messages": MESSAGES}, Vocabulary.UNIFIED),
        ({"previous_response_id": "resp_1"}, Vocabulary.OPEN_RESPONSES),
    ],
)
def test_the_conversation_says_whose_words_these_are(body: dict[str, Any], vocabulary: Vocabulary) -> None:
    request = parse({"model": "m", **body})
    assert request.vocabulary is vocabulary_of(body) is vocabulary
    assert request.input_name == ("messages" if "messages" in body else "input")


@pytest.mark.parametrize(
    ("start", "vocabulary"),
    [
        (b'{"model": "m", "messages": [{"role": "user", "content": "the \\"input\\": of', Vocabulary.UNIFIED),
        (b' {"metadata": {"input": "x"}, "messages" : []}', Vocabulary.UNIFIED),
        (b'{"instructions": "say \\"messages\\": twice", "input": "hi"}', Vocabulary.OPEN_RESPONSES),
        (b'{"tools": [{"messages": 1}], "user": "messages"}', Vocabulary.OPEN_RESPONSES),
        (b'{"instructions": "cut off \\"messages\\": ', Vocabulary.OPEN_RESPONSES),
        (b'{"input": "hi", "messages": []}', Vocabulary.OPEN_RESPONSES),
        (b'--x\r\nContent-Disposition: form-data; name="messages"\r\n\r\n[]', Vocabulary.UNIFIED),
        (b'--x\r\nContent-Disposition: form-data; name="input"\r\n\r\nhi', Vocabulary.OPEN_RESPONSES),
        (b"model=m&messages=%5B%5D", Vocabulary.UNIFIED),
        (b"input=messages", Vocabulary.OPEN_RESPONSES),
        (b"", Vocabulary.OPEN_RESPONSES),
        (b"}}]\xff", Vocabulary.OPEN_RESPONSES),
    ],
)
def test_what_a_body_begins_with_says_it_too(start: bytes, vocabulary: Vocabulary) -> None:
    assert vocabulary_of_start(start) is vocabulary


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_value"),
        ({"model": ""}, "model", "invalid_value"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": 5}, "input", "invalid_value"),
        ({"messages": MESSAGES}, "messages", "invalid_value"),
        ({"instructions": 5}, "instructions", "invalid_value"),
        ({"previous_response_id": 5}, "previous_response_id", "invalid_value"),
        ({"conversation": "c"}, "conversation", "invalid_value"),
        ({"prompt": {"id": "p"}}, "prompt", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": "warm"}, "temperature", "invalid_value"),
        ({"top_p": 1.1}, "top_p", "invalid_value"),
        ({"presence_penalty": 3}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": -3}, "frequency_penalty", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"max_output_tokens": 15}, "max_output_tokens", "invalid_value"),
        ({"max_output_tokens": 20.5}, "max_output_tokens", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tool_calls": 0}, "max_tool_calls", "invalid_value"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"stream_options": []}, "stream_options", "invalid_value"),
        ({"stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation", "invalid_value"),
        ({"background": 1}, "background", "invalid_value"),
        ({"background": True, "store": False}, "background", "invalid_value"),
        ({"store": "no"}, "store", "invalid_value"),
        ({"truncation": "some"}, "truncation", "invalid_value"),
        ({"service_tier": "first"}, "service_tier", "invalid_value"),
        ({"metadata": []}, "metadata", "invalid_value"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "invalid_value"),
        ({"metadata": {"k" * 65: ""}}, "metadata", "invalid_value"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_value"),
        ({"metadata": {"k": 5}}, "metadata.k", "invalid_value"),
        ({"safety_identifier": "s" * 65}, "safety_identifier", "invalid_value"),
        ({"prompt_cache_key": "s" * 65}, "prompt_cache_key", "invalid_value"),
        ({"include": ["secrets"]}, "include[0]", "invalid_value"),
        ({"include": [{}]}, "include[0]", "invalid_value"),
        ({"reasoning": {"effort": "heroic"}}, "reasoning.effort", "invalid_value"),
        ({"reasoning": {"summary": "long"}}, "reasoning.summary", "invalid_value"),
        ({"text": {"verbosity": "chatty"}}, "text.verbosity", "invalid_value"),
        ({"text": {"format": {}}}, "text.format.type", "missing_required_parameter"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "invalid_value"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema", "missing_required_parameter"),
        ({"size": "big"}, "size", "invalid_value"),
        ({"frame_images": []}, "frame_images", "invalid_value"),
        ({"reference_images": ["x"]}, "reference_images", "invalid_value"),
        ({"image": 5}, "image.image_url", "invalid_value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse({"model": "m", "input": "hi", **fields})
    assert (raised.value.param, raised.value.code, raised.value.status) == (param, code, 400)


def test_fields_of_both_vocabularies_are_read() -> None:
    request = a_request(
        messages=MESSAGES,
        size="1280x720",
        seconds=5,
        quality="hd",
        max_items=2,
        response_format="b64_json",
        temperature=1,
        seed=7,
        stop=None,
    )
    media = request.media
    assert (media.size, media.seconds, media.quality, media.count) == ((1280, 720), "5", "hd", 2)
    assert media.response_format == "b64_json"
    assert (request.sampling, request.extras) == ({"temperature": 1}, {"seed": 7})


def test_a_bound_key_needs_no_model() -> None:
    assert parse({"input": "hi"}, bound_model="m").model == "m"
    assert parse({"model": "n", "input": "hi"}, bound_model="m").model == "n"  # an alias, or refused by routing


def test_the_length_may_have_a_name_of_chat_completions() -> None:
    assert a_request(max_tokens=8).max_output_tokens == 8
    assert a_request(max_tokens=8, max_output_tokens=16).max_output_tokens == 16


def test_minimal_effort_is_low() -> None:
    assert a_request(reasoning={"effort": "minimal"}).effort == "low"


def test_a_schema_may_be_given_as_in_chat_completions() -> None:
    schema = {"name": "n", "schema": {"type": "object"}, "strict": True}
    nested = a_request(response_format={"type": "json_schema", "json_schema": schema})
    flat = a_request(text={"format": {"type": "json_schema", **schema}})
    assert nested.text_format == flat.text_format
    assert nested.media.response_format is None


def test_pictures_beside_the_conversation_join_the_last_message_of_the_users() -> None:
    links = ["https://a.test/1", "https://a.test/2"]
    messages = [*MESSAGES, {"role": "assistant", "content": "yes?"}]
    request = a_request(messages=messages, image=links[0], images=links[1:])
    assert [part.get("image_url") for part in request.items[0]["content"]] == [None, *links]
    assert request.extras == {}


def test_progress_is_the_unified_documents_way() -> None:
    assert a_request(messages=MESSAGES).include_progress
    assert not a_request().include_progress
    assert a_request(stream_options={"include_progress": True}).include_progress
