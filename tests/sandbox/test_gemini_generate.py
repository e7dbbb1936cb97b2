"""Text, pictures and speech out of Google's ``generateContent``, whole and streamed."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from PIL import Image

from bitmesh_proxy.sandbox.pictures import Picture
from tests.sandbox.callers import Answer, Caller, assert_published, calling

PNG = base64.b64encode(Picture(prompt="x", width=40, height=16).render()).decode()
TOOL = {
    "functionDeclarations": [
        {
            "name": "weather",
            "parametersJsonSchema": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        }
    ]
}


THINKING = {"thinkingBudget": 512, "includeThoughts": True}


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as caller:
        caller.session.headers["x-goog-api-key"] = "some-key"
        yield caller


async def ask(
    caller: Caller, text: str = "Hello", *, model: str = "gemini-2.5-flash", stream: bool = False, **more: Any
) -> Answer:
    method = "streamGenerateContent?alt=sse" if stream else "generateContent"
    parts = [{"text": text}, *more.pop("parts", ())]
    body = {"contents": [{"role": "user", "parts": parts}], **more}
    return await caller.post(f"/gemini/v1beta/models/{model}:{method}", body)


def parts_of(answer: Answer) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = answer.json["candidates"][0]["content"]["parts"]
    return parts


def put_together(answer: Answer) -> tuple[list[dict[str, Any]], str, dict[str, Any]]:
    """Parts (neighbouring text joined), finish reason and usage of a stream."""
    parts: list[dict[str, Any]] = []
    reasons = []
    for response in answer.json_events:
        assert_published("gemini", "generate", response)
        candidate = response["candidates"][0]
        for part in candidate.get("content", {}).get("parts", ()):
            if parts and "text" in part and "text" in parts[-1] and part.get("thought") == parts[-1].get("thought"):
                parts[-1] = {**parts[-1], "text": parts[-1]["text"] + part["text"]}
            elif part != {"text": ""}:
                parts.append(part)
        reasons += [candidate["finishReason"]] if "finishReason" in candidate else []
        assert "usageMetadata" in response
    assert len(reasons) == 1
    assert "finishReason" in answer.json_events[-1]["candidates"][0]
    return parts, reasons[0], answer.json_events[-1]["usageMetadata"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "STOP"),
        ({"generationConfig": {"maxOutputTokens": 3}}, "MAX_TOKENS"),
        ({"generationConfig": {"maxOutputTokens": 30, "thinkingConfig": THINKING}}, "MAX_TOKENS"),
        ({"generationConfig": {"maxOutputTokens": 2, "thinkingConfig": THINKING}}, "MAX_TOKENS"),
        ({"generationConfig": {"stopSequences": ["sandbox"]}}, "STOP"),
        ({"tools": [TOOL]}, "STOP"),
        ({"generationConfig": {"thinkingConfig": THINKING}}, "STOP"),
        ({"systemInstruction": {"parts": [{"text": "Be brief."}]}}, "STOP"),
    ],
)
async def test_a_stream_tells_the_same_as_the_whole(caller: Caller, more: Mapping[str, Any], reason: str) -> None:
    whole = await ask(caller, **more)
    assert_published("gemini", "generate", whole.json)
    parts, told_reason, usage = put_together(await ask(caller, stream=True, **more))
    assert parts == parts_of(whole)
    assert told_reason == whole.json["candidates"][0]["finishReason"] == reason
    assert usage == whole.json["usageMetadata"]
    said = usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0)
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + said
    assert said <= more.get("generationConfig", {}).get("maxOutputTokens", 10_000)


async def test_of_half_a_call_nothing_is_said(caller: Caller) -> None:
    answer = await ask(caller, tools=[TOOL], generationConfig={"maxOutputTokens": 2})
    assert_published("gemini", "generate", answer.json)
    [candidate] = answer.json["candidates"]
    assert (candidate["finishReason"], candidate.get("content")) == ("MAX_TOKENS", None)
    assert answer.json["usageMetadata"]["candidatesTokenCount"] == 2


async def test_without_sse_a_stream_is_one_array(caller: Caller) -> None:
    body = {"contents": [{"parts": [{"text": "Hello"}]}]}
    answer = await caller.post("/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent", body)
    assert len(answer.json) > 3
    assert answer.json[-1]["candidates"][0]["finishReason"] == "STOP"


async def test_a_tool_is_called_and_signed_by_gemini_3(caller: Caller) -> None:
    old, new = [
        parts_of(await ask(caller, "Rome", model=model, tools=[TOOL]))[-1]
        for model in ("gemini-2.5-flash", "gemini-3.8-flash")
    ]
    assert old["functionCall"] == {"name": "weather", "args": {"city": "Rome"}}
    assert new["functionCall"]["args"] == {"city": "Rome"}
    assert base64.b64decode(new["thoughtSignature"])
    assert "thoughtSignature" not in old
    result = {"functionResponse": {"name": "weather", "response": {"sky": "blue"}}}
    contents = [
        {"role": "user", "parts": [{"text": "Rome"}]},
        {"role": "model", "parts": [new]},
        {"role": "user", "parts": [result]},
    ]
    answer = await caller.post(
        "/gemini/v1beta/models/gemini-3.8-flash:generateContent", {"contents": contents, "tools": [TOOL]}
    )
    assert '"sky": "blue"' in parts_of(answer)[0]["text"]


async def test_a_wanted_format_is_kept(caller: Caller) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    config = {"responseMimeType": "application/json", "responseJsonSchema": schema}
    assert isinstance(json.loads(parts_of(await ask(caller, generationConfig=config))[0]["text"])["n"], int)


async def make_picture(caller: Caller, text: str = "a fox", **more: Any) -> Answer:
    config = {"responseModalities": ["TEXT", "IMAGE"], "imageConfig": {"aspectRatio": "16:9"}, **more.pop("config", {})}
    model = "gemini-2.5-flash-image"
    return await ask(caller, text, model=model, generationConfig=config, **more)


async def test_a_picture_comes_with_text_beside_it(caller: Caller) -> None:
    answer = await make_picture(caller)
    assert_published("gemini", "generate", answer.json)
    said, picture = parts_of(answer)
    assert said["text"]
    with Image.open(io.BytesIO(base64.b64decode(picture["inlineData"]["data"]))) as image:
        assert (image.format, image.size) == ("PNG", (1344, 768))
    details = {row["modality"]: row["tokenCount"] for row in answer.json["usageMetadata"]["candidatesTokensDetails"]}
    assert details["IMAGE"] == 1290
    assert answer.json["usageMetadata"]["candidatesTokenCount"] == sum(details.values())


async def test_an_edited_picture_keeps_its_shape_and_counts_as_input(caller: Caller) -> None:
    part = {"inlineData": {"mimeType": "image/png", "data": PNG}}
    answer = await make_picture(caller, parts=[part], config={"imageConfig": {}, "responseModalities": ["IMAGE"]})
    (picture,) = parts_of(answer)
    with Image.open(io.BytesIO(base64.b64decode(picture["inlineData"]["data"]))) as image:
        assert image.size == (1536, 672)
    assert {"modality": "IMAGE", "tokenCount": 258} in answer.json["usageMetadata"]["promptTokensDetails"]
    part["inlineData"]["data"] = "bm90IGEgcGljdHVyZQ=="
    refused = await make_picture(caller, parts=[part])
    assert (refused.status, "Unable to process input image" in refused.error["message"]) == (400, True)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_blocked_is_a_success_without_content(caller: Caller, stream: bool) -> None:
    answer = await ask(caller, "x [[sandbox: moderated]]", stream=stream)
    body = answer.json_events[0] if stream else answer.json
    assert_published("gemini", "generate", body)
    assert (answer.status, body["promptFeedback"]) == (200, {"blockReason": "PROHIBITED_CONTENT"})
    assert "candidates" not in body
    picture = await make_picture(caller, "x [[sandbox: moderated]]", stream=stream)
    candidate = (picture.json_events[-1] if stream else picture.json)["candidates"][0]
    assert candidate == {"index": 0, "finishReason": "IMAGE_SAFETY"}


async def test_speech_is_raw_sound(caller: Caller) -> None:
    voice = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": "Kore"}}}
    config = {"responseModalities": ["AUDIO"], "speechConfig": voice}
    answer = await ask(caller, "Hello", model="gemini-3.8-flash-tts", generationConfig=config)
    assert_published("gemini", "generate", answer.json)
    blob = parts_of(answer)[0]["inlineData"]
    assert blob["mimeType"] == "audio/L16;codec=pcm;rate=24000"
    assert len(base64.b64decode(blob["data"])) == 2 * 24 * 72 * 5  # 16 bits, 24 kHz, 72 ms a letter
    refused = await ask(caller, "Hello", model="gemini-3.8-flash-tts")
    assert refused.status == 400


async def test_a_text_model_makes_no_pictures(caller: Caller) -> None:
    answer = await ask(caller, generationConfig={"responseModalities": ["IMAGE"]})
    assert (answer.status, answer.error["message"]) == (400, "Multi-modal output is not supported.")


async def test_faults_of_a_stream(caller: Caller) -> None:
    broken = (await ask(caller, "x [[sandbox: error_in_stream=2]]", stream=True)).json_events
    assert len(broken) == 3
    assert_published("gemini", "error", broken[-1])
    assert broken[-1]["error"]["status"] == "UNAVAILABLE"
    endless = (await ask(caller, "x [[sandbox: no_done]]", stream=True)).json_events
    assert not any("finishReason" in response["candidates"][0] for response in endless)
    silent = (await ask(caller, "x [[sandbox: no_usage]]", stream=True)).json_events
    assert not any("usageMetadata" in response for response in silent)


async def test_tokens_are_counted_as_they_are_billed(caller: Caller) -> None:
    contents = [{"role": "user", "parts": [{"text": "Hello there"}]}]
    url = "/gemini/v1beta/models/gemini-2.5-flash:countTokens"
    counted = await caller.post(url, {"contents": contents})
    assert_published("gemini", "count", counted.json)
    whole = {"generateContentRequest": {"model": "models/gemini-2.5-flash", "contents": contents}}
    assert (await caller.post(url, whole)).json == counted.json
    billed = (await ask(caller, "Hello there")).json["usageMetadata"]["promptTokenCount"]
    assert counted.json["totalTokens"] == billed
