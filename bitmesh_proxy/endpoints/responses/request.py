"""``POST /v1/responses``: the body, read once. Pure; nothing here knows a model.

Two vocabularies, one request: ``messages`` is the unified API's, ``input`` the Open Responses standard's (version
2026-04-24); both at once is an error. All fields of both are understood under either. A field that no one names goes to
``extras``: models have parameters of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.endpoints.responses.content import read_part
from bitmesh_proxy.endpoints.responses.fields import Fields
from bitmesh_proxy.endpoints.responses.items import NewId, read_input, read_messages
from bitmesh_proxy.endpoints.responses.media_wishes import MEDIA_FIELDS, NO_WISHES, MediaWishes, read_media_wishes
from bitmesh_proxy.endpoints.responses.tool_use import ToolUse, read_tools

MAX_METADATA: Final = 16
_INCLUDES: Final = ("reasoning.encrypted_content", "message.output_text.logprobs")
#: ``minimal`` is OpenAI's word for what the standard calls ``low``; it is sent on and echoed as that.
_EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh")
#: Fields of other interfaces, and what says the same here.
_INSTEAD: Final = {
    "conversation": "'previous_response_id'",
    "prompt": "'input' or 'messages'",
    "frame_images": "pictures in the conversation",
    "reference_images": "pictures in the conversation",
}
_TIERS: Final = ("auto", "default", "flex", "priority")

# Fields that few requests have, in the groups that they are read in.
_SAMPLING: Final = frozenset(("temperature", "top_p", "presence_penalty", "frequency_penalty"))
_TEXT: Final = frozenset(("text", "response_format"))
_PICTURES: Final = frozenset(("image", "images"))
_LENGTHS: Final = frozenset(("max_output_tokens", "max_completion_tokens", "max_tokens"))
_FOREIGN: Final = frozenset(_INSTEAD)

#: Every field that is read. ``seed``, ``user`` and the like are a model's own, see ``extras``.
# fmt: off
_NAMES: Final = frozenset((
    "model", "messages", "input", "instructions", "previous_response_id", "tools", "tool_choice",
    "parallel_tool_calls", "text", "reasoning", "include", "temperature", "top_p", "presence_penalty",
    "frequency_penalty", "top_logprobs", "max_output_tokens", "max_completion_tokens", "max_tokens",
    "max_tool_calls", "stream", "stream_options", "background", "store", "truncation", "service_tier", "metadata",
    "safety_identifier", "prompt_cache_key", "image", "images", "conversation", "prompt", "frame_images",
    "reference_images", *MEDIA_FIELDS,
))
# fmt: on

_JSON_TOKEN: Final = re.compile(r'[{}\[\]]|"(?P<text>(?:[^"\\]++|\\.)*+)"(?P<colon>\s*:)?|"', re.DOTALL)
_FORM_NAME: Final = re.compile(r'(?:^|&|; name=")(messages|input)(?:=|")')


class Vocabulary(StrEnum):
    """Whose words a request is written in. Decides the names of errors, and nothing else of what is done."""

    UNIFIED = "unified"
    OPEN_RESPONSES = "open_responses"


class ResponseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request, checked. ``items`` are the new input only; ``sampling`` holds what the caller sent, nothing else."""

    vocabulary: Vocabulary
    model: str
    items: tuple[JsonObject, ...]
    instructions: str | None = None
    previous_response_id: str | None = None
    tool_use: ToolUse = msgspec.field(default_factory=ToolUse)
    parallel_tool_calls: bool | None = None
    text_format: JsonObject = msgspec.field(default_factory=lambda: {"type": "text"})
    verbosity: str | None = None
    effort: str | None = None
    summary: str | None = None
    is_reasoning_set: bool = False
    include: frozenset[str] = frozenset()
    sampling: JsonObject = msgspec.field(default_factory=dict)
    top_logprobs: int | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    stream: bool = False
    include_obfuscation: bool = False
    include_progress: bool = False
    background: bool = False
    store: bool = True
    truncation: str = "disabled"
    metadata: JsonObject = msgspec.field(default_factory=dict)
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    media: MediaWishes = NO_WISHES
    extras: JsonObject = msgspec.field(default_factory=dict)

    @property
    def wants_logprobs(self) -> bool:
        """Did the caller ask for the probabilities of tokens?"""
        return "message.output_text.logprobs" in self.include or bool(self.top_logprobs)

    @property
    def input_name(self) -> str:
        """What errors call the conversation."""
        return "messages" if self.vocabulary is Vocabulary.UNIFIED else "input"


def vocabulary_of(body: JsonObject) -> Vocabulary:
    """Whose words, even where the request is wrong: its error is to be in them too."""
    return Vocabulary.UNIFIED if "messages" in body and "input" not in body else Vocabulary.OPEN_RESPONSES


def vocabulary_of_start(start: bytes) -> Vocabulary:
    """Whose words, as far as a body's first bytes say it: JSON, or a form of either kind. Nothing is checked."""
    return vocabulary_of(dict.fromkeys(_names_in(start)))


def _names_in(start: bytes) -> Iterator[str]:
    text = start.decode("utf-8", "replace").lstrip()
    if not text.startswith("{"):
        yield from _FORM_NAME.findall(text)
        return
    depth = 0
    for token in _JSON_TOKEN.finditer(text):
        if token[0] in "{[":
            depth += 1
        elif token[0] in "}]":
            depth -= 1
        elif token[0] == '"':  # a text whose end has not come
            return
        elif depth == 1 and token["colon"]:
            yield token["text"]


def parse_request(body: JsonObject, new_id: NewId, *, bound_model: str | None = None) -> ResponseRequest:
    """Read the body. Raises InvalidRequest with ``param`` for the first field that is wrong.

    ``bound_model``: the key's own model; ``model`` may then be left out. Whether it is that one, routing sees.
    """
    fields = Fields(body)
    reasoning = _read_reasoning(fields)
    text_format, verbosity = _read_text(fields)
    stream_options = fields.object("stream_options") or Fields({})
    store, background = fields.boolean("store"), fields.boolean("background") or False
    if background and store is False:
        fields.fail("background", "A background response has to be stored: 'background' needs 'store'.")
    vocabulary, items = _read_conversation(fields, new_id)
    items = with_media(items, _read_images(fields), new_id)
    if not fields.lacks(_FOREIGN):
        _refuse_foreign(fields)
    fields.choice("service_tier", _TIERS)
    return ResponseRequest(
        vocabulary=vocabulary,
        model=_read_model(fields, bound_model),
        items=tuple(items),
        instructions=fields.string("instructions"),
        previous_response_id=fields.string("previous_response_id", min_characters=1, max_characters=128),
        tool_use=read_tools(fields),
        parallel_tool_calls=fields.boolean("parallel_tool_calls"),
        text_format=text_format,
        verbosity=verbosity,
        effort=reasoning[0],
        summary=reasoning[1],
        is_reasoning_set=fields.has("reasoning"),
        include=_read_include(fields),
        sampling=_read_sampling(fields),
        top_logprobs=fields.integer("top_logprobs", low=0, high=20),
        max_output_tokens=_read_max_output_tokens(fields),
        max_tool_calls=fields.integer("max_tool_calls", low=1),
        stream=fields.boolean("stream") or False,
        include_obfuscation=stream_options.boolean("include_obfuscation") or False,
        include_progress=_wants_progress(stream_options, vocabulary),
        background=background,
        store=store is not False,
        truncation=fields.choice("truncation", ("auto", "disabled")) or "disabled",
        metadata=_read_metadata(fields),
        safety_identifier=fields.string("safety_identifier", max_characters=64),
        prompt_cache_key=fields.string("prompt_cache_key", max_characters=64),
        media=read_media_wishes(fields),
        extras={name: value for name, value in body.items() if name not in _NAMES and value is not None},
    )


def _refuse_foreign(fields: Fields) -> None:
    for name, instead in _INSTEAD.items():
        if fields.has(name):
            fields.fail(name, f"'{name}' is not supported; send {instead}.")


def _wants_progress(stream_options: Fields, vocabulary: Vocabulary) -> bool:
    """The standard lets no extension event out unasked; the unified document has no such rule."""
    asked = stream_options.boolean("include_progress")
    return vocabulary is Vocabulary.UNIFIED if asked is None else asked


def _read_model(fields: Fields, bound_model: str | None) -> str:
    model = fields.string("model", min_characters=1, max_characters=256)
    if model is None:
        model = bound_model
    if model is None:
        raise fields.missing("model")
    return model


def _read_conversation(fields: Fields, new_id: NewId) -> tuple[Vocabulary, list[JsonObject]]:
    if fields.has("messages"):
        if fields.has("input"):
            fields.fail("messages", "A request has 'messages' or 'input', not both.")
        return Vocabulary.UNIFIED, read_messages(fields, new_id)
    if fields.has("input"):
        items = read_input(fields, new_id)
        if not items and not fields.has("previous_response_id"):
            fields.fail("input", "'input' is empty.")
        return Vocabulary.OPEN_RESPONSES, items
    if fields.has("previous_response_id"):
        return Vocabulary.OPEN_RESPONSES, []
    raise fields.missing("input")


def with_media(items: list[JsonObject], parts: Sequence[JsonObject], new_id: NewId) -> list[JsonObject]:
    """The items with further parts at the end of the last message of the user's (or in a new one)."""
    if not parts:
        return items
    for index in range(len(items) - 1, -1, -1):
        item = items[index]
        if item["type"] == "message" and item["role"] == "user":
            longer = {**item, "content": [*item["content"], *parts]}
            return [*items[:index], longer, *items[index + 1 :]]
    message = {"id": new_id("msg_"), "type": "message", "status": "completed", "role": "user", "content": list(parts)}
    return [*items, message]


def _read_images(fields: Fields) -> list[JsonObject]:
    """Pictures beside the conversation, as ``image`` (one or a list) or ``images``."""
    parts: list[JsonObject] = []
    if fields.lacks(_PICTURES):
        return parts
    for name in ("image", "images"):
        value = fields.values.get(name)
        listed = value if isinstance(value, list) else [] if value is None else [value]
        for index, each in enumerate(listed):
            path = f"{name}[{index}]" if isinstance(value, list) else name
            parts.append(read_part(Fields({"type": "input_image", "image_url": each}, path), role="user"))
    return parts


def _read_text(fields: Fields) -> tuple[JsonObject, str | None]:
    """``text.format`` and ``text.verbosity``; a format object in chat completions' ``response_format`` counts too."""
    if fields.lacks(_TEXT):
        return {"type": "text"}, None
    text = fields.object("text") or Fields({}, "text")
    verbosity = text.choice("verbosity", ("low", "medium", "high"))
    wanted = text.object("format")
    if wanted is None and isinstance(fields.values.get("response_format"), Mapping):
        wanted = fields.object("response_format")
    if wanted is None:
        return {"type": "text"}, verbosity
    kind = wanted.choice("type", ("text", "json_object", "json_schema"))
    if kind is None:
        raise wanted.missing("type")
    if kind != "json_schema":
        return {"type": kind}, verbosity
    named = wanted.object("json_schema") or wanted
    schema = named.object("schema")
    if schema is None:
        raise named.missing("schema")
    return {
        "type": "json_schema",
        "name": named.required_string("name", pattern=re.compile(r"[a-zA-Z0-9_-]{1,64}")),
        "description": named.string("description"),
        "schema": schema.values,
        "strict": named.boolean("strict") or False,
    }, verbosity


def _read_reasoning(fields: Fields) -> tuple[str | None, str | None]:
    reasoning = fields.object("reasoning")
    if reasoning is None:
        return None, None
    effort = reasoning.choice("effort", _EFFORTS)
    return "low" if effort == "minimal" else effort, reasoning.choice("summary", ("auto", "concise", "detailed"))


def _read_include(fields: Fields) -> frozenset[str]:
    include = fields.list_of("include", max_items=16) or []
    for index, name in enumerate(include):
        if name not in _INCLUDES:
            fields.fail(f"include[{index}]", f"'include[{index}]' must be one of: {', '.join(_INCLUDES)}.")
    return frozenset(include)


def _read_sampling(fields: Fields) -> JsonObject:
    if fields.lacks(_SAMPLING):
        return {}
    read = {
        "temperature": fields.number("temperature", low=0, high=2),
        "top_p": fields.number("top_p", low=0, high=1),
        "presence_penalty": fields.number("presence_penalty", low=-2, high=2),
        "frequency_penalty": fields.number("frequency_penalty", low=-2, high=2),
    }
    return {name: value for name, value in read.items() if value is not None}


def _read_max_output_tokens(fields: Fields) -> int | None:
    """The longest answer, under its own name or one of chat completions'."""
    if fields.lacks(_LENGTHS):
        return None
    most = fields.integer("max_output_tokens", low=16)
    for name in ("max_completion_tokens", "max_tokens"):
        length = fields.integer(name, low=1)
        most = length if most is None else most
    return most


def _read_metadata(fields: Fields) -> JsonObject:
    metadata = fields.object("metadata")
    if metadata is None:
        return {}
    if len(metadata.values) > MAX_METADATA:
        fields.fail("metadata", f"'metadata' may have at most {MAX_METADATA} pairs.")
    for name in metadata.values:
        if len(name) > 64:
            fields.fail("metadata", "A key of 'metadata' may have at most 64 characters.")
        metadata.required_string(name, max_characters=512)
    return dict(metadata.values)
