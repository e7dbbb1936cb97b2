"""What a dialect is: a frozen struct of pure functions for one operation of one wire protocol.

Build the request, read the answer, read the error: values in, values out, no I/O. Providers are made of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from bitmesh_proxy.calls import (
    ChatCall,
    EmbeddingCall,
    Event,
    ImageCall,
    JobState,
    MediaResult,
    ModerationCall,
    SpeechCall,
    Transcript,
    TranscriptionCall,
    Usage,
    VideoCall,
)
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.errors import ProviderRefused
from bitmesh_proxy.plain_chats import PlainWriter

#: Stands for an id that is made when a request is sent. See ``UpstreamRequest.needs_fresh_uuid``.
FRESH_UUID: Final = b"00000000-0000-4000-8000-000000000000"


class FormPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a multipart body. A part with ``filename`` is a file."""

    name: str
    value: bytes
    filename: str | None = None
    media_type: str | None = None


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be sent to a provider. ``path`` is joined to the provider's base URL (``root`` picks which one).

    Exactly one of ``body`` (JSON) and ``form`` is set for a request with a body.
    ``headers`` never hold the credential: the upstream room adds it.
    ``needs_fresh_uuid``: the first ``FRESH_UUID`` in ``body`` is replaced by a new UUIDv4 before it is sent. Dialects
    are pure, and some protocols want an id of the caller's making.
    """

    method: str = "POST"
    path: str
    root: str = "default"
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    body: bytes | None = None
    form: tuple[FormPart, ...] | None = None
    needs_fresh_uuid: bool = False


class StreamMeter(Protocol):
    """Looks at a passing stream for what the books need. Never changes a byte, never keeps more than an event or two.

    ``feed`` takes the bytes as they came. Afterwards ``usage`` is the provider's own figure or ``None``;
    ``output_characters`` counts the text delivered so far (for an estimate when no usage arrives);
    ``is_complete`` says whether the protocol's own end was seen; ``error`` is set when the provider reported one
    inside the stream; ``provider_request_id`` is the id in the stream. Reading them may cost a look through the end of
    the stream: read them when it has ended, not with every chunk. ``is_in_event``: what has come ends within an event,
    so that nothing can be said behind it before that is ended.
    """

    @property
    def usage(self) -> Usage | None: ...

    @property
    def output_characters(self) -> int: ...

    @property
    def is_complete(self) -> bool: ...

    @property
    def error(self) -> str | None: ...

    @property
    def provider_request_id(self) -> str | None: ...

    @property
    def is_in_event(self) -> bool: ...

    def feed(self, data: bytes) -> None: ...


class StreamReader(Protocol):
    """Turns a provider's stream into events, for answers that have to be translated.

    ``feed`` returns the events that the bytes complete, in order. ``close`` is called at the end of the body and
    returns what is left; it raises UpstreamBroken when the protocol's own end is missing.
    """

    def feed(self, data: bytes) -> Sequence[Event]: ...

    def close(self) -> Sequence[Event]: ...


ErrorReader = Callable[[int, Mapping[str, str], bytes], ProviderRefused]


class ChatDialect(msgspec.Struct, frozen=True, kw_only=True):
    """Chat. ``wire_format`` equal to the endpoint's means: bytes pass through.

    ``request`` builds both plain and streamed calls (``call.stream``), and asks for usage in the stream where the
    provider has such a switch. ``read_usage`` looks into a whole answer without reading the rest of it.
    ``read_whole`` gives the events that a stream with the same content would have given.
    ``adds_usage_chunk``: a streamed ``request`` asks for usage also where the caller did not, so that the provider
    sends a chunk (without choices) that the caller did not ask for. ``takes_image_urls``: it fetches pictures in the
    conversation itself; where it does not, ``request`` wants them as data URIs.
    ``body``: makes the body of ``request``, where all else in the requests to one offer is the same for all plain calls
    and for all streamed ones. ``plain_writer`` gives what writes plain conversations for an offer, with what ``body``
    would say; None where that takes more than to leave out and to rename.
    """

    wire_format: str
    request: Callable[[ChatCall, Offer], UpstreamRequest]
    read_usage: Callable[[bytes], tuple[Usage | None, str | None]]
    read_whole: Callable[[bytes], Sequence[Event]]
    meter: Callable[[], StreamMeter]
    reader: Callable[[], StreamReader]
    adds_usage_chunk: bool = False
    takes_image_urls: bool = True
    body: Callable[[ChatCall, Offer], bytes] | None = None
    plain_writer: Callable[[Offer], PlainWriter | None] | None = None


class ImageDialect(msgspec.Struct, frozen=True, kw_only=True):
    """Pictures in one exchange. ``read`` raises ProviderRefused for a refusal that came as a 200."""

    request: Callable[[ImageCall, Offer], UpstreamRequest]
    read: Callable[[bytes], MediaResult]
    takes_image_urls: bool = True
    stream_meter: Callable[[], StreamMeter] | None = None


class VideoDialect(msgspec.Struct, frozen=True, kw_only=True):
    """Clips as jobs: submit, poll until final.

    There is no cancel, as no protocol here has one: Together, Runware and Google document neither that nor a delete,
    and OpenAI's ``DELETE`` is for a clip that is completed or failed. So a clip that nobody wants any more is made to
    its end, and is charged.
    ``names_job``: where a provider tells of a job's failure with an error status, whether such an answer (its JSON)
    speaks of this job; any other refused question says nothing about it.
    """

    submit: Callable[[VideoCall, Offer], UpstreamRequest]
    read_submit: Callable[[bytes], JobState]
    poll: Callable[[str, Offer], UpstreamRequest]
    read_poll: Callable[[bytes], JobState]
    takes_image_urls: bool = True
    names_job: Callable[[str, Mapping[str, object]], bool] | None = None


class SpeechDialect(msgspec.Struct, frozen=True, kw_only=True):
    """Speech as bytes. ``read_usage`` sees the answer's headers before the first byte is passed on."""

    request: Callable[[SpeechCall, Offer], UpstreamRequest]
    read_usage: Callable[[SpeechCall, Mapping[str, str]], Usage]
    media_type: Callable[[SpeechCall, Mapping[str, str]], str]


class TranscriptionDialect(msgspec.Struct, frozen=True, kw_only=True):
    """Text from sound, whole."""

    wire_format: str
    request: Callable[[TranscriptionCall, Offer], UpstreamRequest]
    read_usage: Callable[[TranscriptionCall, bytes], Usage]
    read_transcript: Callable[[TranscriptionCall, bytes], Transcript]


class EmbeddingDialect(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors, whole, passed through."""

    request: Callable[[EmbeddingCall, Offer], UpstreamRequest]
    read_usage: Callable[[bytes], Usage | None]


class ModerationDialect(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict, whole, passed through."""

    request: Callable[[ModerationCall, Offer], UpstreamRequest]
