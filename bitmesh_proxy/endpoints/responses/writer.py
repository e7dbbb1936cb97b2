"""Events of the middle in, events of Open Responses out: the one place where a response is written.

    created [queued] in_progress item* (completed | incomplete | [error] failed)

Whole answers are the ``response`` of the last event of the same run, so that a streamed and a whole answer cannot
differ. Items never overlap: what arrives while a function call's arguments are not yet a whole JSON object waits until
they are, or until the model stops. The terminal event waits for ``finish``, because usage comes after the model has
stopped, and cost after that.

Source: the Open Responses specification, version 2026-04-24.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec
import orjson

from bitmesh_proxy.calls import (
    Annotation,
    Event,
    Finished,
    FinishReason,
    JsonObject,
    MediaEvent,
    ReasoningDelta,
    RefusalDelta,
    Started,
    StreamFailed,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)
from bitmesh_proxy.endpoints.responses.chat_call import short_call_id
from bitmesh_proxy.endpoints.responses.items import NewId
from bitmesh_proxy.endpoints.responses.media_parts import caption, logprob, output_link, output_part
from bitmesh_proxy.endpoints.responses.open_item import ItemKind, OpenItem, PartKind, no_obfuscation
from bitmesh_proxy.endpoints.responses.request import ResponseRequest, Vocabulary
from bitmesh_proxy.endpoints.responses.resource import Cost, ResponseState, render_response, render_usage
from bitmesh_proxy.endpoints.responses.truncation import CHARACTERS_PER_TOKEN

#: A delta and its padding together are a multiple of this many characters.
OBFUSCATION_BLOCK: Final = 16


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a response failed. ``type`` is the vocabulary's word for the kind of error."""

    message: str
    code: str
    type: str = "server_error"
    param: str | None = None


class _Waiting(msgspec.Struct):
    """Events that belong to one item (a tool call by its ``index``; everything else is ``None``) and have to wait."""

    index: int | None
    events: list[Event] = msgspec.field(default_factory=list)


class _Run(msgspec.Struct):
    """Events of one class that are more of one part, one after the other. ``template`` lacks their number and text."""

    of: type[TextDelta] | type[ReasoningDelta]
    texts: list[str]
    template: bytes


class EventWriter:
    """One response. Call ``start``, then ``feed`` as often as there is something, then ``finish`` or ``fail``.

    ``clock`` is Unix time. ``input_tokens`` is an estimate, for where the provider names no usage.
    ``random_text`` gives so many random letters, for the padding that a caller may ask for. ``around`` gives what is to
    stand before and behind an event of a type, for ``more_text``. ``tells_errors``: an ``error`` event precedes
    ``response.failed``; without it, that one, which says the same, comes alone.
    """

    def __init__(
        self,
        request: ResponseRequest,
        *,
        response_id: str,
        created_at_s: float,
        new_id: NewId,
        clock: Callable[[], float],
        input_tokens: int = 0,
        random_text: Callable[[int], str] = "x".__mul__,
        around: Callable[[str], tuple[bytes, bytes]] = lambda _: (b"", b""),
        tells_errors: bool = True,
    ) -> None:
        self._request = request
        self._response_id = response_id
        self._created_at_s = int(created_at_s)
        self._new_id = new_id
        self._clock = clock
        self._input_tokens = input_tokens
        self._random_text = random_text
        self._around = around
        self._tells_errors = tells_errors
        self._models_fault = "internal_error" if request.vocabulary is Vocabulary.UNIFIED else "model_error"
        self._sequence_number = 0
        self._output: list[JsonObject] = []
        self._open: OpenItem | None = None
        self._open_call: int | None = None
        self._run: _Run | None = None
        self._waiting: list[_Waiting] = []
        self._refused_calls: set[int] = set()
        self._closed_calls: set[int] = set()
        self._warnings: list[str] = []
        self._usage: Usage | None = None
        self._output_characters = 0
        self._reason: FinishReason | None = None
        self._failure: Failure | None = None
        self._has_called = False
        self.response: dict[str, Any] = self._render("queued" if request.background else "in_progress")
        self.is_over = False

    @property
    def failure(self) -> Failure | None:
        """What the provider reported inside its answer, or what ``fail`` was told."""
        return self._failure

    # ------------------------------------------------------------ in

    def start(self) -> list[JsonObject]:
        """The events that begin every response: one of the background is queued first."""
        names = ["response.created"]
        if self._request.background:
            names.append("response.queued")
        events = [self._numbered({"type": name, "response": self.response}) for name in names]
        if self._request.background:
            self.response = self._render("in_progress")
        return [*events, self._numbered({"type": "response.in_progress", "response": self.response})]

    def feed(self, events: Sequence[Event]) -> list[JsonObject]:
        """What these events are, in the caller's format. After a failure or the model's stop, content is ignored."""
        written = [self._numbered(event) for each in events for event in self._take(each)]
        if events and self._run is None:
            self._run = self._new_run(type(events[-1]))
        return written

    def more_text(self, event: Event) -> bytes | None:
        """The one event that more of an open text causes, as bytes; None where it may cause others: then ``feed`` it.

        Nearly every event of every stream is one of these. They differ in number and text alone, so that all around
        the two is written once.
        """
        run = self._run
        if run is None or type(event) is not run.of:
            return None
        text = event.text
        if not text or (type(event) is ReasoningDelta and (event.is_summary or event.encrypted is not None)):
            return None
        run.texts.append(text)
        self._output_characters += len(text)
        number = self._sequence_number
        self._sequence_number = number + 1
        return run.template % (number, orjson.dumps(text))

    def media(self, url: str, *, kind: Literal["image", "video", "audio"], media_type: str | None) -> list[JsonObject]:
        """A finished result, whose ``url`` may be a data URI, as a message of its own."""
        return [self._numbered(event) for event in self._media_message(output_part(url, kind, media_type), kind)]

    def progress(self, percent: int | None, stage: str) -> list[JsonObject]:
        """How far long work is. An extension: gives nothing unless the caller asked for it."""
        if not self._request.include_progress or self.is_over:
            return []
        return [self._numbered({"type": "bitmesh:progress", "percent": percent, "stage": stage})]

    def finish(self, cost: Cost | None = None) -> list[JsonObject]:
        """The terminal event. An answer that broke off, or lacks the call that was required, has failed."""
        if self._failure is None and self._reason is None:
            self._failure = Failure(
                message="The provider broke off its answer.", code="upstream_broken", type=self._models_fault
            )
        if self._failure is not None:
            return self.fail(self._failure, cost)
        if (failure := self._broken_promise()) is not None:
            return self.fail(failure, cost)
        usage = render_usage(self._usage or self._estimate(), cost or Cost())
        if self._reason in _INCOMPLETE:
            self.response = self._render("incomplete", usage=usage, incomplete_reason=_INCOMPLETE[self._reason])
        else:
            self.response = self._render("completed", usage=usage, completed_at_s=int(self._clock()))
        self.is_over = True
        return [self._numbered({"type": f"response.{self.response['status']}", "response": self.response})]

    def fail(self, failure: Failure, cost: Cost | None = None) -> list[JsonObject]:
        """An ``error`` event and ``response.failed``. What was under way is no part of the output."""
        if self.is_over:
            return []
        self._failure = failure
        self.is_over = True
        self._open = self._run = None
        usage = None
        if self._usage is not None or self._output_characters:
            usage = render_usage(self._usage or self._estimate(), cost or Cost())
        error = {"code": failure.code, "message": failure.message}
        if self._request.vocabulary is Vocabulary.UNIFIED:
            error["type"] = failure.type  # every error of the unified API has one
        self.response = self._render("failed", usage=usage, error=error)
        # OpenAI's clients read the flat fields beside the standard's nested ones.
        details = {"code": failure.code, "message": failure.message, "param": failure.param}
        told = {"type": "error", "error": {"type": failure.type, **details}, **details}
        return [
            *([self._numbered(told)] if self._tells_errors else []),
            self._numbered({"type": "response.failed", "response": self.response}),
        ]

    # ------------------------------------------------------------ one event

    def _new_run(self, of: type[Event]) -> _Run | None:
        """What more events of this class have in common; None where more is not one delta and nothing else."""
        item, request = self._open, self._request
        if of is not TextDelta and of is not ReasoningDelta:
            return None
        if item is None or self._open_call is not None or self._waiting or self._failure is not None:
            return None
        if request.include_obfuscation or (request.wants_logprobs and of is TextDelta):
            return None
        found = item.run_of("output_text" if of is TextDelta else "reasoning_text")
        if found is None:
            return None
        texts, place = found
        name, rest = _DELTAS[of]
        before, behind = self._around(name)
        event = b'{"type":"%b","sequence_number":%%d,%b,"delta":%%b%b}'
        template = event % (name.encode(), place.replace(b"%", b"%%"), rest)
        return _Run(of, texts, before + template + behind)

    def _take(self, event: Event) -> Iterator[JsonObject]:
        if self._failure is not None or self.is_over:
            return
        if isinstance(event, UsageReport):
            self._usage = event.usage
            return  # all else may end the run of a text
        self._run = None
        if isinstance(event, StreamFailed):
            self._failure = Failure(message=event.message, code=event.code or "upstream_error", type=self._models_fault)
        elif self._reason is not None or isinstance(event, Started):
            return
        elif isinstance(event, Finished):
            yield from self._stop(event.reason)
        else:
            yield from self._content(event)

    def _content(self, event: Event) -> Iterator[JsonObject]:
        index = event.index if isinstance(event, ToolCallDelta) else None
        if isinstance(event, ToolCallDelta) and self._is_refused(event):
            return
        if index is not None and index in self._closed_calls:
            return  # a whole JSON object was there; only blanks can follow
        is_own = index is not None and index == self._open_call
        if not is_own and (self._waiting or self._must_wait()):
            self._wait(index, event)
            yield from self._release()
            return
        yield from self._write(event)
        if self._waiting:
            yield from self._release()

    def _must_wait(self) -> bool:
        return self._open is not None and self._open_call is not None and not self._open.is_complete_call

    def _wait(self, index: int | None, event: Event) -> None:
        """Queue an event: a tool call's behind the others of that call, anything else behind what came last."""
        if index is not None:
            place = next((each for each in self._waiting if each.index == index), None)
        else:
            place = self._waiting[-1] if self._waiting and self._waiting[-1].index is None else None
        if place is None:
            place = _Waiting(index)
            self._waiting.append(place)
        place.events.append(event)

    def _release(self, *, all_of_them: bool = False) -> Iterator[JsonObject]:
        while self._waiting and (all_of_them or not self._must_wait()):
            for event in self._waiting.pop(0).events:
                yield from self._write(event)

    def _write(self, event: Event) -> Iterator[JsonObject]:
        if isinstance(event, TextDelta):
            self._output_characters += len(event.text)
            yield from self._text("message", "output_text", event.text, self._logprobs(event))
        elif isinstance(event, RefusalDelta):
            self._output_characters += len(event.text)
            yield from self._text("message", "refusal", event.text)
        elif isinstance(event, ReasoningDelta):
            yield from self._reasoning(event)
        elif isinstance(event, Annotation):
            if self._open is not None:
                yield from self._open.annotation(event.annotation)
        elif isinstance(event, ToolCallDelta):
            yield from self._tool_call(event)
        elif isinstance(event, MediaEvent) and (url := output_link(event.output)):
            kind = event.output.kind
            yield from self._media_message(output_part(url, kind, event.output.media_type), kind)

    def _text(
        self, item: ItemKind, part: PartKind, text: str, logprobs: Sequence[JsonObject] = ()
    ) -> Iterator[JsonObject]:
        if not text:
            return
        if self._open is None or self._open.kind != item:
            yield from self._begin(item)
        assert self._open is not None
        yield from self._open.text(part, text, logprobs)

    def _reasoning(self, event: ReasoningDelta) -> Iterator[JsonObject]:
        self._output_characters += len(event.text)
        yield from self._text("reasoning", "summary_text" if event.is_summary else "reasoning_text", event.text)
        if event.encrypted is None or "reasoning.encrypted_content" not in self._request.include:
            return
        if self._open is None or self._open.kind != "reasoning":
            yield from self._begin("reasoning")
        assert self._open is not None
        self._open.encrypted = (self._open.encrypted or "") + event.encrypted

    def _tool_call(self, event: ToolCallDelta) -> Iterator[JsonObject]:
        self._output_characters += len(event.arguments)
        if self._open_call != event.index:
            self._has_called = True
            call_id = short_call_id(event.call_id or self._new_id("call_"))
            kind: ItemKind = "custom_tool_call" if event.name in self._request.tool_use.custom else "function_call"
            yield from self._begin(kind, call_id=call_id, name=event.name or "")
            self._open_call = event.index
        assert self._open is not None
        yield from self._open.arguments(event.arguments)

    def _is_refused(self, event: ToolCallDelta) -> bool:
        """Is this of a call that the request does not allow? Its first delta has the name."""
        if (
            event.name is not None
            and event.index != self._open_call
            and event.name not in self._request.tool_use.allowed
        ):
            is_new = event.index not in self._refused_calls
            self._refused_calls.add(event.index)
            if is_new:
                self._warnings.append(f"The model called '{event.name[:64]}', which it may not; the call was left out.")
        return event.index in self._refused_calls

    def _media_message(self, part: JsonObject, kind: str) -> Iterator[JsonObject]:
        yield from self._begin("message")
        assert self._open is not None
        yield from self._open.text("output_text", caption(part, kind))
        yield from self._open.media(part)
        yield from self._close("completed")

    # ------------------------------------------------------------ items

    def _begin(self, kind: ItemKind, *, call_id: str = "", name: str = "") -> Iterator[JsonObject]:
        yield from self._close("completed")
        self._open = OpenItem(
            kind,
            self._new_id(_PREFIXES[kind]),
            len(self._output),
            call_id=call_id,
            name=name,
            obfuscate=self._pad if self._request.include_obfuscation else no_obfuscation,
        )
        yield self._open.open()

    def _close(self, status: Literal["completed", "incomplete"]) -> Iterator[JsonObject]:
        item, self._open, self._run = self._open, None, None
        if self._open_call is not None:
            self._closed_calls.add(self._open_call)
            self._open_call = None
        if item is None:
            return
        for event in item.close(status):
            if event["type"] == "response.output_item.done":
                self._output.append(event["item"])
            yield event

    def _stop(self, reason: FinishReason) -> Iterator[JsonObject]:
        yield from self._release(all_of_them=True)
        yield from self._close("incomplete" if reason in _INCOMPLETE else "completed")
        self._reason = reason

    def _broken_promise(self) -> Failure | None:
        """What the tool choice promised and the answer lacks."""
        if self._reason in _INCOMPLETE:
            return None
        if self._request.tool_use.must_call and not self._has_called:
            return Failure(
                message="The model did not call a tool although 'tool_choice' requires it.",
                code="tool_call_missing",
                type=self._models_fault,
            )
        if self._refused_calls and not self._output:
            return Failure(
                message="The model only called tools that 'tool_choice' does not allow.",
                code="tool_call_not_allowed",
                type=self._models_fault,
            )
        return None

    # ------------------------------------------------------------ out

    def _logprobs(self, event: TextDelta) -> list[JsonObject]:
        return [logprob(each) for each in event.logprobs] if self._request.wants_logprobs else []

    def _pad(self, delta: str) -> str:
        return self._random_text(OBFUSCATION_BLOCK - len(delta) % OBFUSCATION_BLOCK)

    def _estimate(self) -> Usage:
        """For answers whose usage nobody named."""
        return Usage(
            input_tokens=self._input_tokens,
            output_tokens=-(-self._output_characters // CHARACTERS_PER_TOKEN),
            is_estimated=True,
        )

    def _render(self, status: str, **more: Any) -> dict[str, Any]:
        return render_response(
            self._request,
            ResponseState(
                response_id=self._response_id,
                created_at_s=self._created_at_s,
                status=status,
                output=tuple(self._output),
                warnings=tuple(self._warnings),
                **more,
            ),
        )

    def _numbered(self, event: JsonObject) -> JsonObject:
        number = self._sequence_number
        self._sequence_number = number + 1
        return {"type": event["type"], "sequence_number": number, **event}  # the type stays where it stands first


#: The events of more text and more reasoning, and what stands in them behind the text.
_DELTAS: Final[dict[type[Event], tuple[str, bytes]]] = {
    TextDelta: ("response.output_text.delta", b',"logprobs":[]'),
    ReasoningDelta: ("response.reasoning.delta", b""),
}
_PREFIXES: Final[dict[ItemKind, str]] = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "custom_tool_call": "ctc_",
}
_INCOMPLETE: Final[dict[FinishReason | None, str]] = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.CONTENT_FILTER: "content_filter",
}
