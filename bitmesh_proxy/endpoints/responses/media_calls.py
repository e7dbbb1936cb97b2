"""From a request to a picture, clip or speech call: the text of the conversation, and all its media.

The prompt is every text that instructions, system and user say, in order, and what the assistant said in words (not its
captions of media). Every picture of the request is an input. Of the context (``previous_response_id``) the last media
that the assistant made are the inputs: they are what the next turn edits, and what came before them went into them.
What a model has no use for is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from bitmesh_proxy.calls import (
    Call,
    Frame,
    ImageCall,
    JsonObject,
    Media,
    Operation,
    SpeechCall,
    TranscriptionCall,
    VideoCall,
)
from bitmesh_proxy.endpoints.responses.chat_call import chat_call
from bitmesh_proxy.endpoints.responses.content import is_audio, is_media
from bitmesh_proxy.endpoints.responses.fields import Fields
from bitmesh_proxy.endpoints.responses.items import OUTPUTS
from bitmesh_proxy.endpoints.responses.request import ResponseRequest
from bitmesh_proxy.errors import InvalidRequest, UnsupportedParameter, UnsupportedValue

MAX_PROMPT_CHARACTERS: Final = 100_000


def call_for(request: ResponseRequest, operation: Operation, context: Sequence[JsonObject] = ()) -> Call:
    """The call that a model of this operation gets. ``context`` are the items before the request's own, resolved.

    Raises UnsupportedParameter or UnsupportedValue, naming what such a model cannot take.
    """
    make = _CALLS.get(operation)
    if make is None:
        raise UnsupportedValue(f"The model '{request.model}' is for {operation}, not for responses.", param="model")
    return make(request, context)


def _image_call(request: ResponseRequest, context: Sequence[JsonObject]) -> ImageCall:
    _refuse_for_media(request)
    _refuse(request, seconds=request.media.seconds)
    wishes, extras = request.media, Fields(request.extras)
    inputs = _inputs(request, context, kinds=("input_image",))
    masks = [part["image_url"] for part in inputs if part.get("mask")]
    mask = wishes.mask or next(iter(masks), None)
    return ImageCall(
        model=request.model,
        prompt=_prompt(request, context),
        count=wishes.count or 1,
        width=wishes.size[0] if wishes.size else None,
        height=wishes.size[1] if wishes.size else None,
        steps=extras.integer("steps", low=1),
        seed=extras.integer("seed", low=-(2**63)),
        quality=wishes.quality,
        images=tuple(Media(kind="image", url=part["image_url"]) for part in inputs if not part.get("mask")),
        mask=None if mask is None else Media(kind="image", url=mask),
        response_format=wishes.response_format,
        output_format=extras.string("output_format", max_characters=16),
        options=_others(request, without=("steps", "seed", "output_format")),
    )


def _video_call(request: ResponseRequest, context: Sequence[JsonObject]) -> VideoCall:
    _refuse_for_media(request)
    count = request.media.count
    _refuse(request, max_items=count if count != 1 else None, mask=request.media.mask)
    wishes, extras = request.media, Fields(request.extras)
    if wishes.response_format in ("b64_json", "b64_ephemeral"):
        raise UnsupportedValue("response_format: clips are answered as links ('url').", param="response_format")
    pictures = [
        Media(kind="image", url=part["image_url"]) for part in _inputs(request, context, kinds=("input_image",))
    ]
    return VideoCall(
        model=request.model,
        prompt=_prompt(request, context),
        width=wishes.size[0] if wishes.size else None,
        height=wishes.size[1] if wishes.size else None,
        seconds=wishes.seconds,
        quality=wishes.quality,
        fps=extras.integer("fps", low=1),
        steps=extras.integer("steps", low=1),
        seed=extras.integer("seed", low=-(2**63)),
        negative_prompt=extras.string("negative_prompt"),
        # One picture is what the clip begins with; several are what it is to look like.
        frames=(Frame(media=pictures[0], position="first"),) if len(pictures) == 1 else (),
        references=tuple(pictures) if len(pictures) > 1 else (),
        options=_others(request, without=("fps", "steps", "seed", "negative_prompt")),
    )


def _speech_call(request: ResponseRequest, context: Sequence[JsonObject]) -> SpeechCall:
    _refuse_for_media(request)
    wishes, extras = request.media, Fields(request.extras)
    count = wishes.count if wishes.count != 1 else None
    _refuse(
        request, max_items=count, size=wishes.size, quality=wishes.quality, seconds=wishes.seconds, mask=wishes.mask
    )
    _inputs(request, context, kinds=())
    audio = extras.object("audio") or extras
    speed = extras.number("speed", low=0.25, high=4)
    return SpeechCall(
        model=request.model,
        # What is spoken is this turn's text alone; instructions say how.
        text="\n\n".join(_texts(request.items)) or _no_text(request),
        voice=audio.string("voice", max_characters=128),
        output_format=audio.string("format", max_characters=16) or extras.string("output_format", max_characters=16),
        speed=None if speed is None else float(speed),
        instructions=request.instructions,
        options=_others(request, without=("audio", "voice", "format", "output_format", "speed")),
    )


def _transcription_call(request: ResponseRequest, context: Sequence[JsonObject]) -> TranscriptionCall:
    _refuse_for_media(request)
    wishes, extras = request.media, Fields(request.extras)
    count = wishes.count if wishes.count != 1 else None
    _refuse(
        request, max_items=count, size=wishes.size, quality=wishes.quality, seconds=wishes.seconds, mask=wishes.mask
    )
    sounds = _inputs(request, context, kinds=("audio",))
    if len(sounds) != 1:
        raise InvalidRequest(f"The model '{request.model}' takes exactly one sound.", param=request.input_name)
    return TranscriptionCall(
        model=request.model,
        audio=Media(
            kind="audio",
            url=sounds[0]["file_url"],
            media_type=sounds[0]["media_type"],
            name=sounds[0].get("filename"),
        ),
        language=extras.string("language", max_characters=16),
        prompt="\n\n".join(_texts(request.items)) or None,
        response_format="json",
        options=_others(request, without=("language",)),
    )


_CALLS: Final[Mapping[Operation, Callable[[ResponseRequest, Sequence[JsonObject]], Call]]] = {
    Operation.CHAT: chat_call,
    Operation.IMAGE: _image_call,
    Operation.VIDEO: _video_call,
    Operation.SPEECH: _speech_call,
    Operation.TRANSCRIPTION: _transcription_call,
}


def _refuse(request: ResponseRequest, **asked: object) -> None:
    for name, value in asked.items():
        if value is not None:
            raise UnsupportedParameter(f"The model '{request.model}' takes no '{name}'.", param=name)


def _refuse_for_media(request: ResponseRequest) -> None:
    """What only models of language can do anything with."""
    _refuse(
        request,
        tools=request.tool_use.tools or None,
        reasoning=request.effort or request.summary,
        max_output_tokens=request.max_output_tokens,
        top_logprobs=request.top_logprobs or None,
        include=request.include or None,
        **request.sampling,
    )
    if request.text_format["type"] != "text":
        raise UnsupportedParameter(f"The model '{request.model}' makes no JSON.", param="text.format")


def _inputs(request: ResponseRequest, context: Sequence[JsonObject], *, kinds: tuple[str, ...]) -> list[JsonObject]:
    """The media of the call. Raises UnsupportedParameter for a kind that is not one of ``kinds``."""
    parts = [*_last_made(context), *_media_of(request.items)]
    for part in parts:
        kind = "audio" if is_audio(part) else part["type"]
        if kind not in kinds:
            raise UnsupportedParameter(
                f"The model '{request.model}' takes no {_words_for(kind)} as input.", param=request.input_name
            )
    return parts


def _words_for(kind: str) -> str:
    return {"input_image": "images", "input_video": "videos", "audio": "audio"}.get(kind, "files")


def _media_of(items: Sequence[JsonObject]) -> Iterator[JsonObject]:
    for item in items:
        if item["type"] == "message":
            yield from (part for part in item["content"] if is_media(part))
        elif item["type"] in OUTPUTS and not isinstance(item["output"], str):
            yield from (part for part in item["output"] if is_media(part))


def _last_made(context: Sequence[JsonObject]) -> list[JsonObject]:
    """The media of the last messages of the assistant's that have any; without one, all that the context holds."""
    last = len(context)
    while last > 0 and not _has_made_media(context[last - 1]):
        last -= 1
    if last == 0:
        return list(_media_of(context))
    first = last
    while first > 0 and _has_made_media(context[first - 1]):
        first -= 1
    return list(_media_of(context[first:]))


def _has_made_media(item: JsonObject) -> bool:
    return item["type"] == "message" and item["role"] == "assistant" and any(is_media(part) for part in item["content"])


def _prompt(request: ResponseRequest, context: Sequence[JsonObject]) -> str:
    texts = [*_texts(context), *_texts(request.items)]
    if request.instructions:
        texts.insert(0, request.instructions)
    prompt = "\n\n".join(texts) or _no_text(request)
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(f"The text is longer than {MAX_PROMPT_CHARACTERS} characters.", param=request.input_name)
    return prompt


def _no_text(request: ResponseRequest) -> str:
    raise InvalidRequest(f"The model '{request.model}' needs a text to work from.", param=request.input_name)


def _texts(items: Sequence[JsonObject]) -> Iterator[str]:
    for item in items:
        if item["type"] != "message" or _has_made_media(item):
            continue
        text = "\n".join(part["text"] for part in item["content"] if part["type"] in ("input_text", "output_text"))
        if text.strip():
            yield text


def _others(request: ResponseRequest, *, without: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in request.extras.items() if name not in without}
