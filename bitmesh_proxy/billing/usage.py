"""How much a call may use at most, and how much it probably used, counted from the call itself.

The first is for the reservation and must not be too small; the second is for answers whose provider named no figures
(a stream that was cut) and should be about right, never zero. Both are estimates in the units that prices are made of;
what they cost is decided in ``pricing``. Nothing here looks into pictures, sounds or files; of files and sounds the
size counts.

Tokens of text: at least two UTF-8 bytes make one in any language that models are trained on, and about four do in
English (https://platform.openai.com/tokenizer, "one token generally corresponds to ~4 characters"; read 2026-08-20).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from bitmesh_proxy.calls import (
    Call,
    ChatCall,
    EmbeddingCall,
    ImageCall,
    ModerationCall,
    SpeechCall,
    TranscriptionCall,
    Usage,
    VideoCall,
)
from bitmesh_proxy.catalogue.offer import Offer

BYTES_PER_TOKEN_AT_LEAST = 2
BYTES_PER_TOKEN_USUALLY = 4
#: Role, separators and the like that a provider adds to each message, and once to the whole.
TOKENS_PER_MESSAGE = 8
#: A picture in a conversation. Providers' figures lie between 85 and 6,000; ``image_tokens_at_most`` in an offer's
#: options says it better.
IMAGE_TOKENS_AT_MOST = 6_000
IMAGE_TOKENS_USUALLY = 1_000
#: A file or sound in a conversation: one behind a link, or a small one, whose text may be packed.
#: ``file_tokens_at_most`` in an offer's options says it better. A page of text in a PDF comes to some 2,300 tokens at
#: Anthropic, to 4,600 at most (https://platform.claude.com/docs/build-with-claude/pdf-support).
FILE_TOKENS_AT_MOST = 100_000
#: Of larger ones, characters (base64 in the call) that make a token at least: pages of text take 5 KB each or more;
#: sounds and clips 32 and 300 tokens a second (https://ai.google.dev/gemini-api/docs/tokens), and 1 and 12 KB.
FILE_CHARACTERS_PER_TOKEN_AT_LEAST = 2
SOUND_CHARACTERS_PER_TOKEN_AT_LEAST = 40
#: More than fits into a model's window cannot be used. That of an offer that does not say how large it is.
WINDOW_TOKENS_AT_MOST = 1_050_000
FILE_TOKENS_USUALLY = 5_000
#: Size of a compressed sound per second at the lowest rate in use (8 kbit/s speech), and at a common one.
SOUND_BYTES_PER_SECOND_AT_LEAST = 1_000
SOUND_BYTES_PER_SECOND_USUALLY = 8_000
#: A sound behind a link, or one that says it is so long: the longest that the providers' interfaces take.
SOUND_SECONDS_AT_MOST = 4 * 3600
#: A clip whose length neither caller nor offer names.
CLIP_SECONDS_AT_MOST = 60
CLIP_SECONDS_USUALLY = 5

#: What of a call's options a model reads, and what bounds its answer.
_READ_BY_MODELS = ("tools", "functions", "response_format", "system")
_OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens")
PLAIN_NAMES_BYTES = len("role") + len("content")
_PICTURES = frozenset({"image_url", "input_image", "image"})
_PLAYED = frozenset({"input_audio", "video_url", "input_video"})
_FILES = frozenset({"file", "input_file", "document"}) | _PLAYED
_PLAYED_DATA = ("data:audio/", "data:video/")


class PromptSize(msgspec.Struct):
    """What a conversation consists of. ``text_bytes`` in UTF-8."""

    text_bytes: int = 0
    messages: int = 0
    pictures: int = 0
    #: What each file comes to at most, as far as its size can tell.
    files: list[int] = msgspec.field(default_factory=list)


class ChatBound(msgspec.Struct, frozen=True, gc=False):
    """What a conversation can use at most. Not a ``Usage``: it is made for every call before it is sent."""

    text_tokens: int
    image_tokens: int
    pictures: int
    output_tokens: int


def usage_bound(call: Call, offer: Offer, *, default_max_output_tokens: int) -> Usage:
    """More than this the call cannot use at this offer."""
    match call:
        case ChatCall():
            bound = chat_bound(call, offer, default_max_output_tokens=default_max_output_tokens)
            return Usage(
                input_tokens=bound.text_tokens + bound.image_tokens,
                image_input_tokens=bound.image_tokens,
                images=bound.pictures,
                output_tokens=bound.output_tokens,
            )
        case ImageCall():
            return Usage(images=call.count)
        case VideoCall():
            return Usage(duration_ms=_clip_ms(call, offer, unknown_s=_longest_clip_s(offer)))
        case SpeechCall():
            return Usage(characters=_characters(call))
        case TranscriptionCall():
            return Usage(duration_ms=_sound_ms_at_most(call))
        case EmbeddingCall() | ModerationCall():
            return Usage(input_tokens=_input_tokens(call, bytes_per_token=BYTES_PER_TOKEN_AT_LEAST))


def prompt_tokens_at_most(call: Call) -> int:
    """Of the words that go with a picture or a sound. Providers that count tokens count them too, beside what
    ``usage_bound`` says of such calls."""
    prompt = call.prompt if isinstance(call, ImageCall | TranscriptionCall) else None
    return -(-_utf8_length(prompt) // BYTES_PER_TOKEN_AT_LEAST) if prompt else 0


def chat_bound(
    call: ChatCall, offer: Offer, *, default_max_output_tokens: int, size: PromptSize | None = None
) -> ChatBound:
    """``usage_bound`` of a conversation, whose ``size`` may have been counted before."""
    if size is None:
        size = prompt_size(call)
    text_tokens = _tokens_at_most(size)
    output_tokens = max_output_tokens(call, offer, default_max_output_tokens)
    if "prediction" in call.options:
        output_tokens += _predicted_tokens(call)
    if "n" in call.options:
        output_tokens *= _choices(call)
    if not size.pictures and not size.files:
        return ChatBound(text_tokens, 0, 0, output_tokens)
    return ChatBound(
        text_tokens + _file_tokens_at_most(size.files, offer),
        size.pictures * _image_tokens_at_most(offer),
        size.pictures,
        output_tokens,
    )


def usage_delivered(call: Call, offer: Offer, *, output_characters: int) -> Usage:
    """What a call used that was sent, and of which so much text was delivered, as far as we can tell. Never nothing."""
    match call:
        case ChatCall():
            size = prompt_size(call)
            image_tokens = size.pictures * IMAGE_TOKENS_USUALLY
            return Usage(
                input_tokens=_tokens_usually(size) + image_tokens + len(size.files) * FILE_TOKENS_USUALLY,
                image_input_tokens=image_tokens,
                output_tokens=tokens_of(output_characters),
                is_estimated=True,
            )
        case ImageCall():
            return Usage(images=call.count, is_estimated=True)
        case VideoCall():
            return Usage(duration_ms=_clip_ms(call, offer, unknown_s=CLIP_SECONDS_USUALLY), is_estimated=True)
        case SpeechCall():
            return Usage(characters=_characters(call), is_estimated=True)
        case TranscriptionCall():
            duration_ms = _known_sound_ms(call) or _sound_ms(
                call, bytes_per_second=SOUND_BYTES_PER_SECOND_USUALLY, unknown_s=CLIP_SECONDS_USUALLY
            )
            return Usage(duration_ms=duration_ms, is_estimated=True)
        case EmbeddingCall() | ModerationCall():
            return Usage(input_tokens=_input_tokens(call, bytes_per_token=BYTES_PER_TOKEN_USUALLY), is_estimated=True)


def complete_usage(usage: Usage | None, call: Call, offer: Offer, *, output_characters: int) -> Usage:
    """A provider's figures, with what they do not say filled in by ``usage_delivered`` (and marked as estimated)."""
    if usage is None:
        return usage_delivered(call, offer, output_characters=output_characters)
    if usage.reported_cost_nano_usd is not None:
        return usage
    if (usage.input_tokens or usage.output_tokens) and offer.price.counts_tokens:
        match call:
            case ChatCall():
                return _complete_tokens(usage, call, offer, output_characters)
            case ImageCall():
                usage = _complete_picture_tokens(usage, call, offer)
                if usage.output_tokens or usage.input_tokens:
                    return usage
            case EmbeddingCall() | ModerationCall() if not usage.input_tokens:
                pass
            case _:
                return usage
    match call:
        case ImageCall() if usage.images:
            return usage
        case VideoCall() | TranscriptionCall() if usage.duration_ms:
            return usage
        case SpeechCall() if usage.characters:
            return usage
    guessed = usage_delivered(call, offer, output_characters=output_characters)
    return replace(
        guessed,
        input_tokens=usage.input_tokens or guessed.input_tokens,
        output_tokens=usage.output_tokens or guessed.output_tokens,
    )


def _complete_tokens(usage: Usage, call: ChatCall, offer: Offer, output_characters: int) -> Usage:
    """Of a conversation one count of the two may be missing, or have been none that can be read: no prompt is of 0
    tokens, and no text either."""
    if usage.input_tokens and (usage.output_tokens or not output_characters):
        return usage
    guessed = usage_delivered(call, offer, output_characters=output_characters)
    if usage.input_tokens:
        return replace(usage, output_tokens=guessed.output_tokens, is_estimated=True)
    return replace(
        usage,
        input_tokens=max(guessed.input_tokens, usage.cached_input_tokens + usage.cache_write_tokens),
        image_input_tokens=usage.image_input_tokens or guessed.image_input_tokens,
        is_estimated=True,
    )


def _complete_picture_tokens(usage: Usage, call: ImageCall, offer: Offer) -> Usage:
    """Of pictures without a count of their own tokens, where those are priced, no tokens are known: their number is
    what can be billed. The tokens of what they were made from can be guessed."""
    if not usage.output_tokens and offer.price.dearest_output_nano_usd_per_million:
        return Usage(images=usage.images or call.count, is_estimated=True)
    if usage.input_tokens:
        return usage
    image_tokens = len(call.images) * IMAGE_TOKENS_USUALLY
    text_tokens = -(-_utf8_length(call.prompt) // BYTES_PER_TOKEN_USUALLY)
    return replace(usage, input_tokens=text_tokens + image_tokens, image_input_tokens=image_tokens, is_estimated=True)


def tokens_of(characters: int) -> int:
    """About how many tokens a text of so many characters is, rounded up."""
    return -(-characters // BYTES_PER_TOKEN_USUALLY)


def prompt_size(call: ChatCall) -> PromptSize:
    """Count a conversation, with everything else in the call that a model reads (tools, schemas)."""
    text_bytes = plain_text_bytes(call)
    if text_bytes is not None:
        return PromptSize(text_bytes, 1 + len(call.messages))
    size = PromptSize(messages=1 + len(call.messages))
    _add(call.messages, size)
    for name in _READ_BY_MODELS:
        if name in call.options:
            _add(call.options[name], size)
    return size


def plain_text_bytes(call: ChatCall) -> int | None:
    """What a model reads of a conversation that is nothing but roles and texts, as most are; None for any other."""
    options = call.options
    for name in _READ_BY_MODELS:
        if name in options:
            return None
    text_bytes = 0
    for message in call.messages:
        if type(message) is not dict or len(message) != 2:
            return None
        role, content = message.get("role"), message.get("content")
        if type(role) is not str or type(content) is not str:
            return None
        text_bytes += PLAIN_NAMES_BYTES
        text_bytes += len(role) if role.isascii() else _utf8_length(role)
        text_bytes += len(content) if content.isascii() else _utf8_length(content)
    return text_bytes


def max_output_tokens(call: ChatCall, offer: Offer, default: int) -> int:
    """The most that one answer may be: as the caller says, else as the model can, else ``default``.

    Of two limits the higher one counts: providers heed this one or that.
    """
    most, options, limit = offer.max_output_tokens, call.options, 0
    for name in _OUTPUT_LIMITS:
        if name in options:
            asked = options[name]
            if isinstance(asked, int) and not isinstance(asked, bool) and asked > limit:
                limit = asked
    if limit and (most is None or limit < most):
        return limit
    return default if most is None else most


def _add(value: Any, size: PromptSize) -> None:
    # Tools are thousands of small values: what is usual is told by its very type, and nothing calls itself.
    text_bytes = 0
    waiting = [value]
    while waiting:
        each = waiting.pop()
        is_what = type(each)
        if is_what is str or isinstance(each, str):
            text_bytes += len(each) if each.isascii() else _utf8_length(each)
        elif is_what is dict or isinstance(each, Mapping):
            kind = each.get("type")
            if type(kind) is str and kind in _PICTURES:
                size.pictures += 1
            elif type(kind) is str and kind in _FILES:
                size.files.append(_tokens_by_size(each, is_played=kind in _PLAYED))
            else:
                text_bytes += len("".join(each))  # the names
                waiting += each.values()
        elif is_what is list or isinstance(each, list | tuple):
            waiting += each
        else:
            text_bytes += 8  # a number or a word such as true
    size.text_bytes += text_bytes


def _utf8_length(text: str) -> int:
    # A lone surrogate cannot be sent to a provider, but must not break the count either.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _tokens_at_most(size: PromptSize) -> int:
    return size.messages * TOKENS_PER_MESSAGE - (-size.text_bytes // BYTES_PER_TOKEN_AT_LEAST)


def _tokens_usually(size: PromptSize) -> int:
    return size.messages - (-size.text_bytes // BYTES_PER_TOKEN_USUALLY)


def _image_tokens_at_most(offer: Offer) -> int:
    known = offer.options.get("image_tokens_at_most")
    return known if isinstance(known, int) else IMAGE_TOKENS_AT_MOST


def _file_tokens_at_most(files: list[int], offer: Offer) -> int:
    """Of files that come to so much each by their size."""
    known = offer.options.get("file_tokens_at_most")
    least = known if isinstance(known, int) else FILE_TOKENS_AT_MOST
    return min(sum(max(least, each) for each in files), offer.context_tokens or WINDOW_TOKENS_AT_MOST)


def _tokens_by_size(part: Mapping[str, Any], *, is_played: bool) -> int:
    """What a file with all that stands beside it comes to at most; next to nothing where it is but a link."""
    texts = list(_texts(part))
    largest = max(texts, key=len, default="")
    is_sound = is_played or largest.startswith(_PLAYED_DATA)
    per_token = SOUND_CHARACTERS_PER_TOKEN_AT_LEAST if is_sound else FILE_CHARACTERS_PER_TOKEN_AT_LEAST
    return sum(map(_utf8_length, texts)) // per_token


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _predicted_tokens(call: ChatCall) -> int:
    """What a caller expects to be answered. What of it is not is billed as an answer too, and no limit of the answer
    bounds it ("rejected_prediction_tokens" in OpenAI's published API description of 2026-08-21)."""
    size = PromptSize()
    _add(call.options["prediction"], size)
    return -(-size.text_bytes // BYTES_PER_TOKEN_AT_LEAST)


def _choices(call: ChatCall) -> int:
    asked = call.options.get("n")
    return asked if isinstance(asked, int) and not isinstance(asked, bool) and asked > 1 else 1


def _longest_clip_s(offer: Offer) -> int:
    abilities = offer.abilities
    return max((*abilities.seconds, abilities.max_seconds or 0, offer.default_seconds or 0)) or CLIP_SECONDS_AT_MOST


def _clip_ms(call: VideoCall, offer: Offer, *, unknown_s: int) -> int:
    seconds = offer.seconds_for(call.seconds)
    return unknown_s * 1000 if seconds is None else -int(-seconds * 1000 // 1)


def _characters(call: SpeechCall) -> int:
    return len(call.text) + len(call.instructions or "")


def _sound_ms_at_most(call: TranscriptionCall) -> int:
    """Rather too long than as it was measured: some providers count tokens or whole seconds. Silence takes far less
    than ``SOUND_BYTES_PER_SECOND_AT_LEAST``, so what a sound says of itself counts too, as far as anybody takes sounds.
    """
    by_size_ms = _sound_ms(
        call,
        bytes_per_second=SOUND_BYTES_PER_SECOND_AT_LEAST,
        unknown_s=0 if call.duration_s else SOUND_SECONDS_AT_MOST,
    )
    claimed_ms = int(min(call.claimed_s or 0, SOUND_SECONDS_AT_MOST) * 1000)
    return max(_known_sound_ms(call), by_size_ms, claimed_ms)


def _known_sound_ms(call: TranscriptionCall) -> int:
    return -int(-(call.duration_s or 0) * 1000 // 1)


def _sound_ms(call: TranscriptionCall, *, bytes_per_second: int, unknown_s: int) -> int:
    if call.audio.data is not None:
        return max(1000, len(call.audio.data) * 1000 // bytes_per_second)
    return unknown_s * 1000


def _are_tokens(inputs: Iterable[Any]) -> bool:
    return set(map(type, inputs)) <= {int}


def _input_tokens(call: EmbeddingCall | ModerationCall, *, bytes_per_token: int) -> int:
    """Texts by their bytes, lists of tokens by their length, pictures by a fixed bound."""
    inputs = call.inputs
    if inputs and _are_tokens(inputs):
        return len(inputs)
    tokens = 0
    for each in inputs:
        if isinstance(each, list | tuple) and _are_tokens(each):
            tokens += len(each)
            continue
        size = PromptSize()
        _add(each, size)
        tokens += TOKENS_PER_MESSAGE - (-size.text_bytes // bytes_per_token) + size.pictures * IMAGE_TOKENS_AT_MOST
    return tokens
