"""One item of a response while it is written: its events in their order, and what it is when it is done.

    message, reasoning   added, then parts one after another, then done
    function_call        added, argument deltas, arguments done, then done
    custom_tool_call     added, input deltas, input done, then done

Every method gives the events it causes, without their sequence numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import msgspec
import orjson

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.endpoints.responses.items import GIVEN

PartKind = Literal["output_text", "refusal", "reasoning_text", "summary_text"]
ItemKind = Literal["message", "reasoning", "function_call", "custom_tool_call"]
#: Gives what a delta is padded with, or None.
Obfuscate = Callable[[str], str | None]


def no_obfuscation(_: str) -> None:
    """Deltas go out as long as they are."""
    return


class _Part(msgspec.Struct):
    kind: PartKind
    index: int
    texts: list[str] = msgspec.field(default_factory=list)
    annotations: list[JsonObject] = msgspec.field(default_factory=list)
    logprobs: list[JsonObject] = msgspec.field(default_factory=list)

    def rendered(self) -> dict[str, Any]:
        text = "".join(self.texts)
        if self.kind == "output_text":
            return {
                "type": "output_text",
                "text": text,
                "annotations": list(self.annotations),
                "logprobs": list(self.logprobs),
            }
        return {"type": self.kind, ("refusal" if self.kind == "refusal" else "text"): text}


class OpenItem:
    """See the module's docstring. Ends with ``close``, whose last event holds the finished item."""

    def __init__(
        self,
        kind: ItemKind,
        item_id: str,
        output_index: int,
        *,
        call_id: str = "",
        name: str = "",
        obfuscate: Obfuscate = no_obfuscation,
    ) -> None:
        self.kind = kind
        self.item_id = item_id
        self.encrypted: str | None = None
        self._output_index = output_index
        self._call_id = call_id
        self._name = name
        self._obfuscate = obfuscate
        self._content: list[JsonObject] = []
        self._summary: list[JsonObject] = []
        self._part: _Part | None = None
        self._arguments: list[str] = []

    def open(self) -> JsonObject:
        """The event that begins it."""
        return {
            "type": "response.output_item.added",
            "output_index": self._output_index,
            "item": self._rendered("in_progress"),
        }

    def text(self, kind: PartKind, text: str, logprobs: Sequence[JsonObject] = ()) -> Iterator[JsonObject]:
        """More of a part of this kind; begins one if another (or none) is open."""
        if self._part is None or self._part.kind != kind:
            yield from self._close_part()
            yield self._open_part(kind)
        part = self._part
        assert part is not None
        part.texts.append(text)
        part.logprobs += logprobs
        delta = self._part_event(part, "delta", delta=text)
        if kind == "output_text":
            delta["logprobs"] = list(logprobs)
        if (padding := self._obfuscate(text)) is not None and kind != "refusal":
            delta["obfuscation"] = padding
        yield delta

    def run_of(self, kind: PartKind) -> tuple[list[str], bytes] | None:
        """Where more of an open part is to go, and where its events lie, as the inside of a JSON object.

        None unless a part of this kind is open. Valid until anything but more of it comes.
        """
        part = self._part
        if part is None or part.kind != kind:
            return None
        return part.texts, orjson.dumps(self._place(part))[1:-1]

    def annotation(self, annotation: JsonObject) -> Iterator[JsonObject]:
        """A citation of the text that is open; nothing where none is."""
        part = self._part
        if part is None or part.kind != "output_text":
            return
        part.annotations.append(annotation)
        yield {
            "type": "response.output_text.annotation.added",
            "item_id": self.item_id,
            "output_index": self._output_index,
            "content_index": part.index,
            "annotation_index": len(part.annotations) - 1,
            "annotation": annotation,
        }

    def media(self, part: JsonObject) -> Iterator[JsonObject]:
        """A whole picture, clip or file. The standard has no part events for a clip."""
        yield from self._close_part()
        place = {"item_id": self.item_id, "output_index": self._output_index, "content_index": len(self._content)}
        self._content.append(part)
        if part["type"] == "input_video":
            return
        empty = {"type": part["type"]} | ({"image_url": None, "detail": "auto"} if "image_url" in part else {})
        yield {"type": "response.content_part.added", **place, "part": empty}
        yield {"type": "response.content_part.done", **place, "part": part}

    def arguments(self, delta: str) -> Iterator[JsonObject]:
        """More of a function call's arguments, or of the text that a custom tool is given."""
        if not delta:
            return
        self._arguments.append(delta)
        event = {
            "type": f"response.{self.kind}_{GIVEN[self.kind]}.delta",
            "item_id": self.item_id,
            "output_index": self._output_index,
            "delta": delta,
        }
        if (padding := self._obfuscate(delta)) is not None:
            event["obfuscation"] = padding
        yield event

    @property
    def is_complete_call(self) -> bool:
        """Are the arguments a whole JSON object, so that nothing can follow? Of a free text nobody can tell."""
        if self.kind == "custom_tool_call":
            return False
        last = next((piece for piece in reversed(self._arguments) if not piece.isspace()), "")
        if not last.rstrip().endswith("}"):  # parsing them with every delta would take the square of their length
            return False
        try:
            return isinstance(orjson.loads("".join(self._arguments)), dict)
        except orjson.JSONDecodeError:
            return False

    def close(self, status: Literal["completed", "incomplete"]) -> Iterator[JsonObject]:
        """The events that end it."""
        if self.kind in GIVEN:
            if not self._arguments and self.kind == "function_call":
                yield from self.arguments("{}")
            yield {
                "type": f"response.{self.kind}_{GIVEN[self.kind]}.done",
                "item_id": self.item_id,
                "output_index": self._output_index,
                GIVEN[self.kind]: "".join(self._arguments),
            }
        yield from self._close_part()
        yield {
            "type": "response.output_item.done",
            "output_index": self._output_index,
            "item": self._rendered(status),
        }

    def _open_part(self, kind: PartKind) -> JsonObject:
        index = len(self._summary if kind == "summary_text" else self._content)
        part = self._part = _Part(kind, index)
        name = "response.reasoning_summary_part.added" if kind == "summary_text" else "response.content_part.added"
        return {"type": name, **self._place(part), "part": part.rendered()}

    def _close_part(self) -> Iterator[JsonObject]:
        part, self._part = self._part, None
        if part is None:
            return
        rendered = part.rendered()
        is_summary = part.kind == "summary_text"
        (self._summary if is_summary else self._content).append(rendered)
        field_name = "refusal" if part.kind == "refusal" else "text"
        done = self._part_event(part, "done", **{field_name: rendered[field_name]})
        if part.kind == "output_text":
            done["logprobs"] = rendered["logprobs"]
        yield done
        name = "response.reasoning_summary_part.done" if is_summary else "response.content_part.done"
        yield {"type": name, **self._place(part), "part": rendered}

    def _part_event(self, part: _Part, what: str, **more: Any) -> dict[str, Any]:
        return {"type": f"response.{_EVENT_NAMES[part.kind]}.{what}", **self._place(part), **more}

    def _place(self, part: _Part) -> JsonObject:
        index_name = "summary_index" if part.kind == "summary_text" else "content_index"
        return {"item_id": self.item_id, "output_index": self._output_index, index_name: part.index}

    def _rendered(self, status: str) -> dict[str, Any]:
        item: dict[str, Any] = {"id": self.item_id, "type": self.kind, "status": status}
        if self.kind in GIVEN:
            return item | {"call_id": self._call_id, "name": self._name, GIVEN[self.kind]: "".join(self._arguments)}
        if self.kind == "message":
            return item | {"role": "assistant", "content": list(self._content)}
        item |= {"summary": list(self._summary), "content": list(self._content)}
        if self.encrypted is not None and status != "in_progress":
            item["encrypted_content"] = self.encrypted
        return item


_EVENT_NAMES: dict[PartKind, str] = {
    "output_text": "output_text",
    "refusal": "refusal",
    "reasoning_text": "reasoning",
    "summary_text": "reasoning_summary_text",
}
