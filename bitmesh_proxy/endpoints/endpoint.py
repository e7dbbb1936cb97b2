"""What an endpoint is: the pure functions between a caller's format and the vocabulary in the middle.

``parse`` raises InvalidRequest (or its ValidationFailed). The renderers make the caller's format from results and
events; where a chat provider's ``wire_format`` equals ``chat_format``, none is called and the bytes pass through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from bitmesh_proxy.calls import (
    Call,
    ChatCall,
    Event,
    ImageCall,
    JobState,
    JsonObject,
    MediaResult,
    Transcript,
    TranscriptionCall,
)
from bitmesh_proxy.context import Caller, RequestContext, Surface
from bitmesh_proxy.money import NanoUsd


class ChunkRenderer(Protocol):
    """Events in, bytes of the caller's stream out: one event, one write. ``finish`` gives what ends the stream."""

    def render(self, events: Sequence[Event]) -> bytes: ...

    def finish(self) -> bytes: ...


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job as an endpoint shows it. ``created_at_s`` and ``completed_at_s`` are Unix time; ``urls`` are our own."""

    state: JobState
    model_id: str
    created_at_s: float
    completed_at_s: float | None = None
    urls: Sequence[str] = ()
    call_facts: Mapping[str, Any] = msgspec.field(default_factory=dict)


class MadePictures(msgspec.Struct, frozen=True, kw_only=True):
    """A finished image call, for endpoints whose answer says what it cost.

    The outputs of ``result`` hold their bytes where the call wants them; ``urls`` are our own, one for each output,
    None where the call wants no link. ``latency_ms`` is the provider's, ``charge_nano_usd`` what the account pays.
    """

    call: ImageCall
    result: MediaResult
    urls: Sequence[str | None]
    context: RequestContext
    latency_ms: int
    charge_nano_usd: NanoUsd


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """``name`` stands in the ledger, in limits and in metrics.

    ``drops_unasked_usage``: a streamed chat lacks the chunk with the usage unless the caller asked for it.
    ``comments_cost``: a stream of events ends with a comment that says what it cost; clients pass over comments.
    ``render_pictures`` takes the place of ``render_media``; ``render_picture_events`` writes a finished answer as a
    stream, for providers that do not stream pictures in the caller's format. ``render_transcript`` writes a
    transcript (bytes and content type) for providers of another format than ``transcription_format``.
    ``takes_plain_chats``: of a ``PlainChat`` whose texts do not begin with a blank, ``parse`` would make the call that
    it says, whoever the caller is (but for the model, where the key is bound to one).
    """

    name: str
    surface: Surface
    parse: Callable[[JsonObject, Caller], Call]
    chat_format: str = "openai_chat"
    render_chat: Callable[[ChatCall, Sequence[Event], RequestContext], JsonObject] | None = None
    chunk_renderer: Callable[[ChatCall, RequestContext], ChunkRenderer] | None = None
    render_media: Callable[[ImageCall, MediaResult, Sequence[str]], JsonObject] | None = None
    render_job: Callable[[JobView], JsonObject] | None = None
    drops_unasked_usage: bool = False
    comments_cost: bool = False
    render_pictures: Callable[[MadePictures], JsonObject] | None = None
    render_picture_events: Callable[[MadePictures], bytes] | None = None
    transcription_format: str = "openai_transcription"
    render_transcript: Callable[[TranscriptionCall, Transcript], tuple[bytes, str]] | None = None
    takes_plain_chats: bool = False
