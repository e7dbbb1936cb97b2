"""The Bitmesh API: its requests, from JSON to calls, and its three endpoints. Pure. Answers: ``bitmesh_answers``.

Every constraint of every field of the Bitmesh documents is a row of a rule table below; the rules, their wording and
their order are Laravel's (see ``laravel``). Values arrive in calls the way the rules let them through: ``"5"`` for an
integer is 5. What no document names goes to the call's ``options``, and the dialects pass on what their provider knows.

The model rule: ``model`` is required, and prohibited for a key that is bound to one model.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import partial
from typing import Any, Final

from bitmesh_proxy.calls import ChatCall, Frame, ImageCall, JsonObject, Media, VideoCall
from bitmesh_proxy.context import Caller, Surface
from bitmesh_proxy.endpoints.bitmesh_answers import render_image
from bitmesh_proxy.endpoints.bitmesh_answers import render_job as render_job
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.endpoints.laravel import Rules, compile_rules
from bitmesh_proxy.endpoints.laravel_rules import Rule, is_filled, is_integer
from bitmesh_proxy.endpoints.openai_chat_answers import ChunkRenderer, render_chat
from bitmesh_proxy.endpoints.plain_chat import plain_chat

#: A side that an image request leaves out while it names the other: Together's default for both.
DEFAULT_SIDE_PIXELS: Final = 1024


def _is_content(value: Any) -> bool:
    return isinstance(value, str | list)


def _may_lack_content(message: Any) -> bool:
    """An assistant that only calls tools says nothing: OpenAI's format has ``content: null`` there."""
    return message.get("role") == "assistant" and (
        is_filled(message.get("tool_calls")) or is_filled(message.get("function_call"))
    )


def _is_frame(value: Any) -> bool:
    return value in ("first", "last") or (isinstance(value, str | int) and is_integer(value) and int(value) >= 0)


_CONTENT_REQUIRED: Final = Rule(
    name="required",
    passes=lambda value, message, _: is_filled(value) or (isinstance(message, dict) and _may_lack_content(message)),
    message="The :attribute field is required.",
    is_implicit=True,
)
_CONTENT: Final = Rule(
    name="content",
    passes=lambda value, *_: value is None or _is_content(value),
    message="The :attribute field must be a string.",
)
_FRAME_TYPE: Final = Rule(
    name="frame_type",
    passes=lambda value, *_: isinstance(value, str | int) and not isinstance(value, bool),
    message="The :attribute field must be a string.",
)
_FRAME: Final = Rule(
    name="frame",
    passes=lambda value, *_: _is_frame(value),
    message="The selected :attribute is invalid.",
    coerce=lambda value: value if value in ("first", "last") else int(value),
)
_LINK: Final = Rule(
    name="url",
    passes=lambda value, *_: isinstance(value, str) and value[:8].lower().startswith(("https://", "http://", "data:")),
    message="The :attribute field must be a valid URL.",
)

_CHAT: Final = {
    "messages": "required|array|min:1",
    "messages.*.role": "required|string|in:system,user,assistant,tool",
    "messages.*.content": (_CONTENT_REQUIRED, _CONTENT),
    "messages.*.content.*.type": "required|string",
    "max_tokens": "nullable|integer|min:1",
    "temperature": "nullable|numeric|between:0,2",
    "repetition_penalty": "nullable|numeric|min:0",
    "frequency_penalty": "nullable|numeric|between:-2,2",
    "presence_penalty": "nullable|numeric|between:-2,2",
    # In no Bitmesh document, but they say what a call may cost, so that they have to be numbers.
    "max_completion_tokens": "nullable|integer|min:1",
    "n": "nullable|integer|min:1",
    "stream": "nullable|boolean",
    "test": "nullable|boolean",
}
_IMAGE: Final = {
    "prompt": "required|string",
    "width": "nullable|integer|min:1",
    "height": "nullable|integer|min:1",
    "steps": "nullable|integer|min:1",
    "seed": "nullable|integer",
    "n": "nullable|integer|min:1",
    "reference_images": "nullable|array",
    "reference_images.*": ("required", "string", _LINK),
    "test": "nullable|boolean",
}
_VIDEO: Final = {
    "prompt": "required|string|min:1|max:32000",
    "width": "nullable|integer|min:1",
    "height": "nullable|integer|min:1",
    # A duration is priced, so that it has to be one: a positive decimal.
    "seconds": r"nullable|string|regex:^(?!0+(?:\.0+)?$)[0-9]{1,5}(?:\.[0-9]{1,3})?$",
    "fps": "nullable|integer|min:1",
    "steps": "nullable|integer|between:10,50",
    "seed": "nullable|integer",
    "guidance_scale": "nullable|numeric|min:0",
    "output_format": "nullable|string|in:MP4,WEBM",
    "output_quality": "nullable|integer|min:1",
    "negative_prompt": "nullable|string",
    "frame_images": "nullable|array",
    "frame_images.*.input_image": "required_with:frame_images|string",
    "frame_images.*.frame": ("required_with:frame_images", _FRAME_TYPE, _FRAME),
    "reference_images": "nullable|array",
    "reference_images.*": "required|string",
    "test": "nullable|boolean",
}


def _with_model_rule(fields: Mapping[str, Any]) -> tuple[Rules, Rules]:
    """The rules for a key that is not bound to a model, and for one that is."""
    return (
        compile_rules({"model": "required|string", **fields}),
        compile_rules({"model": "prohibited", **fields}),
    )


_CHAT_RULES: Final = _with_model_rule(_CHAT)
_IMAGE_RULES: Final = _with_model_rule(_IMAGE)
_VIDEO_RULES: Final = _with_model_rule(_VIDEO)


#: Named fields that the providers know by the same names.
_CHAT_OPTIONS: Final = (
    "max_tokens",
    "temperature",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "max_completion_tokens",
    "n",
)
# What does not go to the options: fields with a place of their own, and those that have no say.
_CHAT_NAMES: Final = frozenset(("model", *_CHAT))
_IMAGE_NAMES: Final = {"model", *_IMAGE, "quality", "output_format", "response_format", "stream"}
_VIDEO_NAMES: Final = {"model", *_VIDEO, "quality", "stream"}


def parse_chat(body: JsonObject, caller: Caller) -> ChatCall:
    """``POST /chat``. Raises ValidationFailed."""
    return plain_chat(body, caller.bound_model, without=_CHAT_NAMES) or parse_chat_by_rules(body, caller)


def parse_chat_by_rules(body: JsonObject, caller: Caller) -> ChatCall:
    """What ``parse_chat`` makes of a body that is not plainly good, and would make of one that is."""
    values, model = _check(body, caller, _CHAT_RULES)
    return ChatCall(
        model=model,
        messages=[
            _with_role(message, values[f"messages.{index}.role"]) for index, message in enumerate(body["messages"])
        ],
        options={
            **_others(body, without=_CHAT_NAMES),
            **{name: values[name] for name in _CHAT_OPTIONS if name in values},
        },
        stream=values.get("stream", False),
        test=values.get("test", False),
    )


def parse_image(body: JsonObject, caller: Caller) -> ImageCall:
    """``POST /image``. Raises ValidationFailed.

    The answer is always links, so that ``response_format`` and ``stream`` have no say; ``quality`` and
    ``output_format``, which a provider may know, are taken where they are strings.
    """
    values, model = _check(body, caller, _IMAGE_RULES)
    width, height = values.get("width"), values.get("height")
    if width or height:
        width, height = width or DEFAULT_SIDE_PIXELS, height or DEFAULT_SIDE_PIXELS
    return ImageCall(
        model=model,
        prompt=values["prompt"],
        count=values.get("n", 1),
        width=width,
        height=height,
        steps=values.get("steps"),
        seed=values.get("seed"),
        quality=_text_or_none(body, "quality"),
        output_format=_text_or_none(body, "output_format"),
        images=_references(values),
        response_format="url",
        options=_others(body, without=_IMAGE_NAMES),
        test=values.get("test", False),
    )


def parse_video(body: JsonObject, caller: Caller) -> VideoCall:
    """``POST /video``. Raises ValidationFailed."""
    values, model = _check(body, caller, _VIDEO_RULES)
    return VideoCall(
        model=model,
        prompt=values["prompt"],
        width=values.get("width"),
        height=values.get("height"),
        seconds=values.get("seconds"),
        fps=values.get("fps"),
        steps=values.get("steps"),
        seed=values.get("seed"),
        guidance_scale=values.get("guidance_scale"),
        output_format=values.get("output_format"),
        output_quality=values.get("output_quality"),
        negative_prompt=values.get("negative_prompt"),
        quality=_text_or_none(body, "quality"),
        frames=tuple(
            Frame(
                media=Media(kind="image", url=values[f"frame_images.{index}.input_image"]),
                position=values[f"frame_images.{index}.frame"],
            )
            for index in range(len(values.get("frame_images", ())))
        ),
        references=_references(values),
        options=_others(body, without=_VIDEO_NAMES),
        test=values.get("test", False),
    )


def _check(body: JsonObject, caller: Caller, rules: tuple[Rules, Rules]) -> tuple[dict[str, Any], str]:
    """The checked values and the model."""
    bound = caller.bound_model
    values = rules[bound is not None].check(body)
    return values, values["model"] if bound is None else bound


def _with_role(message: JsonObject, role: str) -> JsonObject:
    """The message as it came; its role without the blanks that the rules overlook."""
    return message if message["role"] == role else {**message, "role": role}


def _references(values: Mapping[str, Any]) -> tuple[Media, ...]:
    return tuple(
        Media(kind="image", url=values[f"reference_images.{index}"])
        for index in range(len(values.get("reference_images", ())))
    )


def _others(body: JsonObject, *, without: Container[str]) -> dict[str, Any]:
    """Every other field as it came; ``null`` says nothing and is left out."""
    return {name: value for name, value in body.items() if name not in without and value is not None}


def _text_or_none(body: JsonObject, name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) and value else None


CHAT: Final = Endpoint(
    name="chat",
    surface=Surface.BITMESH,
    parse=parse_chat,
    render_chat=render_chat,
    # Clients read the usage of every answer, streamed ones too.
    chunk_renderer=partial(ChunkRenderer, include_usage=True),
    takes_plain_chats=True,
)
IMAGE: Final = Endpoint(
    name="image",
    surface=Surface.BITMESH,
    parse=parse_image,
    render_media=render_image,
)
VIDEO: Final = Endpoint(
    name="video",
    surface=Surface.BITMESH,
    parse=parse_video,
    render_job=render_job,
)
