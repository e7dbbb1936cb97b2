"""Whatever stands in a body, in whatever place: it is read, or refused as the caller's mistake, never ours."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.endpoints.responses.form_body import body_of_form
from bitmesh_proxy.endpoints.responses.items import check_call_ids
from bitmesh_proxy.endpoints.responses.media_calls import call_for
from bitmesh_proxy.endpoints.responses.request import parse_request, vocabulary_of
from bitmesh_proxy.endpoints.responses.resource import ResponseState, render_response
from bitmesh_proxy.endpoints.responses.truncation import estimate_tokens
from bitmesh_proxy.errors import GatewayError, InvalidRequest, UnsupportedMediaType
from tests.endpoints.responses.making import counted_ids

LINK = "https://a.test/b.png"
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}
PATCH = {
    "type": "custom",
    "name": "patch",
    "format": {"type": "grammar", "syntax": "regex", "definition": ".*"},
}
ITEMS: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_text", "text": "a"},
            {"type": "image_url", "image_url": {"url": LINK, "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}},
            {"type": "input_file", "filename": "a.pdf", "file_data": "QQ=="},
        ],
    },
    {"role": "assistant", "content": "b", "phase": "commentary", "status": "completed", "id": "msg_1"},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "e"},
    {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "o"}]},
    {"type": "custom_tool_call", "call_id": "d", "name": "patch", "input": "*** Begin"},
    {"type": "custom_tool_call_output", "call_id": "d", "output": "o"},
    {"type": "compaction", "encrypted_content": "x"},
    {"type": "item_reference", "id": "msg_1"},
]
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": {"at": 1}}}
MESSAGES: list[Any] = [
    {"role": "user", "content": [{"type": "video_url", "video_url": {"url": LINK}}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "o"},
]
REST: dict[str, Any] = {
    "model": "m",
    "instructions": "i",
    "tools": [TOOL, PATCH],
    "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "look"}], "mode": "auto"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["reasoning.encrypted_content"],
    "temperature": 1,
    "max_output_tokens": 16,
    "stream_options": {"include_obfuscation": True},
    "metadata": {"a": "b"},
    "seconds": "5",
    "size": "64x64",
    "max_items": 1,
    "image": [LINK],
    "mask": LINK,
    "seed": 7,
    "voice": "v",
    "speed": 1,
}

NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A good body with nonsense in a place or two, or something missing."""
    conversations: list[dict[str, Any]] = [{"input": ITEMS}, {"input": "hi"}, {"messages": MESSAGES}]
    said = draw(st.sampled_from(conversations))
    names = draw(st.sets(st.sampled_from(sorted(REST)), max_size=6))
    body = copy.deepcopy({**{name: REST[name] for name in names | {"model"}}, **said})
    for _ in range(draw(st.integers(0, 2))):
        node: Any = body
        while True:
            places = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not places:
                break
            place = draw(st.sampled_from(places))
            if isinstance(node[place], dict | list) and draw(st.integers(0, 3)):
                node = node[place]
                continue
            if isinstance(node, dict) and draw(st.booleans()):
                del node[place]
            else:
                node[place] = draw(NONSENSE)
            break
    return body


@settings(deadline=None, max_examples=400)
@given(body=bodies())
@example(body={"model": "m", "input": [{"type": "message", "role": "user", "content": []}]})
@example(body={"model": "m", "input": [{"id": "x", "type": None}], "tools": [{"type": "function"}]})
def test_a_body_is_read_or_refused(body: dict[str, Any]) -> None:
    vocabulary_of(body)
    request = refusal = None
    try:
        request = parse_request(body, counted_ids())
    except InvalidRequest as error:
        refusal = error
    if request is None:
        assert refusal is not None
        assert (refusal.status, refusal.param is None) == (400, False)
        return
    render_response(request, ResponseState(response_id="r", created_at_s=0, status="queued"))
    resolved = [item for item in request.items if item["type"] not in ("item_reference", "compaction")]
    estimate_tokens(resolved)
    with suppress(InvalidRequest):
        check_call_ids(resolved, param="input")
    for operation in Operation:
        with suppress(GatewayError):
            call_for(parse_request({**body, "input": "x", "messages": None}, counted_ids()), operation, resolved)


@settings(deadline=None)
@given(
    fields=st.lists(st.tuples(st.sampled_from([*sorted(REST), "messages", "input"]), st.text(max_size=12)), max_size=6)
)
def test_a_form_is_read_or_refused(fields: list[tuple[str, str]]) -> None:
    with suppress(InvalidRequest, UnsupportedMediaType):
        parse_request(body_of_form(fields, max_depth=64), counted_ids())
