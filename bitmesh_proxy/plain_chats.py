"""Plain conversations as JSON: nothing but roles, texts and a few figures, as nine of ten chat calls are.

OpenAI's protocol has the same words for such a call on its way in and on its way out, so one typed pass reads and
checks it, and what was read is written again with little changed. It is plain only to the letter: one field that is not
named here, one null, one figure out of its range or of another type, and it is not. Then the endpoint's rules are the
judge; here is neither a refusal nor a conversion.

What stands here is good by the rules of every endpoint with ``takes_plain_chats``: a range is the narrowest of theirs.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

#: How deep the JSON of a plain conversation is: the body, its messages, a message.
PLAIN_DEPTH: Final = 3
_MAX_INTEGER: Final = 2**63 - 1

# The annotations are evaluated when the decoder is made, so these are no types for the type checker alone.
_Count = Annotated[int, Meta(ge=1, le=_MAX_INTEGER)]
_Share = Annotated[int, Meta(ge=0, le=1)] | Annotated[float, Meta(ge=0, le=1)]
_Warmth = Annotated[int, Meta(ge=0, le=2)] | Annotated[float, Meta(ge=0, le=2)]
_Penalty = Annotated[int, Meta(ge=-2, le=2)] | Annotated[float, Meta(ge=-2, le=2)]
_Factor = Annotated[int, Meta(ge=0, le=_MAX_INTEGER)] | Annotated[float, Meta(ge=0)]


# No garbage collection for these: they hold nothing that could lead back to them.
class PlainMessage(Struct, forbid_unknown_fields=True, gc=False):
    """A role and a text."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class StreamOptions(Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """Does the caller want the usage at the end of a stream?"""

    include_usage: bool | UnsetType = UNSET


class PlainChat(Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """A plain conversation. What is ``UNSET`` was not sent, and is not written.

    The fields behind ``test`` are a call's options (``PLAIN_OPTIONS``), in the order in which they are written.
    """

    model: str | UnsetType = UNSET
    messages: Annotated[list[PlainMessage], Meta(min_length=1, max_length=1_000)]
    stream: bool | UnsetType = UNSET
    stream_options: StreamOptions | UnsetType = UNSET
    test: bool | UnsetType = UNSET
    max_tokens: _Count | UnsetType = UNSET
    temperature: _Warmth | UnsetType = UNSET
    top_p: _Share | UnsetType = UNSET
    max_completion_tokens: _Count | UnsetType = UNSET
    repetition_penalty: _Factor | UnsetType = UNSET
    frequency_penalty: _Penalty | UnsetType = UNSET
    presence_penalty: _Penalty | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=-_MAX_INTEGER, le=_MAX_INTEGER)] | UnsetType = UNSET
    user: str | UnsetType = UNSET


PLAIN_OPTIONS: Final = PlainChat.__struct_fields__[5:]
_WITH_USAGE: Final = StreamOptions(include_usage=True)
_encode: Final = msgspec.json.Encoder().encode

NOT_PLAIN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
#: Reads a body. Raises ``NOT_PLAIN`` for any other. No text is passed over unread, so that all of it is UTF-8.
read_plain_chat: Final = msgspec.json.Decoder(PlainChat).decode


#: More tokens than any call has. A server's -1 as an unsigned number is more, and sums of millions of calls must stay
#: numbers of the database.
MAX_TOKENS: Final = 2**40
_Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]


class _InputDetails(Struct, forbid_unknown_fields=True, gc=False):
    cached_tokens: _Tokens = 0
    audio_tokens: _Tokens = 0


class _OutputDetails(Struct, forbid_unknown_fields=True, gc=False):
    reasoning_tokens: _Tokens = 0
    audio_tokens: _Tokens = 0
    accepted_prediction_tokens: _Tokens = 0
    rejected_prediction_tokens: _Tokens = 0


class PlainUsage(Struct, forbid_unknown_fields=True, gc=False):
    """What a whole answer has used, where nothing but tokens is named."""

    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    total_tokens: _Tokens = 0
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class PlainAnswer(Struct, gc=False):
    """What the books want of a whole answer with plain usage. All else in it is passed over."""

    id: str
    usage: PlainUsage


_read_answer: Final = msgspec.json.Decoder(PlainAnswer).decode
#: Reads plain usage alone. Raises ``NOT_PLAIN`` for any other.
read_plain_usage: Final = msgspec.json.Decoder(PlainUsage).decode


def read_plain_answer(body: bytes) -> PlainAnswer:
    """Raises ``NOT_PLAIN`` for any other answer, and for what is no JSON."""
    answer = _read_answer(body)
    if not body.isascii():
        body.decode()  # in what is passed over, the decoder does not look for it
    return answer


class PlainWriter(Struct, frozen=True, gc=False):
    """Writes plain conversations as a provider wants them; most of its offers have the same.

    ``changes`` are options that do not go on as they came: each with the name that the provider has for it (which wins
    if it was sent, too), or None if it knows none. ``asks_for_usage``: a stream has to be asked for its usage.
    """

    changes: tuple[tuple[str, str | None], ...]
    asks_for_usage: bool

    def write(self, chat: PlainChat, upstream_model: str) -> bytes:
        """The body of a request. ``chat`` is used up by this."""
        chat.model = upstream_model
        chat.test = UNSET
        if chat.stream is True:
            chat.stream_options = _WITH_USAGE if self.asks_for_usage else UNSET
        else:
            chat.stream = chat.stream_options = UNSET
        for name, target in self.changes:
            value = getattr(chat, name)
            if value is not UNSET:
                setattr(chat, name, UNSET)
                if target is not None and getattr(chat, target) is UNSET:
                    setattr(chat, target, value)
        return _encode(chat)
