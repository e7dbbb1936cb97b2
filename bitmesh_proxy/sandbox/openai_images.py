"""OpenAI's pictures: ``/v1/images/generations`` and ``/v1/images/edits`` (form or JSON), whole or in partial pictures.

GPT image models always answer base64 with token usage and refuse ``response_format``; DALL·E models answer links
unless asked otherwise, without usage. Sizes are refused where the model's own list is closed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from bitmesh_proxy.sandbox.files import pad
from bitmesh_proxy.sandbox.inputs import read_size, read_thumbnail
from bitmesh_proxy.sandbox.pictures import Picture, PictureFormat
from bitmesh_proxy.sandbox.plays import Ask, Refused
from bitmesh_proxy.sandbox.replies import Event, json_event, send_events, send_json
from bitmesh_proxy.sandbox.shelf import ShelvedFile
from bitmesh_proxy.sandbox.words import count_tokens

SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
SIZES: Mapping[str, tuple[str, ...]] = {
    "dall-e-2": ("256x256", "512x512", "1024x1024"),
    "dall-e-3": ("1024x1024", "1792x1024", "1024x1792"),
    "gpt-image-1": ("1024x1024", "1536x1024", "1024x1536"),
    "gpt-image-1-mini": ("1024x1024", "1536x1024", "1024x1536"),
    "gpt-image-1.5": ("1024x1024", "1536x1024", "1024x1536"),
}
DEFAULT_SIZE = "1024x1024"
#: Tokens for a square of 1024; other sizes cost by their area.
OUTPUT_TOKENS: Mapping[str, int] = {"low": 272, "medium": 1056, "high": 4160}
TOKENS_PER_SOURCE = 323


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was ordered, read once. ``quality`` is never ``auto`` here."""

    model: str
    recipe: Picture
    count: int
    quality: str
    background: str
    source_count: int
    is_edit: bool

    @property
    def is_gpt(self) -> bool:
        return "gpt-image" in self.model

    @property
    def size(self) -> str:
        return f"{self.recipe.width}x{self.recipe.height}"


async def generate(ask: Ask) -> web.StreamResponse:
    return await _fulfil(ask, _order(ask, default_model="dall-e-2"))


async def edit(ask: Ask) -> web.StreamResponse:
    sources = _sources(ask)
    order = _order(ask, default_model="gpt-image-1.5")
    thumbnails = [await read_thumbnail(source, param="image") for source in sources]
    await _check_mask(ask, sources[0])
    recipe = replace(order.recipe, source=thumbnails[0])
    return await _fulfil(ask, replace(order, recipe=recipe, source_count=len(sources), is_edit=True))


def _sources(ask: Ask) -> list[str | bytes]:
    """What is to be edited: addresses (JSON) or bytes (form). Raises Refused for a file id: there are no files."""
    if uploads := ask.files.get("image"):
        return [upload.data for upload in uploads]
    references = ask.body.get("images")
    if not references:
        raise Refused(400, "Missing required parameter: 'image'.", code="missing_required_parameter", param="image")
    return [_address(reference, "images") for reference in references]


def _address(reference: Mapping[str, Any], param: str) -> str:
    if "image_url" not in reference:
        raise Refused(404, f"No such File object: {reference['file_id']}", param=param)
    return str(reference["image_url"])


async def _check_mask(ask: Ask, source: str | bytes) -> None:
    mask: str | bytes | None = None
    if uploads := ask.files.get("mask"):
        mask = uploads[0].data
    elif (reference := ask.body.get("mask")) is not None:
        mask = _address(reference, "mask")
    if mask is None:
        return
    mask_size, size = await read_size(mask, param="mask"), await read_size(source, param="image")
    if mask_size is not None and size is not None and mask_size != size:
        message = "Invalid mask image format - mask size does not match image size"
        raise Refused(400, message, code="invalid_image_format", param="mask")


def _order(ask: Ask, *, default_model: str) -> Order:
    body = ask.body
    model = body.get("model") or default_model
    width, height = _read_pixels(ask, model)
    quality = body.get("quality") or "auto"
    form: PictureFormat = body.get("output_format") or "png"
    background = body.get("background") or "auto"
    if background == "transparent" and form == "jpeg":
        raise Refused(400, "Transparent background is not supported for JPEG output.", param="background")
    recipe = Picture(
        prompt=ask.prompt,
        width=width,
        height=height,
        seed=ask.stage.rng.getrandbits(31),
        format=form,
        note=f"{model} {width}x{height}",
        is_transparent=background == "transparent",
    )
    order = Order(
        model=model,
        recipe=recipe,
        count=body.get("n") or 1,
        quality=quality if quality in OUTPUT_TOKENS else "medium",
        background="transparent" if background == "transparent" else "opaque",
        source_count=0,
        is_edit=False,
    )
    _refuse_foreign_fields(order, body)
    return order


def _refuse_foreign_fields(order: Order, body: Mapping[str, Any]) -> None:
    only_gpt = ("background", "output_format", "output_compression", "moderation", "stream", "partial_images")
    foreign = ("response_format", "style") if order.is_gpt else only_gpt if order.model.startswith("dall-e") else ()
    for name in foreign:
        if body.get(name) is not None:
            raise Refused(400, f"Unknown parameter: '{name}'.", code="unknown_parameter", param=name)


def _read_pixels(ask: Ask, model: str) -> tuple[int, int]:
    size = ask.body.get("size") or "auto"
    size = DEFAULT_SIZE if size == "auto" else size
    match = SIZE.fullmatch(size)
    allowed = SIZES.get(model)
    if match is None or (allowed is not None and size not in allowed):
        known = ", ".join(f"'{name}'" for name in allowed or ("WIDTHxHEIGHT", "auto"))
        message = f"Invalid value: '{size}'. Supported values are: {known}."
        raise Refused(400, message, code="invalid_value", param="size")
    width, height = int(match[1]), int(match[2])
    if width * height > ask.stage.options.max_picture_pixels:
        raise Refused(400, f"Requested resolution {size} exceeds the pixel budget.", code="invalid_value", param="size")
    return width, height


async def _fulfil(ask: Ask, order: Order) -> web.StreamResponse:
    if ask.body.get("stream"):
        return await send_events(ask, _events(ask, order), broken=_broken())
    recipes = [replace(order.recipe, seed=order.recipe.seed + number) for number in range(order.count)]
    body: dict[str, Any] = {"created": ask.stage.now()}
    if order.is_gpt:
        body |= {
            "background": order.background,
            "output_format": order.recipe.format,
            "quality": order.quality,
            "size": order.size,
        }
    as_link = not order.is_gpt and (ask.body.get("response_format") or "url") == "url"
    body["data"] = [_link(ask, recipe) if as_link else await _inline(ask, recipe) for recipe in recipes]
    if order.is_gpt and not ask.directives.no_usage:
        body["usage"] = _usage(ask, order)
    return await send_json(ask, body)


async def _inline(ask: Ask, recipe: Picture) -> dict[str, Any]:
    return {"b64_json": await _encoded(ask, recipe)}


async def _encoded(ask: Ask, recipe: Picture) -> str:
    data = await ask.stage.studio.render(recipe)
    return base64.b64encode(pad(data, recipe.media_type, ask.directives.huge).whole()).decode()


def _link(ask: Ask, recipe: Picture) -> dict[str, Any]:
    file_id = f"img-{ask.stage.new_id(24)}"
    expires_at = ask.stage.clock() + ask.stage.options.image_link_lifetime_s
    ask.stage.shelf.put(file_id, ShelvedFile(recipe=recipe, expires_at=expires_at, huge=ask.directives.huge))
    return {"url": f"{ask.origin}/openai/files/{file_id}.{recipe.extension}", "revised_prompt": ask.prompt}


def _usage(ask: Ask, order: Order) -> dict[str, Any]:
    text, pictures = count_tokens(ask.prompt), TOKENS_PER_SOURCE * order.source_count
    area = order.recipe.width * order.recipe.height / 1024**2
    output = round(OUTPUT_TOKENS[order.quality] * area) * order.count
    return {
        "input_tokens": text + pictures,
        "input_tokens_details": {"text_tokens": text, "image_tokens": pictures},
        "output_tokens": output,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": output},
        "total_tokens": text + pictures + output,
    }


async def _events(ask: Ask, order: Order) -> AsyncIterator[Event]:
    """Blurred pictures that grow clear, then the picture with its usage."""
    kind = "image_edit" if order.is_edit else "image_generation"
    facts = {
        "created_at": ask.stage.now(),
        "size": order.size,
        "quality": order.quality,
        "background": order.background,
        "output_format": order.recipe.format,
    }
    partial_count = ask.body.get("partial_images") or 0
    for number in range(partial_count):
        partial = replace(order.recipe, detail=(number + 1) / (partial_count + 1))
        name = f"{kind}.partial_image"
        body = {"type": name, "b64_json": await _encoded(ask, partial), "partial_image_index": number, **facts}
        yield json_event(body, name=name)
    name = f"{kind}.completed"
    completed = {"type": name, "b64_json": await _encoded(ask, order.recipe), **facts}
    if not ask.directives.no_usage:
        completed["usage"] = _usage(ask, order)
    yield json_event(completed, name=name)


def _broken() -> Event:
    error = {"type": "server_error", "code": "server_error", "message": "The server had an error.", "param": None}
    return json_event({"type": "error", "error": error}, name="error")
