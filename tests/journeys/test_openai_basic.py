"""OpenAI's routes from the caller to the ledger: chat, pictures, models, credits, and errors in OpenAI's shape."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from bitmesh_proxy.calls import Basis
from bitmesh_proxy.money import format_usd
from tests.journeys.gateway import CHAT_MODEL, IMAGE_MODEL, Gateway, chat

pytestmark = pytest.mark.journey

PREFIXES = ("/v1", "/v1/openai")


def events_of(body: bytes) -> list[dict[str, Any]]:
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


@pytest.mark.both_ways
@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_chat_is_the_providers_answer(gateway: Gateway, prefix: str) -> None:
    answer = await gateway.post(f"{prefix}/chat/completions", chat(max_completion_tokens=4))
    assert (answer.status, answer.json["object"]) == (200, "chat.completion")
    row = await gateway.last_row()
    assert (row.endpoint, row.outcome, row.basis) == ("chat", "completed", Basis.MEASURED)
    assert (answer.headers["X-Bitmesh-Provider"], answer.headers["X-Bitmesh-Request-Cost-Basis"]) == (
        "together",
        "measured",
    )
    assert float(answer.headers["X-Bitmesh-Cost"]) == row.charge_nano_usd / 10**9
    await gateway.check_books()


@pytest.mark.both_ways
@pytest.mark.parametrize("is_asked", [True, False])
@pytest.mark.parametrize("split", ["split=1", "split=7", "crlf split=5", ""])
async def test_the_usage_chunk_reaches_only_those_who_asked(gateway: Gateway, is_asked: bool, split: str) -> None:
    if split:
        gateway.fault(split)
    body = chat(model="gpt-4o-mini", stream=True)
    if is_asked:
        body["stream_options"] = {"include_usage": True}
    answer = await gateway.post("/v1/chat/completions", body)
    assert answer.status == 200
    events = events_of(answer.body.replace(b"\r\n", b"\n"))
    assert [event for event in events if not event["choices"]] == ([events[-1]] if is_asked else [])
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    stream, _, comments = answer.body.replace(b"\r\n", b"\n").partition(b"data: [DONE]\n\n")
    assert stream
    row = await gateway.last_row()
    assert (row.basis, row.output_tokens > 0) == (Basis.MEASURED, True)
    assert comments.decode().splitlines() == [
        f": X-Bitmesh-Cost: {format_usd(row.charge_nano_usd)}",
        f": X-Bitmesh-Provider: {row.provider}",
        ": X-Bitmesh-Request-Cost-Basis: measured",
        "",
    ]
    await gateway.check_books()


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_picture_comes_as_bytes_and_as_a_link(gateway: Gateway, prefix: str) -> None:
    answer = await gateway.post(
        f"{prefix}/images/generations", {"model": IMAGE_MODEL, "prompt": "A lantern", "size": "256x256"}
    )
    assert answer.status == 200, answer.json
    (item,) = answer.json["data"]
    served = await gateway.call("GET", item["url"].removeprefix(gateway.url))
    assert base64.b64decode(item["b64_json"]) == served.body
    row = await gateway.last_row()
    assert answer.json["cost"] == row.charge_nano_usd / 10**9 > 0
    assert answer.json["latency"] >= 0
    assert isinstance(answer.json["created"], int)
    assert (row.endpoint, row.images) == ("image", 1)
    await gateway.check_books()


@pytest.mark.parametrize("model", [IMAGE_MODEL, "openai/gpt-image-2"])
@pytest.mark.parametrize(
    ("asked", "keys"),
    [("url", {"url"}), ("b64_json", {"b64_json"}), ("b64_ephemeral", {"b64_json"})],
)
async def test_a_picture_comes_as_asked(gateway: Gateway, model: str, asked: str, keys: set[str]) -> None:
    body = {"model": model, "prompt": "A lantern", "size": "1024x1024", "quality": "auto", "response_format": asked}
    answer = await gateway.post("/v1/images/generations", body)
    assert answer.status == 200, answer.json
    (item,) = answer.json["data"]
    assert {name for name, value in item.items() if value is not None} - {"revised_prompt"} == keys
    if "b64_json" in keys:
        assert base64.b64decode(item["b64_json"])[:2] in (b"\x89P", b"\xff\xd8")
    await gateway.check_books()


async def test_pictures_of_a_provider_that_streams_them_arrive_bit_by_bit(gateway: Gateway) -> None:
    body = {"model": "gpt-image-2", "prompt": "A lantern", "stream": True, "partial_images": 2}
    answer = await gateway.post("/v1/images/generations", body)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    assert [event["type"] for event in events_of(answer.body)] == ["image_generation.partial_image"] * 2 + [
        "image_generation.completed"
    ]
    row = await gateway.last_row()
    assert (row.outcome, row.images, row.basis) == ("completed", 1, Basis.MEASURED)
    assert row.charge_nano_usd > 0
    await gateway.check_books()


async def test_pictures_of_a_provider_that_does_not_stream_arrive_as_one_event(gateway: Gateway) -> None:
    answer = await gateway.post(
        "/v1/images/generations", {"model": IMAGE_MODEL, "prompt": "A lantern", "size": "256x256", "stream": True}
    )
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    (event,) = events_of(answer.body)
    row = await gateway.last_row()
    assert (event["type"], event["cost"]) == ("image_generation.completed", row.charge_nano_usd / 10**9)
    assert base64.b64decode(event["b64_json"])
    await gateway.check_books()


async def test_the_balance_is_what_the_books_say(gateway: Gateway) -> None:
    await gateway.post("/v1/images/generations", {"model": IMAGE_MODEL, "prompt": "A lantern"})
    spent = 10 * 10**9 - await gateway.balance()
    answer = await gateway.get("/v1/credits?by_api_key=true")
    assert answer.json["total_deposits"] == "10.0000"
    assert answer.json["credit_usage"] == f"{spent / 10**9:.4f}"
    assert answer.json["remaining_credits"] == f"{10 - spent / 10**9:.4f}"
    (key,) = answer.json["usage_by_api_key"]
    assert (key["api_key_id"], key["total_requests"], key["is_active"]) == (gateway.key.id, 1, True)
    assert key["credit_usage"] == answer.json["credit_usage"]
    test = await gateway.post("/v1/auth/test", None)
    assert test.json == {"success": True, "credits": (await gateway.balance()) // 100_000}
    assert (await gateway.get("/v1/credits?by_api_key=perhaps")).json["error"]["param"] == "by_api_key"


async def test_models_are_listed_for_everybody(gateway: Gateway) -> None:
    nobody = {"Authorization": ""}
    answer = await gateway.get("/v1/models", headers=nobody)
    assert (answer.status, answer.json["object"]) == (200, "list")
    listed = {model["id"]: model for model in answer.json["data"]}
    assert CHAT_MODEL in listed
    for model_id in ("openai/dall-e-3", "openai%2Fdall-e-3", "dall-e-3"):
        for prefix in PREFIXES:
            one = await gateway.get(f"{prefix}/models/{model_id}", headers=nobody)
            assert (one.status, one.json) == (200, listed["openai/dall-e-3"])
    missing = await gateway.get("/v1/models/no/such", headers=nobody)
    assert (missing.status, missing.json["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing/here", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/images/variations", 400, "unsupported_parameter"),
    ],
)
async def test_errors_under_v1_have_openais_shape(
    gateway: Gateway, method: str, path: str, status: int, code: str
) -> None:
    answer = await gateway.call(method, path)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/v1/video", "/v1/chat", "/nothing"])
async def test_errors_of_bitmeshs_twins_keep_bitmeshs_shape(gateway: Gateway, path: str) -> None:
    answer = await gateway.call("DELETE", path)
    assert isinstance(answer.json["error"], str)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": "x"}, "model", "missing_required_parameter"),
        ({"model": IMAGE_MODEL}, "prompt", "missing_required_parameter"),
        ({"model": IMAGE_MODEL, "prompt": 5}, "prompt", "invalid_value"),
        ({"model": IMAGE_MODEL, "prompt": "x", "n": 0}, "n", "invalid_value"),
        ({"model": IMAGE_MODEL, "prompt": "x", "n": True}, "n", "invalid_value"),
        ({"model": IMAGE_MODEL, "prompt": "x", "size": "big"}, "size", "invalid_value"),
        ({"model": IMAGE_MODEL, "prompt": "x", "size": "100000x1"}, "size", "invalid_value"),
        ({"model": IMAGE_MODEL, "prompt": "x", "quality": "ultra"}, "quality", "invalid_value"),
        ({"model": IMAGE_MODEL, "prompt": "x", "mask": "data:image/png;base64,AA=="}, "mask", "invalid_value"),
        ({"model": IMAGE_MODEL, "prompt": "x", "image": "file:///etc/passwd"}, "image", "invalid_value"),
        ({"model": IMAGE_MODEL, "prompt": "x", "image": "data:image/png;base64,AAAA"}, "image", "invalid_value"),
        ({"model": "openai/dall-e-3", "prompt": "x", "size": "256x256"}, "size", "unsupported_value"),
    ],
)
async def test_a_bad_field_is_named_and_nothing_is_charged(
    gateway: Gateway, body: dict[str, Any], param: str, code: str
) -> None:
    answer = await gateway.post("/v1/images/generations", body)
    error = answer.json["error"]
    assert (answer.status, error["type"], error["param"], error["code"]) == (
        400,
        "invalid_request_error",
        param,
        code,
    )
    assert await gateway.books.rows() == []
