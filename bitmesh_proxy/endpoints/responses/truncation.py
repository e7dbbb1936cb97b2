"""Conversations that are too long for their model: refused, or (``truncation: auto``) cut at their beginning.

Tokens are not counted here but estimated, so that only what is surely too long is refused; the model's own word counts
for the rest. A cut never takes the system's words or the last message of the user's, and never parts a call from its
output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.endpoints.responses.items import GIVEN, OUTPUTS
from bitmesh_proxy.errors import ContextLengthExceeded

#: About four characters of English are a token (OpenAI's rule of thumb).
CHARACTERS_PER_TOKEN: Final = 4
#: No language has so many characters in a token on average: what is too long by this measure is too long.
CHARACTERS_PER_TOKEN_AT_MOST: Final = 8
#: What a picture, sound or file is taken for.
CHARACTERS_PER_MEDIA: Final = 4_000


def characters_of(item: JsonObject) -> int:
    """About how much text an item is, media included."""
    kind = item["type"]
    if kind == "message":
        return sum(map(_characters_of_part, item["content"]))
    if kind in GIVEN:
        return len(item["name"]) + len(item[GIVEN[kind]])
    if kind in OUTPUTS:
        output = item["output"]
        return len(output) if isinstance(output, str) else sum(map(_characters_of_part, output))
    return 0


def estimate_tokens(items: Sequence[JsonObject], *, instructions: str | None = None) -> int:
    """About how many tokens a conversation is, rounded up."""
    characters = sum(map(characters_of, items)) + len(instructions or "")
    return -(-characters // CHARACTERS_PER_TOKEN)


def fit(
    items: Sequence[JsonObject], *, context_tokens: int | None, is_auto: bool, reserved_tokens: int, param: str
) -> list[JsonObject]:
    """The items that fit beside ``reserved_tokens`` (instructions, the answer). Raises ContextLengthExceeded.

    ``context_tokens`` None: nobody knows the model's bound, so nothing is cut.
    """
    if context_tokens is None:
        return list(items)
    characters = sum(map(characters_of, items))
    if not is_auto:
        if characters // CHARACTERS_PER_TOKEN_AT_MOST > context_tokens:
            raise ContextLengthExceeded(
                f"The conversation is longer than the {context_tokens} tokens that the model takes."
                " Send less of it, or 'truncation': 'auto'.",
                param=param,
            )
        return list(items)
    room = max(0, context_tokens - reserved_tokens) * CHARACTERS_PER_TOKEN
    gone: set[int] = set()
    for index in _droppable(items):
        if characters <= room:
            break
        gone.add(index)
        characters -= characters_of(items[index])
    dropped_calls = {items[index].get("call_id") for index in gone if items[index]["type"] in GIVEN}
    return [
        item
        for index, item in enumerate(items)
        if index not in gone and not (item["type"] in OUTPUTS and item["call_id"] in dropped_calls)
    ]


def _droppable(items: Sequence[JsonObject]) -> list[int]:
    """What may go, the oldest first: all before the last message of the user's but the system's words."""
    last_user = max((index for index, item in enumerate(items) if item.get("role") == "user"), default=len(items))
    return [
        index
        for index, item in enumerate(items[:last_user])
        if item.get("role") not in ("system", "developer") and item["type"] not in OUTPUTS
    ]


def _characters_of_part(part: JsonObject) -> int:
    text = part.get("text") or part.get("refusal")
    return len(text) if isinstance(text, str) else CHARACTERS_PER_MEDIA
