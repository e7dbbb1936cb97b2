"""A meter for protocols that no caller of ours speaks: it reads the stream in full, which translation does anyway."""

from __future__ import annotations

from collections.abc import Callable

from bitmesh_proxy.calls import (
    Event,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    StreamFailed,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from bitmesh_proxy.dialects.base import StreamReader


def characters_of(event: Event) -> int:
    """How much of an answer an event is: what a model has written, reasoning and arguments of tools included.

    In UTF-8 bytes, as ``OpenAIChatMeter`` measures it: a letter of Chinese is about a token, and one of English a
    quarter.
    """
    if isinstance(event, TextDelta | ReasoningDelta | RefusalDelta):
        return _utf8_length(event.text)
    return _utf8_length(event.arguments) if isinstance(event, ToolCallDelta) else 0


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class ReadingMeter:
    """The ``StreamMeter`` of any protocol that has a reader. Costs as much as reading."""

    __slots__ = ("_reader", "error", "is_complete", "is_in_event", "output_characters", "provider_request_id", "usage")

    def __init__(self, make_reader: Callable[[], StreamReader]) -> None:
        self.usage: Usage | None = None
        self.output_characters = 0
        self.is_complete = False
        self.error: str | None = None
        self.provider_request_id: str | None = None
        self.is_in_event = False  # what is translated is passed on in whole events
        self._reader = make_reader()

    def feed(self, data: bytes) -> None:
        """Read the next bytes of the stream. Raises what the reader raises."""
        for event in self._reader.feed(data):
            if isinstance(event, TextDelta):
                self.output_characters += characters_of(event)
            elif isinstance(event, UsageReport):
                self.usage = event.usage
            elif isinstance(event, Finished):
                self.is_complete = True
            elif isinstance(event, StreamFailed):
                self.error = event.message
            elif isinstance(event, Started):
                self.provider_request_id = event.provider_request_id
            else:
                self.output_characters += characters_of(event)
