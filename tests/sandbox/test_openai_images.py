"""OpenAI's pictures: whole, streamed, edited, and what its models refuse."""

from __future__ import annotations

import base64
import io
from typing import Any

import aiohttp
import pytest
from PIL import Image

from bitmesh_proxy.sandbox.pictures import Picture
from tests.sandbox.callers import Answer, Caller, assert_published

PNG = Picture(prompt="x", width=16, height=16).render()
URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
GPT = "gpt-image-2"  # its list of sizes is open, so small pictures do


async def generate(caller: Caller, **more: Any) -> Answer:
    return await caller.post(
        "/openai/v1/images/generations", {"model": GPT, "prompt": "a red fox", "size": "32x48", **more}
    )


def opened(encoded: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    image.load()
    return image


@pytest.mark.parametrize(("form", "name"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
async def test_gpt_models_answer_base64_with_usage(caller: Caller, form: str, name: str) -> None:
    answer = await generate(caller, output_format=form, n=2)
    images = [opened(item["b64_json"]) for item in answer.json["data"]]
    assert [(image.format, image.size) for image in images] == [(name, (32, 48))] * 2
    assert images[0].tobytes() != images[1].tobytes()
    facts = {key: answer.json[key] for key in ("output_format", "quality", "size", "background")}
    assert facts == {"output_format": form, "quality": "medium", "size": "32x48", "background": "opaque"}


async def test_usage_goes_by_quality_area_and_number(caller: Caller) -> None:
    async def output_tokens(**more: Any) -> int:
        answer = await generate(caller, model="gpt-image-1.5", size="1024x1024", **more)
        assert_published("openai", "image", answer.json)
        usage = answer.json["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert usage["input_tokens"] == usage["input_tokens_details"]["text_tokens"] == 3
        return int(usage["output_tokens"])

    assert [await output_tokens(quality=quality) for quality in ("low", "high", "auto")] == [272, 4160, 1056]
    assert await output_tokens(quality="low", n=2) == 544
    assert "usage" not in (await generate(caller, prompt="[[sandbox: no_usage]]")).json


async def test_a_clear_background(caller: Caller) -> None:
    answer = await generate(caller, background="transparent")
    assert answer.json["background"] == "transparent"
    assert opened(answer.json["data"][0]["b64_json"]).mode == "RGBA"
    answer = await generate(caller, background="transparent", output_format="jpeg")
    assert (answer.status, answer.error["param"]) == (400, "background")


async def test_dall_e_answers_links_unless_told(caller: Caller) -> None:
    answer = await generate(caller, model="dall-e-2", size="256x256")
    assert_published("openai", "image", answer.json)
    item = answer.json["data"][0]
    assert (item["revised_prompt"], "usage" in answer.json) == ("a red fox", False)
    assert item["url"].startswith(f"{caller.sandbox.url}/openai/files/img-")
    file = await caller.get(item["url"], headers={"Authorization": ""})
    assert (file.status, file.headers["Content-Type"]) == (200, "image/png")
    caller.clock.now_s += 3600
    assert (await caller.get(item["url"])).status == 403
    answer = await generate(caller, model="dall-e-2", size="256x256", response_format="b64_json")
    assert opened(answer.json["data"][0]["b64_json"]).size == (256, 256)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"response_format": "url"}, "response_format"),
        ({"style": "vivid"}, "style"),
        ({"model": "dall-e-3", "size": "1024x1024", "output_format": "png"}, "output_format"),
        ({"model": "dall-e-3", "size": "512x512"}, "size"),
        ({"model": "gpt-image-1.5", "size": "32x48"}, "size"),
        ({"size": "big"}, "size"),
        ({"size": "0x5"}, "size"),
        ({"size": "99999x99999"}, "size"),
        ({"n": 11}, "n"),
    ],
)
async def test_what_a_model_refuses(caller: Caller, more: dict[str, Any], param: str) -> None:
    answer = await generate(caller, **more)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert_published("openai", "error", answer.json)


async def test_without_a_size_it_is_square(caller: Caller) -> None:
    answer = await generate(caller, size="auto", quality="low")
    assert opened(answer.json["data"][0]["b64_json"]).size == (1024, 1024)


async def test_a_stream_of_partial_pictures(caller: Caller) -> None:
    answer = await generate(
        caller, model="gpt-image-1.5", size="1024x1024", stream=True, partial_images=2, output_format="webp"
    )
    *partial, completed = answer.json_events
    assert [event["partial_image_index"] for event in partial] == [0, 1]
    for event in partial:
        assert_published("openai", "image_partial", event)
        assert opened(event["b64_json"]).size == (1024, 1024)
    assert_published("openai", "image_completed", completed)
    assert answer.body.count(b"event: image_generation.partial_image\n") == 2
    assert answer.body.count(b"event: image_generation.completed\n") == 1
    assert b"[DONE]" not in answer.body


async def test_an_error_in_the_stream(caller: Caller) -> None:
    answer = await generate(caller, prompt="[[sandbox: error_in_stream=0]]", stream=True)
    assert [event["type"] for event in answer.json_events] == ["error"]


def make_form(**fields: str) -> aiohttp.FormData:
    return aiohttp.FormData({"model": GPT, "prompt": "a hat", "size": "32x48", **fields}, default_to_multipart=True)


async def edit_form(caller: Caller, form: aiohttp.FormData) -> Answer:
    return await caller.post("/openai/v1/images/edits", data=form)


@pytest.mark.parametrize("name", ["image", "image[]"])
async def test_an_edit_by_form(caller: Caller, name: str) -> None:
    form = make_form(n="2")
    form.add_field(name, PNG, filename="a.png", content_type="image/png")
    form.add_field(name, PNG, filename="b.png", content_type="image/png")
    form.add_field("mask", PNG, filename="m.png", content_type="image/png")
    answer = await edit_form(caller, form)
    assert len(answer.json["data"]) == 2
    assert answer.json["usage"]["input_tokens_details"] == {"text_tokens": 2, "image_tokens": 646}


async def test_an_edit_by_json(caller: Caller) -> None:
    body = {"model": "gpt-image-1.5", "prompt": "a hat", "images": [{"image_url": URI}], "mask": {"image_url": URI}}
    answer = await caller.post("/openai/v1/images/edits", {**body, "quality": "low"})
    assert_published("openai", "image", answer.json)
    stream = await caller.post("/openai/v1/images/edits", {**body, "stream": True})
    assert_published("openai", "image_edit_completed", stream.json_events[-1])


async def test_edits_that_are_refused(caller: Caller) -> None:
    small = io.BytesIO()
    Image.new("RGBA", (8, 8)).save(small, "PNG")
    form = make_form()
    form.add_field("image", PNG, filename="a.png")
    form.add_field("mask", small.getvalue(), filename="m.png")
    answer = await edit_form(caller, form)
    assert (answer.status, answer.error["param"]) == (400, "mask")
    form = make_form()
    form.add_field("image", b"no picture", filename="a.png")
    assert (await edit_form(caller, form)).error["code"] == "invalid_image"
    assert (await edit_form(caller, make_form())).error["param"] == "image"
    body = {"model": GPT, "prompt": "a hat", "images": [{"file_id": "file-1"}]}
    assert (await caller.post("/openai/v1/images/edits", body)).status == 404
