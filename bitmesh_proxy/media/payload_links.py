"""Where providers' answers carry links to results, and how these are replaced. Pure.

Only the places listed here are looked at: a link somewhere else (in a prompt that is echoed, say) is not a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from bitmesh_proxy.calls import JsonObject

Kind = Literal["image", "video", "audio"]

#: Paths from the top of the answer; ``*`` stands for every element of a list. Together's and OpenAI's forms, and those
#: of servers that speak like them.
_PLACES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("image", ("data", "*", "url")),
    ("video", ("data", "*", "video_url")),
    ("video", ("outputs", "video_url")),
    ("video", ("outputs", "*", "video_url")),
    ("image", ("outputs", "image_url")),
    ("image", ("outputs", "*", "image_url")),
    ("audio", ("outputs", "audio_url")),
    ("audio", ("outputs", "*", "audio_url")),
)


def links_in(raw: JsonObject) -> list[tuple[Kind, str]]:
    """The http(s) links to results in an answer, in the order of the places, each once."""
    found: dict[str, Kind] = {}
    for kind, path in _PLACES:
        for value in _values_at(raw, path):
            if isinstance(value, str) and value.startswith(("http://", "https://")):
                found.setdefault(value, kind)
    return [(kind, link) for link, kind in found.items()]


def replace_links(raw: JsonObject, replacements: Mapping[str, str]) -> dict[str, Any]:
    """A new answer with the links in the known places replaced; what does not change is shared with ``raw``."""
    answer: Any = raw
    for _, path in _PLACES:
        answer = _replaced(answer, path, replacements)
    return dict(answer)


def _values_at(value: Any, path: tuple[str, ...]) -> Iterator[Any]:
    if not path:
        yield value
    elif path[0] == "*":
        if isinstance(value, list | tuple):
            for element in value:
                yield from _values_at(element, path[1:])
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _values_at(value[path[0]], path[1:])


def _replaced(value: Any, path: tuple[str, ...], replacements: Mapping[str, str]) -> Any:
    if not path:
        return replacements.get(value, value) if isinstance(value, str) else value
    if path[0] == "*":
        if isinstance(value, list | tuple):
            return [_replaced(element, path[1:], replacements) for element in value]
        return value
    if isinstance(value, Mapping) and path[0] in value:
        return {**value, path[0]: _replaced(value[path[0]], path[1:], replacements)}
    return value
