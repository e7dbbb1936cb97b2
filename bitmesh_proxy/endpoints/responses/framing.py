"""Events as bytes: server-sent events for HTTP, one JSON text a message for WebSocket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from bitmesh_proxy.calls import JsonObject

DONE: Final = b"data: [DONE]\n\n"


def sse(event: JsonObject) -> bytes:
    """One event. Its name is its ``type``; line ends are LF; JSON holds no line break."""
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"


def around_sse(kind: str) -> tuple[bytes, bytes]:
    """What stands before and behind the JSON of an event of this type in a stream of events."""
    return b"event: " + kind.encode() + b"\ndata: ", b"\n\n"


def around_line(_: str) -> tuple[bytes, bytes]:
    """The same in lines for a WebSocket."""
    return b"", b"\n"


def sse_all(events: Sequence[JsonObject]) -> bytes:
    """Several events, whole ones only."""
    return b"".join(map(sse, events))


def websocket_texts(events: Sequence[JsonObject]) -> list[str]:
    """One text message an event."""
    return [orjson.dumps(event).decode() for event in events]


def websocket_error(*, status: int, error: JsonObject) -> str:
    """What ends a turn that never began."""
    return orjson.dumps({"type": "error", "status": status, "error": error}).decode()
