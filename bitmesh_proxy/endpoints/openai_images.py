"""OpenAI's ``images/generations`` and ``images/edits``: requests to calls, results to answers. Pure.

One reader for both routes, for JSON and for forms, and for what callers of the older gateway send (pictures in a
generation, links in ``image``). An answer carries ``b64_json`` and ``url`` when nobody asked for either: clients differ
in which of the two they cannot do without. ``latency`` (milliseconds) and ``cost`` (US dollars) stand beside OpenAI's
fields. Source: OpenAI's published API description of 2026-08-21.
"""

from __future__ import annotations

import base64
from typing import Any, Final, Literal

import orjson

from bitmesh_proxy.calls import ImageCall, JsonObject, Media, MediaOutput, Usage
from bitmesh_proxy.context import Caller, Surface
from bitmesh_proxy.endpoints.endpoint import Endpoint, MadePictures
from bitmesh_proxy.endpoints.openai_fields import (
    Fields,
    boolean,
    check_fields,
    integer,
    media_of,
    model_of,
    number,
    one_of,
    others,
    required,
    size_of,
    text,
)
from bitmesh_proxy.errors import InvalidRequest, MissingParameter
from bitmesh_proxy.money import usd_number

MAX_PROMPT_CHARACTERS: Final = 32_000

FIELDS: Final[Fields] = {
    "prompt": text(MAX_PROMPT_CHARACTERS),
    "n": integer(1, 10),
    "quality": one_of("auto", "low", "medium", "high", "standard", "hd"),
    "response_format": one_of("url", "b64_json", "b64_ephemeral"),
    "output_format": one_of("png", "jpeg", "jpg", "webp"),
    "output_compression": integer(0, 100),
    "background": one_of("auto", "transparent", "opaque"),
    "moderation": one_of("auto", "low"),
    "style": one_of("vivid", "natural"),
    "input_fidelity": one_of("high", "low"),
    "stream": boolean(),
    "partial_images": integer(0, 3),
    "seed": integer(),
    "steps": integer(1),
    "guidance_scale": number(0),
    "negative_prompt": text(MAX_PROMPT_CHARACTERS),
    "user": text(512),
}
#: Fields with a place of their own in a call.
_PLACED: Final = frozenset(
    {"model", "prompt", "n", "size", "quality", "response_format", "output_format", "stream", "seed", "steps", "test"}
    | {"image", "images", "mask"}
)
_ECHOED: Final = ("background", "output_format", "quality", "size")


def parse_generation(body: JsonObject, caller: Caller) -> ImageCall:
    """``POST images/generations``. Raises InvalidRequest."""
    return _parse(body, caller, needs_picture=False)


def parse_edit(body: JsonObject, caller: Caller) -> ImageCall:
    """``POST images/edits``: the same with at least one picture. Raises InvalidRequest."""
    return _parse(body, caller, needs_picture=True)


def _parse(body: JsonObject, caller: Caller, *, needs_picture: bool) -> ImageCall:
    model = model_of(body, caller)
    check_fields(body, FIELDS)
    images = _pictures(body)
    if needs_picture and not images:
        raise MissingParameter("Missing required parameter: 'image'.", param="image")
    # A picture may be all that a model needs (to remove its background); without one there must be words.
    prompt = body.get("prompt") or ("" if images else required(body, "prompt"))
    if not prompt and not images:
        raise InvalidRequest("Invalid 'prompt': expected a non-empty string.", param="prompt")
    mask = _mask(body)
    if mask is not None and not images:
        raise InvalidRequest("Invalid 'mask': there is no 'image' that it belongs to.", param="mask")
    width, height = size_of(body)
    asked: Literal["url", "b64_json", "b64_ephemeral"] | None = body.get("response_format")
    output_format = body.get("output_format")
    quality = body.get("quality")
    return ImageCall(
        model=model,
        prompt=prompt,
        count=body.get("n") or 1,
        width=width,
        height=height,
        steps=body.get("steps"),
        seed=body.get("seed"),
        quality=None if quality == "auto" else quality,
        images=images,
        mask=mask,
        response_format=asked or "b64_json",
        with_links=asked is None,
        output_format="jpeg" if output_format == "jpg" else output_format,
        options=others(body, _PLACED),
        stream=bool(body.get("stream")),
    )


def _pictures(body: JsonObject) -> tuple[Media, ...]:
    """``image`` (one or a list), then ``images``."""
    found: list[Media] = []
    for name in ("image", "images"):
        value = body.get(name)
        if value is not None:
            found += [media_of(each, param=name) for each in (value if isinstance(value, list) else [value])]
    return tuple(found)


def _mask(body: JsonObject) -> Media | None:
    value = body.get("mask")
    if isinstance(value, list):
        if len(value) != 1:
            raise InvalidRequest("Invalid 'mask': expected one picture.", param="mask")
        value = value[0]
    return None if value is None else media_of(value, param="mask")


def render(made: MadePictures) -> JsonObject:
    """The whole answer."""
    raw = made.result.raw or {}
    answer: dict[str, Any] = {
        "created": raw["created"] if isinstance(raw.get("created"), int) else int(made.context.received_at_s),
        "data": [_item(output, url) for output, url in zip(made.result.outputs, made.urls, strict=True)],
    }
    answer |= {name: raw[name] for name in _ECHOED if isinstance(raw.get(name), str)}
    usage = raw.get("usage")
    if isinstance(usage, dict) and "input_tokens" in usage:
        answer["usage"] = usage
    elif made.result.usage.input_tokens or made.result.usage.output_tokens:
        answer["usage"] = render_usage(made.result.usage)
    answer["latency"] = made.latency_ms
    answer["cost"] = usd_number(made.charge_nano_usd)
    return answer


def _item(output: MediaOutput, url: str | None) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if output.data is not None:
        item["b64_json"] = base64.b64encode(output.data).decode()
    if url is not None:
        item["url"] = url
    item["revised_prompt"] = output.revised_prompt
    return item


def render_events(made: MadePictures) -> bytes:
    """A finished answer as the stream that OpenAI would have sent: one event for each picture."""
    kind = "image_edit" if made.call.images else "image_generation"
    raw = made.result.raw or {}
    facts = {name: raw[name] for name in _ECHOED if isinstance(raw.get(name), str)}
    written = []
    for number_of, (output, url) in enumerate(zip(made.result.outputs, made.urls, strict=True)):
        event: dict[str, Any] = {"type": f"{kind}.completed", "created_at": int(made.context.received_at_s), **facts}
        event |= {name: value for name, value in _item(output, url).items() if value is not None}
        if number_of == 0:
            event["usage"] = render_usage(made.result.usage)
            event["cost"] = usd_number(made.charge_nano_usd)
        written.append(b"event: " + event["type"].encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n")
    return b"".join(written)


def render_usage(usage: Usage) -> JsonObject:
    """Tokens under OpenAI's names for pictures."""
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens_details": {
            "text_tokens": usage.input_tokens - usage.image_input_tokens,
            "image_tokens": usage.image_input_tokens,
        },
    }


GENERATIONS: Final = Endpoint(
    name="image",
    surface=Surface.OPENAI,
    parse=parse_generation,
    render_pictures=render,
    render_picture_events=render_events,
)
EDITS: Final = Endpoint(
    name="image_edit",
    surface=Surface.OPENAI,
    parse=parse_edit,
    render_pictures=render,
    render_picture_events=render_events,
)
