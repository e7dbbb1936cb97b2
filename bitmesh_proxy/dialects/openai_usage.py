"""The ``usage`` object of OpenAI's chat protocol and its many relatives, read from a value or straight out of bytes.

Whatever is missing, null or no number counts as 0: a figure that cannot be read must never stop an answer that has
already been made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson
from msgspec.structs import replace

from bitmesh_proxy.calls import Usage
from bitmesh_proxy.money import NanoUsd, parse_reported_usd
from bitmesh_proxy.plain_chats import MAX_TOKENS, NOT_PLAIN, read_plain_usage

_KEY: Final = b'"usage"'
_KEY_BYTES: Final = len(_KEY)
_COLON: Final = 0x3A
_BACKSLASH: Final = 0x5C
_DECODER: Final = json.JSONDecoder()

#: ``parse_usage``, or ``parse_usage_with_cost``.
UsageParser = Callable[[object], Usage | None]

#: A usage object with every known detail is under 1 KiB; OpenRouter's with its cost details under 2.
_MAX_USAGE_BYTES: Final = 16 * 1024

#: Up to here a whole answer is simply parsed: that is exact, and takes less than 10 µs.
SMALL_BYTES: Final = 8 * 1024


def token_count(raw: object) -> int:
    """A count as a whole number ≥ 0; 0 for anything else."""
    if type(raw) is int and 0 <= raw <= MAX_TOKENS:
        return raw
    if isinstance(raw, int) and not isinstance(raw, bool):
        return min(max(raw, 0), MAX_TOKENS)
    if isinstance(raw, float) and raw.is_integer():
        return token_count(int(raw))
    return 0


def is_token_count(raw: object) -> bool:
    """Is it a count, rather than something that ``token_count`` takes for 0?"""
    return (type(raw) is int and raw >= 0) or (isinstance(raw, float) and raw.is_integer() and raw >= 0)


def first_count(raw: Mapping[str, Any], *names: str) -> int:
    """The first of the named counts that is there and not 0."""
    for name in names:
        value = raw.get(name)
        if value is not None and (count := token_count(value)):
            return count
    return 0


def details(raw: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The first of the named objects that is there, else an empty one."""
    for name in names:
        if isinstance(value := raw.get(name), dict):
            return value
    return {}


def parse_usage(raw: object) -> Usage | None:
    """Read a usage object. ``None`` when it names neither input nor output tokens."""
    if not isinstance(raw, dict):
        return None
    if len(raw) == 3 and "total_tokens" in raw:  # nothing but the three: most servers
        prompt, completion = raw.get("prompt_tokens"), raw.get("completion_tokens")
        if type(prompt) is type(completion) is int and 0 < prompt <= MAX_TOKENS and 0 < completion <= MAX_TOKENS:
            return Usage(input_tokens=prompt, output_tokens=completion)
    input_tokens = first_count(raw, "prompt_tokens", "input_tokens", "promptTokens", "inputTokens")
    output_tokens = first_count(raw, "completion_tokens", "output_tokens", "completionTokens", "outputTokens")
    if not input_tokens and not output_tokens and not _names_tokens(raw):
        return None
    of_input = details(raw, "prompt_tokens_details", "input_tokens_details")
    of_output = details(raw, "completion_tokens_details", "output_tokens_details")
    return Usage(
        input_tokens=input_tokens,
        # DeepSeek and Moonshot put the cached ones beside the total instead of into the details.
        cached_input_tokens=first_count(of_input, "cached_tokens")
        or first_count(raw, "cached_tokens", "prompt_cache_hit_tokens"),
        cache_write_tokens=first_count(of_input, "cache_write_tokens"),
        image_input_tokens=first_count(of_input, "image_tokens"),
        output_tokens=output_tokens,
        reasoning_tokens=first_count(of_output, "reasoning_tokens"),
        image_output_tokens=first_count(of_output, "image_tokens"),
    )


def parse_usage_with_cost(raw: object) -> Usage | None:
    """As ``parse_usage``, with what the call cost by the provider's own word: ``cost``, in US dollars.

    Where the tokens were paid with a key of the operator's own (``is_byok``), that is the fee alone, and what the
    maker of the model takes stands in the details. A cost that cannot be read, or of no tokens, is none.
    Source: OpenRouter's published API description and its page on usage accounting, read 2026-11-23.
    """
    usage = parse_usage(raw)
    if usage is None or not isinstance(raw, dict) or not (usage.input_tokens or usage.output_tokens):
        return usage
    cost = parse_reported_usd(raw.get("cost"))
    if cost is not None and raw.get("is_byok") is True:
        of_maker = parse_reported_usd(details(raw, "cost_details").get("upstream_inference_cost"))
        cost = None if of_maker is None else NanoUsd(cost + of_maker)
    return usage if cost is None else replace(usage, reported_cost_nano_usd=cost)


def find_usage(text: bytes, parse: UsageParser = parse_usage) -> Usage | None:
    """The last usage object somewhere in JSON text, without parsing the rest.

    ``"usage"`` followed by a colon can only be a member's name: inside a JSON string its quotes would be escaped.
    """
    at = text.rfind(_KEY)
    if at < 0:
        return None
    if text[at + _KEY_BYTES : at + _KEY_BYTES + 1] == b":":
        # Plain figures as the last member of an event, as most are: what ``parse_usage`` makes of them, in one typed
        # pass. (With a cost they are not plain.)
        try:
            plain = read_plain_usage(text[at + _KEY_BYTES + 1 : text.find(b"}\n", at)])
        except NOT_PLAIN:
            pass
        else:
            inner, outer = plain.prompt_tokens_details, plain.completion_tokens_details
            return Usage(
                input_tokens=plain.prompt_tokens,
                cached_input_tokens=0 if inner is None else inner.cached_tokens,
                output_tokens=plain.completion_tokens,
                reasoning_tokens=0 if outer is None else outer.reasoning_tokens,
            )
    while at >= 0:
        start = at + _KEY_BYTES + 1
        if text[start - 1 : start + 1] != b":{":  # as most write it
            start = value_start(text, at + _KEY_BYTES)
        if text[start : start + 1] == b"{":
            usage = parse(_value_at(text, start))
            if usage is not None:
                return usage
        at = text.rfind(_KEY, 0, at)
    return None


def find_all_usages(text: bytes) -> Iterator[object]:
    """Every usage object in JSON text, unread, in order: for answers that have one for each thing they made."""
    at = text.find(_KEY)
    while at >= 0:
        start = value_start(text, at + len(_KEY))
        if text[start : start + 1] == b"{":
            yield _value_at(text, start)
        at = text.find(_KEY, at + len(_KEY))


def read_whole_usage(body: bytes, parse: UsageParser = parse_usage) -> tuple[Usage | None, str | None]:
    """Usage and id of a whole answer, looking at its two ends only if it is large.

    An answer that is nothing but an error (some providers send those with status 200) has used nothing. One whose
    figures are all 0 (servers that do not count say so) names no usage: its text has to be counted.
    ``(None, None)`` for a body that is no JSON object. One that is but for a torn letter or a NaN somewhere in it has
    its figures read as a large one's are.
    """
    if len(body) <= SMALL_BYTES:
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            return _usage_within(body, parse) if body.lstrip()[:1] == b"{" else (None, None)
        if not isinstance(answer, dict):
            return None, None
        request_id = answer.get("id")
        usage = _not_nothing(parse(answer.get("usage")))
        if usage is None and answer.get("error") and not answer.get("choices"):
            usage = Usage()
        return usage, request_id if isinstance(request_id, str) else None
    return _usage_within(body, parse)


def _usage_within(body: bytes, parse: UsageParser) -> tuple[Usage | None, str | None]:
    return _not_nothing(find_usage(body, parse)), find_id(body[:1024])


def _not_nothing(usage: Usage | None) -> Usage | None:
    return usage if usage is not None and (usage.input_tokens or usage.output_tokens) else None


def find_id(text: bytes) -> str | None:
    """The first string member ``id`` in JSON text."""
    words = text.split(b'"', 4)
    if len(words) == 5 and words[1] == b"id" and words[2] == b":":  # as nearly all write it, as the first member
        found = words[3]
        if found.isascii() and _BACKSLASH not in found and (plain := found.decode()).isprintable():
            return plain
    at = text.find(b'"id"')
    if at < 0:
        return None
    value = _value_at(text, value_start(text, at + 4))
    return value if isinstance(value, str) else None


def value_start(text: bytes, at: int) -> int:
    """Where the value of a member begins whose name ends before ``at``; ``len(text)`` when no colon follows."""
    end = len(text)
    while at < end and text[at] in b" \t\n":
        at += 1
    if at >= end or text[at] != _COLON:
        return end
    at += 1
    while at < end and text[at] in b" \t\n":
        at += 1
    return at


def _value_at(text: bytes, start: int) -> object:
    # Up to the first closing brace it is an object without others in it, or nothing that can be read.
    flat = text[start : text.find(b"}", start, start + _MAX_USAGE_BYTES) + 1]
    if flat:
        try:
            value: object = orjson.loads(flat)
        except orjson.JSONDecodeError:
            pass
        else:
            return value
    piece = text[start : start + _MAX_USAGE_BYTES].decode("utf-8", "replace")
    try:
        value = _DECODER.raw_decode(piece)[0]
    except (ValueError, RecursionError):
        return None
    return value


def _names_tokens(raw: Mapping[str, Any]) -> bool:
    names = ("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens")
    return any(isinstance(raw.get(name), int) for name in names)
