"""Providers whose protocols are not OpenAI's, each end to end: chat, pictures, edits, clips, speech."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from typing import Any

import orjson
import pytest
from PIL import Image

from bitmesh_proxy.calls import Basis
from bitmesh_proxy.sandbox.pictures import Picture
from tests.journeys.gateway import PATIENCE_S, Gateway

pytestmark = pytest.mark.journey

VOICE = "21m00Tcm4TlvDq8ikWAM"
PNG = "data:image/png;base64," + base64.b64encode(Picture(prompt="x", width=160, height=128).render()).decode()
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CHAT_MODELS = (
    "anthropic/claude-sonnet-5-5",
    "anthropic/claude-haiku-4-5",
    "google/gemini-3.8-flash",
    "google/gemini-2.5-pro",
)


def said(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "What is a gateway?"}], "max_tokens": 8, **more}


@pytest.mark.parametrize("model", CHAT_MODELS)
async def test_a_chat_is_translated_there_and_back(gateway: Gateway, model: str) -> None:
    whole = await gateway.post("/chat", said(model))
    row = await gateway.last_row()
    assert (whole.status, row.basis, row.output_tokens) == (200, Basis.MEASURED, 8)
    assert row.charge_nano_usd > 0
    stream = await gateway.post("/chat", said(model, stream=True))
    events = [event.removeprefix(b"data: ") for event in stream.body.split(b"\n\n") if event]
    assert events[-1] == b"[DONE]"
    chunks = [orjson.loads(event) for event in events[:-1]]
    told = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert told == whole.json["choices"][0]["message"]["content"] != ""
    assert (await gateway.last_row()).charge_nano_usd == row.charge_nano_usd
    await gateway.check_books()


@pytest.mark.parametrize("model", CHAT_MODELS)
async def test_a_tool_is_called_and_what_it_found_is_told(gateway: Gateway, model: str) -> None:
    """The callers' second turn, without anything of the provider's own in it, is one that the provider takes."""
    asked = {"role": "user", "content": "Rome"}
    body = said(model, messages=[asked], tools=[TOOL], reasoning_effort="low", max_tokens=4000)
    message = (await gateway.post("/chat", body)).json["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert orjson.loads(call["function"]["arguments"]) == {"city": "Rome"}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "It is sunny."}
    body |= {"messages": [asked, turn, result], "reasoning_effort": None}
    answer = await gateway.post("/chat", body)
    assert answer.status == 200, answer.json
    assert "It is sunny." in answer.json["choices"][0]["message"]["content"]


async def fetch_picture(gateway: Gateway, body: dict[str, Any]) -> tuple[str, tuple[int, int]]:
    """Format and size of the picture that a call gives."""
    answer = await gateway.post("/image", body)
    assert answer.status == 200, answer.json
    fetched = await gateway.get(answer.json["data"][0]["url"].removeprefix(gateway.url))
    with Image.open(io.BytesIO(fetched.body)) as image:
        return str(image.format), image.size


async def test_google_makes_and_edits_a_picture_for_its_tokens(gateway: Gateway) -> None:
    wanted = {"model": "google/gemini-3.1-flash-image", "prompt": "A lantern"}
    assert await fetch_picture(gateway, wanted | {"width": 512, "height": 512}) == ("PNG", (512, 512))
    row = await gateway.last_row()
    assert (row.provider, row.basis) == ("gemini", Basis.MEASURED)
    # 747 tokens of a picture × 60, and a few of text, USD per million
    assert 747 * 60_000 < row.charge_nano_usd < 747 * 60_000 + 100_000
    assert (await fetch_picture(gateway, wanted | {"reference_images": [PNG], "width": 512, "height": 512}))[1] == (
        512,
        512,
    )
    _, edit = gateway.upstream_calls(":generateContent")
    assert [set(part) for part in edit.body["contents"][0]["parts"]] == [{"text"}, {"inlineData"}]
    await gateway.check_books()


async def test_what_google_blocks_costs_nothing_and_is_a_refusal(gateway: Gateway) -> None:
    body = {"model": "google/gemini-3.1-flash-image", "prompt": "A lantern [[sandbox: moderated]]"}
    answer = await gateway.post("/image", body)
    assert answer.status == 400
    assert (await gateway.last_row()).charge_nano_usd == 0
    await gateway.check_books()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_google_blocks_is_the_callers_fault(gateway: Gateway, stream: bool) -> None:
    body = {"model": "google/gemini-2.5-flash", "input": "Hello [[sandbox: moderated]]", "stream": stream}
    answer = await gateway.post("/v1/responses", body)
    assert (answer.status, answer.json["error"]["code"]) == (400, "prohibited_content")
    await gateway.check_books()


async def test_runware_edits_a_picture_for_the_cost_that_it_names(gateway: Gateway) -> None:
    body = {
        "model": "qwen/qwen-image-edit",
        "prompt": "Make it blue",
        "reference_images": [PNG],
        "width": 256,
        "height": 256,
    }
    assert await fetch_picture(gateway, body) == ("JPEG", (256, 256))
    (sent,) = gateway.upstream_calls("/runware/v1")
    assert sent.body[0]["referenceImages"] == [PNG]
    row = await gateway.last_row()
    assert (row.provider, row.basis) == ("runware", Basis.REPORTED)
    assert row.charge_nano_usd == 237_000  # 0.0038 USD a megapixel, rounded by Runware
    await gateway.check_books()


@pytest.mark.parametrize(("model", "provider"), [("google/veo-2", "gemini"), ("kling/kling-2.5-turbo-pro", "runware")])
async def test_a_clip_to_its_end(gateway: Gateway, model: str, provider: str) -> None:
    """Google names its jobs with slashes in them, and gives its clips to nobody without a key."""
    submitted = await gateway.post("/video", {"model": model, "prompt": "A lantern"})
    assert submitted.status == 200, submitted.json
    deadline = time.monotonic() + PATIENCE_S
    while (shown := await gateway.get(f"/video/{submitted.json['id']}")).json["status"] != "completed":
        assert time.monotonic() < deadline, shown.json
        await asyncio.sleep(0.05)
    clip = await gateway.get(shown.json["outputs"]["video_url"].removeprefix(gateway.url))
    assert (clip.status, clip.headers["Content-Type"], clip.body[4:8]) == (200, "video/mp4", b"ftyp")
    row = await gateway.last_row()
    assert (row.provider, row.state) == (provider, "settled")
    assert row.charge_nano_usd > 0
    # What the provider says that it costs is said again each time; Google says nothing.
    named = row.cost_nano_usd / 10**9 if row.basis is Basis.REPORTED else None
    assert (named is None) is (provider == "gemini")
    for _ in range(2):
        again = await gateway.get(f"/video/{submitted.json['id']}")
        assert again.json["outputs"].get("cost") == named
    await gateway.check_books()


async def test_elevenlabs_speaks_and_hears_itself(gateway: Gateway) -> None:
    body = {"model": "elevenlabs/eleven_flash_v2_5", "input": "Good morning", "voice": VOICE, "response_format": "wav"}
    speech = await gateway.post("/v1/audio/speech", body)
    assert (speech.status, speech.headers["Content-Type"], speech.body[:4]) == (200, "audio/wav", b"RIFF")
    row = await gateway.last_row()
    assert (row.provider, row.basis, row.charge_nano_usd) == ("elevenlabs", Basis.MEASURED, 12 * 40_000)
    await gateway.check_books()
