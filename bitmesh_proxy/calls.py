"""The one vocabulary in the middle: what a caller asks (a ``Call``) and what a provider answers (results and events).

Callers' formats become calls, providers' answers become results and events, so that one more format on either side
costs one file (N + M, not N × M). Where the caller's format *is* the provider's, the answer's bytes go through as
they came and none of the result or event classes here is made.

Everything is frozen. Nothing here does I/O, and nothing here knows a provider or an endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

import msgspec

from bitmesh_proxy.money import NanoUsd

JsonObject = Mapping[str, Any]


class Operation(StrEnum):
    """What kind of work a call is; an offer says which of these it can do."""

    CHAT = "chat"
    IMAGE = "image"
    VIDEO = "video"
    SPEECH = "speech"
    TRANSCRIPTION = "transcription"
    EMBEDDING = "embedding"
    MODERATION = "moderation"


# ---------------------------------------------------------------- calls


class Media(msgspec.Struct, frozen=True, kw_only=True):
    """An input picture, clip or sound: by ``url`` (https or data URI), or as bytes with their sniffed type."""

    kind: Literal["image", "video", "audio", "file"]
    url: str | None = None
    data: bytes | None = None
    media_type: str | None = None
    name: str | None = None


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A picture that a video has to pass through. ``position`` is a frame index, ``"first"`` or ``"last"``."""

    media: Media
    position: int | str = "first"


class ChatCall(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation. ``messages`` and ``options`` use the names of OpenAI's chat completions.

    ``options`` holds every further field the caller sent (``max_tokens``, ``tools``, ``top_p`` …) except ``model``,
    ``messages``, ``stream`` and ``test``; the dialect passes on those it knows.
    """

    operation: Literal[Operation.CHAT] = Operation.CHAT
    model: str
    messages: Sequence[JsonObject]
    options: JsonObject = msgspec.field(default_factory=dict)
    stream: bool = False
    test: bool = False


class ImageCall(msgspec.Struct, frozen=True, kw_only=True):
    """One or more pictures from a prompt, or an edit when ``images`` is not empty.

    ``width`` and ``height`` in pixels, both or neither. ``quality`` is the caller's word (``auto``, ``low``,
    ``medium``, ``high``, ``hd`` …). ``response_format`` is what the *caller* wants; ``with_links``: and a link beside
    the bytes. ``options`` are fields that no attribute names, for dialects that know them.
    """

    operation: Literal[Operation.IMAGE] = Operation.IMAGE
    model: str
    prompt: str
    count: int = 1
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    seed: int | None = None
    quality: str | None = None
    images: tuple[Media, ...] = ()
    mask: Media | None = None
    response_format: Literal["url", "b64_json", "b64_ephemeral"] | None = None
    with_links: bool = False
    output_format: str | None = None
    options: JsonObject = msgspec.field(default_factory=dict)
    stream: bool = False
    test: bool = False


class VideoCall(msgspec.Struct, frozen=True, kw_only=True):
    """One clip. ``seconds`` is a decimal string, as Bitmesh's API has it (``"5"``); ``None`` is the model's default."""

    operation: Literal[Operation.VIDEO] = Operation.VIDEO
    model: str
    prompt: str
    width: int | None = None
    height: int | None = None
    seconds: str | None = None
    fps: int | None = None
    steps: int | None = None
    seed: int | None = None
    guidance_scale: float | None = None
    output_format: Literal["MP4", "WEBM"] | None = None
    output_quality: int | None = None
    negative_prompt: str | None = None
    quality: str | None = None
    frames: tuple[Frame, ...] = ()
    references: tuple[Media, ...] = ()
    options: JsonObject = msgspec.field(default_factory=dict)
    stream: bool = False
    test: bool = False


class SpeechCall(msgspec.Struct, frozen=True, kw_only=True):
    """Speech from text."""

    operation: Literal[Operation.SPEECH] = Operation.SPEECH
    model: str
    text: str
    voice: str | None = None
    output_format: str | None = None
    speed: float | None = None
    instructions: str | None = None
    options: JsonObject = msgspec.field(default_factory=dict)
    stream: bool = False
    test: bool = False


class TranscriptionCall(msgspec.Struct, frozen=True, kw_only=True):
    """Text from speech, in its own language or (``into_english``) translated.

    ``duration_s`` is measured from the container where that is possible; ``claimed_s`` is what other containers say,
    which their senders may have made up.
    """

    operation: Literal[Operation.TRANSCRIPTION] = Operation.TRANSCRIPTION
    model: str
    audio: Media
    into_english: bool = False
    language: str | None = None
    prompt: str | None = None
    response_format: str | None = None
    duration_s: float | None = None
    claimed_s: float | None = None
    options: JsonObject = msgspec.field(default_factory=dict)
    stream: bool = False
    test: bool = False


class SpokenWord(msgspec.Struct, frozen=True, gc=False):
    """A word of a transcript, and when it is said, counted from the sound's beginning."""

    text: str
    start_s: float
    end_s: float


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """What was said, and as much about it as the provider tells."""

    text: str
    language: str | None = None
    duration_s: float | None = None
    words: Sequence[SpokenWord] = ()


class EmbeddingCall(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors from texts (or token lists)."""

    operation: Literal[Operation.EMBEDDING] = Operation.EMBEDDING
    model: str
    inputs: Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
    options: JsonObject = msgspec.field(default_factory=dict)
    stream: Literal[False] = False
    test: bool = False


class ModerationCall(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict on texts and pictures."""

    operation: Literal[Operation.MODERATION] = Operation.MODERATION
    model: str
    inputs: Sequence[Any]
    options: JsonObject = msgspec.field(default_factory=dict)
    stream: Literal[False] = False
    test: bool = False


Call = ChatCall | ImageCall | VideoCall | SpeechCall | TranscriptionCall | EmbeddingCall | ModerationCall


# ---------------------------------------------------------------- usage


class Basis(StrEnum):
    """Where a figure in the books comes from, best first."""

    REPORTED = "reported"  # the provider named the cost
    MEASURED = "measured"  # our price × the provider's own usage figures
    ESTIMATED = "estimated"  # our price × what we counted ourselves


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a call used, in the units that prices are made of. Absent things are 0.

    ``input_tokens`` counts *all* input tokens; ``cached_input_tokens``, ``cache_write_tokens`` and
    ``image_input_tokens`` are parts of it, as ``reasoning_tokens`` and ``image_output_tokens`` are of
    ``output_tokens``. ``reported_cost_nano_usd`` is the provider's own word on the money.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    image_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    image_output_tokens: int = 0
    images: int = 0
    characters: int = 0
    duration_ms: int = 0
    reported_cost_nano_usd: NanoUsd | None = None
    is_estimated: bool = False


# ---------------------------------------------------------------- results of whole answers


class MediaOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One picture, clip or sound that a provider made: a link of the provider's, or bytes, or a ``path`` there.

    ``path`` (under the provider's base URL) stands for a link that has to be built from the configuration, because only
    our key opens it. ``needs_credential`` marks such paths and links; they must never reach a caller.
    """

    kind: Literal["image", "video", "audio"]
    url: str | None = None
    data: bytes | None = None
    path: str | None = None
    media_type: str | None = None
    revised_prompt: str | None = None
    needs_credential: bool = False


class MediaResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole image (or speech) answer, read. ``raw`` is the provider's JSON where it sent JSON."""

    outputs: tuple[MediaOutput, ...]
    usage: Usage
    provider_request_id: str | None = None
    raw: JsonObject | None = None


class JobStatus(StrEnum):
    """States of long work, in our words; anything a provider says that we do not know counts as running."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Will the provider never change it again?"""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says about long work at one moment.

    ``provider_job_id`` is what the poll needs. ``usage`` is given when the work is done and its amount is known.
    """

    provider_job_id: str
    status: JobStatus
    progress_percent: int | None = None
    outputs: tuple[MediaOutput, ...] = ()
    usage: Usage | None = None
    error_code: str | None = None
    error_message: str | None = None
    raw: JsonObject | None = None


# ---------------------------------------------------------------- events of translated streams


class FinishReason(StrEnum):
    """Why a model stopped."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The provider accepted the call. Always the first event."""

    provider_request_id: str | None = None


class TextDelta(msgspec.Struct, frozen=True, kw_only=True):
    """More of the answer's text. ``logprobs`` is a list in OpenAI's chat form."""

    text: str
    logprobs: Sequence[JsonObject] = ()


class ReasoningDelta(msgspec.Struct, frozen=True, kw_only=True):
    """More of the model's reasoning (``is_summary``: of its summary); ``encrypted`` carries a signature or blob."""

    text: str = ""
    is_summary: bool = False
    encrypted: str | None = None


class RefusalDelta(msgspec.Struct, frozen=True, kw_only=True):
    """More of a refusal."""

    text: str


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """A citation of the text so far, in the Open Responses form (``url_citation``)."""

    annotation: JsonObject


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a tool call. The first delta of an ``index`` carries ``call_id`` and ``name``."""

    index: int
    call_id: str | None = None
    name: str | None = None
    arguments: str = ""


class MediaEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A picture or sound inside a translated stream."""

    output: MediaOutput


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """The provider's figures so far; the last one counts."""

    usage: Usage


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """The model stopped. Usage may still follow."""

    reason: FinishReason


class StreamFailed(msgspec.Struct, frozen=True, kw_only=True):
    """The provider reported an error inside the stream. Nothing follows.

    ``status``: what it would be as an answer of its own. Below 500 it is the request's fault, and not the offer's.
    """

    message: str
    code: str | None = None
    status: int = 502


Event = (
    Started
    | TextDelta
    | ReasoningDelta
    | RefusalDelta
    | Annotation
    | ToolCallDelta
    | MediaEvent
    | UsageReport
    | Finished
    | StreamFailed
)
