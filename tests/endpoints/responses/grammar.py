"""A reader of Open Responses streams, written from the specification and not from our writer.

It knows nothing of how events are made. Bytes go through a small parser of server-sent events, events through a state
machine that holds every rule of order, identity and agreement; whoever breaks one is told which.

Source: the Open Responses specification, version 2026-04-24, streaming.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

TERMINAL = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}
_TEXT_EVENTS = {
    "output_text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning_text": ("response.reasoning", "text"),
    "summary_text": ("response.reasoning_summary_text", "text"),
}


class Broken(AssertionError):
    """A rule of the stream's format is broken."""


def need(condition: object, what: str) -> None:
    if not condition:
        raise Broken(what)


class SseReader:
    """Bytes in, (name, data) out, wherever the bytes are cut. Strict: what we promise, not what a client would take."""

    def __init__(self) -> None:
        self._rest = b""
        self.frames: list[tuple[str | None, str]] = []
        self.comments: list[str] = []

    def feed(self, data: bytes) -> None:
        need(b"\r" not in data, "a carriage return")
        self._rest += data
        while b"\n\n" in self._rest:
            block, self._rest = self._rest.split(b"\n\n", 1)
            self._block(block.decode())

    def close(self) -> None:
        need(not self._rest.strip(), f"the stream ends inside a frame: {self._rest[:80]!r}")

    def _block(self, block: str) -> None:
        name: str | None = None
        data: list[str] = []
        for line in block.split("\n"):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "":
                self.comments.append(value)
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)
            else:
                raise Broken(f"a field {field!r}")
        if data or name:
            need(len(data) == 1, "data on more than one line")
            self.frames.append((name, data[0]))


def events_of(chunks: Iterable[bytes]) -> list[dict[str, Any]]:
    """The events of a whole stream, ``[DONE]`` included in what is checked."""
    reader = SseReader()
    for chunk in chunks:
        reader.feed(chunk)
    reader.close()
    need(reader.frames and reader.frames[-1] == (None, "[DONE]"), "the last frame is not [DONE]")
    events = []
    for name, data in reader.frames[:-1]:
        event = json.loads(data)
        need(event["type"] == name, "the event's name is not its type")
        events.append(event)
    return events


class Machine:
    """Takes events one at a time. ``response`` is the terminal one's at the end."""

    def __init__(self) -> None:
        self._number = -1
        self._phase = "new"
        self._response_id: str | None = None
        self._ids: set[str] = set()
        self._item: dict[str, Any] | None = None
        self._part: dict[str, Any] | None = None
        self._deltas = ""
        self._text_done: str | None = None
        self._annotations: list[Any] = []
        self._logprobs: list[Any] = []
        self._parts: dict[str, list[Any]] = {}
        self._arguments: str | None = None
        self._done: list[dict[str, Any]] = []
        self._had_error: dict[str, Any] | None = None
        self.response: dict[str, Any] | None = None

    def take(self, event: dict[str, Any]) -> None:
        name = event["type"]
        need(event["sequence_number"] == self._number + 1, f"sequence numbers go {self._number} → {event}")
        self._number += 1
        need(self._phase != "over", f"{name} after the end")
        need(self._had_error is None or name == "response.failed", f"{name} after an error")
        if name in ("response.created", "response.queued", "response.in_progress", *TERMINAL):
            self._status(name, event["response"])
        elif name == "error":
            need(self._phase == "in_progress", "an error before the response is in progress")
            self._had_error = event["error"]
        else:
            need(self._phase == "in_progress", f"{name} in {self._phase}")
            self._inside(name, event)

    def close(self) -> dict[str, Any]:
        need(self._phase == "over" and self.response is not None, "no terminal event")
        assert self.response is not None
        return self.response

    def _status(self, name: str, response: dict[str, Any]) -> None:
        need(self._response_id in (None, response["id"]), "the response's id changes")
        self._response_id = response["id"]
        status = response["status"]
        if name in TERMINAL:
            need(self._phase == "in_progress", f"{name} in {self._phase}")
            need(status == TERMINAL[name], f"{name} with status {status}")
            self._end(status, response)
            return
        need(response["output"] == [], "output before the end")
        need(response["completed_at"] is None, "completed_at before the end")
        before = {
            "response.created": ("new",),
            "response.queued": ("created",),
            "response.in_progress": ("created", "queued"),
        }
        need(self._phase in before[name], f"{name} in {self._phase}")
        if name != "response.created":
            need(status == name.removeprefix("response."), f"{name} with status {status}")
        self._phase = name.removeprefix("response.")

    def _end(self, status: str, response: dict[str, Any]) -> None:
        if status == "failed":
            need(response["error"], "failed without an error")
            if self._had_error:
                need(response["error"]["code"] == self._had_error["code"], "two codes for one error")
        else:
            need(self._item is None, "the end inside an item")
            need(response["error"] is None, "an error without a failure")
            need(response["usage"] is not None, "no usage")
        need((response["incomplete_details"] is not None) == (status == "incomplete"), "incomplete_details")
        need((response["completed_at"] is not None) == (status == "completed"), "completed_at")
        need(response["output"] == self._done, "output is not what the items were")
        for item in self._done[:-1]:
            need(item["status"] == "completed", "an incomplete item that is not the last")
        if self._done and self._done[-1]["status"] == "incomplete":
            need(status == "incomplete", "an incomplete item in a response that is not")
        self.response = response
        self._phase = "over"

    def _inside(self, name: str, event: dict[str, Any]) -> None:
        if name == "response.output_item.added":
            self._add(event)
            return
        need(self._item is not None, f"{name} outside an item")
        assert self._item is not None
        need(event["output_index"] == len(self._done), "wrong output_index")
        if name == "response.output_item.done":
            self._finish_item(event["item"])
            return
        need(event["item_id"] == self._item["id"], "another item's id")
        if name.startswith("response.function_call_arguments."):
            self._call(name, event)
        elif name in ("response.content_part.added", "response.reasoning_summary_part.added"):
            self._open_part(name, event)
        elif name in ("response.content_part.done", "response.reasoning_summary_part.done"):
            self._close_part(name, event)
        else:
            self._part_event(name, event)

    def _add(self, event: dict[str, Any]) -> None:
        item = event["item"]
        need(self._item is None, "items overlap")
        need(event["output_index"] == len(self._done), "wrong output_index")
        need(item["status"] == "in_progress", "an item that does not begin in progress")
        need(item["id"] not in self._ids, "an id twice")
        self._ids.add(item["id"])
        need(not item.get("content") and not item.get("summary") and not item.get("arguments"), "a full new item")
        self._item, self._parts, self._arguments, self._deltas = item, {"content": [], "summary": []}, None, ""

    def _call(self, name: str, event: dict[str, Any]) -> None:
        assert self._item is not None
        need(self._item["type"] == "function_call", "arguments of what is no call")
        need(self._arguments is None, "arguments after their end")
        if name.endswith(".delta"):
            need(event["delta"], "an empty delta")
            self._deltas += event["delta"]
        else:
            need(event["arguments"] == self._deltas, "arguments are not their deltas")
            self._arguments = event["arguments"]

    def _place(self, event: dict[str, Any]) -> str:
        return "summary" if "summary_index" in event else "content"

    def _open_part(self, name: str, event: dict[str, Any]) -> None:
        assert self._item is not None
        need(self._item["type"] in ("message", "reasoning"), "a part of what has none")
        need(self._part is None, "parts overlap")
        place = self._place(event)
        need(event[f"{place}_index"] == len(self._parts[place]), "wrong index of a part")
        part = event["part"]
        need(not part.get("text") and not part.get("refusal") and not part.get("image_url"), "a full new part")
        self._part, self._deltas, self._text_done, self._annotations, self._logprobs = part, "", None, [], []

    def _part_event(self, name: str, event: dict[str, Any]) -> None:
        part = self._part
        need(part is not None, f"{name} outside a part")
        assert part is not None
        place = self._place(event)
        need(event[f"{place}_index"] == len(self._parts[place]), "wrong index of a part")
        prefix, field = _TEXT_EVENTS[part["type"]]
        need(self._text_done is None, f"{name} after the part's text was done")
        if name == f"{prefix}.delta":
            need(event["delta"], "an empty delta")
            self._deltas += event["delta"]
            self._logprobs += event.get("logprobs", [])
        elif name == f"{prefix}.done":
            need(event[field] == self._deltas, "the text is not its deltas")
            self._text_done = event[field]
        else:
            need(name == "response.output_text.annotation.added", f"{name} in a part {part['type']}")
            need(event["annotation_index"] == len(self._annotations), "wrong annotation_index")
            self._annotations.append(event["annotation"])

    def _close_part(self, name: str, event: dict[str, Any]) -> None:
        need(self._part is not None, "a part ends that did not begin")
        assert self._part is not None
        part, place = event["part"], self._place(event)
        need(part["type"] == self._part["type"], "the part's type changes")
        if part["type"] in _TEXT_EVENTS:
            need(self._text_done is not None, "no done event of the text")
            need(part[_TEXT_EVENTS[part["type"]][1]] == self._text_done, "the part's text is not what was done")
            if part["type"] == "output_text":
                need(part["annotations"] == self._annotations, "annotations")
                need(part["logprobs"] == self._logprobs, "logprobs")
        self._parts[place].append(part)
        self._part = None

    def _finish_item(self, item: dict[str, Any]) -> None:
        assert self._item is not None
        need(self._part is None, "an item ends inside a part")
        need(item["id"] == self._item["id"] and item["type"] == self._item["type"], "an item changes")
        need(item["status"] in ("completed", "incomplete"), "an item's last status")
        if item["type"] == "function_call":
            need(self._arguments is not None and item["arguments"] == self._arguments, "arguments")
            for name in ("name", "call_id"):
                need(item[name] == self._item[name], f"{name} changes")
        else:
            # The standard has no part events for a clip: such a part is only seen in the item.
            shown = [part for part in item["content"] if part["type"] != "input_video"]
            need(shown == self._parts["content"], "content is not what its parts were")
            need(item.get("summary", []) == self._parts["summary"], "summary is not what its parts were")
        self._done.append(item)
        self._item = None


def check(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The terminal response of a stream that keeps every rule."""
    machine = Machine()
    for event in events:
        machine.take(event)
    return machine.close()
