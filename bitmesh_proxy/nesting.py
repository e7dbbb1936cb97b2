"""How deep values stand in each other. What was read from JSON may be deeper than can be written again."""

from __future__ import annotations

from typing import Final

from bitmesh_proxy.counting import occur_more_often

#: What is no deeper than this can be written, also inside of something else: orjson writes 254 levels, and reads 1024.
MAX_WRITTEN_DEPTH: Final = 200


def is_deeper(value: object, max_depth: int) -> bool:
    """Are there more than ``max_depth`` objects and lists in each other? Read level by level: no depth can exhaust the
    stack."""
    level = [value] if type(value) is dict or type(value) is list else []
    for _ in range(max_depth):
        if not level:
            return False
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
    return bool(level)


def may_be_deeper(raw: bytes, max_depth: int) -> bool:
    """Could JSON text be deeper than that? A quick look, which nearly always spares the long one."""
    return occur_more_often(raw, (b"{", b"["), max_depth)


def parsed_is_deeper(value: object, raw: bytes, max_depth: int) -> bool:
    """``is_deeper`` of what this JSON text says."""
    return may_be_deeper(raw, max_depth) and is_deeper(value, max_depth)
