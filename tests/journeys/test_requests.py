"""What comes in: validated in Laravel's words, bounded in size, depth and time, and refused as JSON."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.journeys.gateway import CHAT_MODEL, IMAGE_MODEL, VIDEO_MODEL, Gateway, chat, raw_call, running_gateway

pytestmark = pytest.mark.journey

JSON = {"Content-Type": "application/json"}
SAY = [{"role": "user", "content": "Hello"}]

INVALID: list[tuple[str, dict[str, Any], dict[str, list[str]]]] = [
    (
        "/chat",
        {},
        {"model": ["The model field is required."], "messages": ["The messages field is required."]},
    ),
    ("/chat", {"model": CHAT_MODEL, "messages": []}, {"messages": ["The messages field is required."]}),
    (
        "/chat",
        {"model": 5, "messages": "hello"},
        {"model": ["The model field must be a string."], "messages": ["The messages field must be an array."]},
    ),
    (
        "/chat",
        {"model": CHAT_MODEL, "messages": [{"role": "robot", "content": "x"}, {}]},
        {
            "messages.0.role": ["The selected messages.0.role is invalid."],
            "messages.1.role": ["The messages.1.role field is required."],
            "messages.1.content": ["The messages.1.content field is required."],
        },
    ),
    (
        "/chat",
        {"model": CHAT_MODEL, "messages": SAY, "max_tokens": 0, "temperature": 2.5, "repetition_penalty": -1},
        {
            "max_tokens": ["The max tokens field must be at least 1."],
            "temperature": ["The temperature field must be between 0 and 2."],
            "repetition_penalty": ["The repetition penalty field must be at least 0."],
        },
    ),
    (
        "/chat",
        {"model": CHAT_MODEL, "messages": SAY, "frequency_penalty": 3, "presence_penalty": -3, "test": "perhaps"},
        {
            "frequency_penalty": ["The frequency penalty field must be between -2 and 2."],
            "presence_penalty": ["The presence penalty field must be between -2 and 2."],
            "test": ["The test field must be true or false."],
        },
    ),
    (
        "/image",
        {"model": IMAGE_MODEL, "width": 0, "height": "tall", "steps": 0, "seed": 1.5, "n": 0},
        {
            "prompt": ["The prompt field is required."],
            "width": ["The width field must be at least 1."],
            "height": ["The height field must be an integer."],
            "steps": ["The steps field must be at least 1."],
            "seed": ["The seed field must be an integer."],
            "n": ["The n field must be at least 1."],
        },
    ),
    (
        "/video",
        {
            "model": VIDEO_MODEL,
            "prompt": "x" * 32_001,
            "seconds": 5,
            "fps": 0,
            "steps": 9,
            "guidance_scale": -1,
            "output_format": "GIF",
            "output_quality": 0,
            "frame_images": [{}],
            "reference_images": [5],
        },
        {
            "prompt": ["The prompt field must not be greater than 32000 characters."],
            "seconds": ["The seconds field must be a string."],
            "fps": ["The fps field must be at least 1."],
            "steps": ["The steps field must be between 10 and 50."],
            "guidance_scale": ["The guidance scale field must be at least 0."],
            "output_format": ["The selected output format is invalid."],
            "output_quality": ["The output quality field must be at least 1."],
            "frame_images.0.input_image": [
                "The frame_images.0.input_image field is required when frame images is present."
            ],
            "frame_images.0.frame": ["The frame_images.0.frame field is required when frame images is present."],
            "reference_images.0": ["The reference_images.0 field must be a string."],
        },
    ),
]


@pytest.mark.parametrize(("path", "body", "errors"), INVALID)
async def test_all_failing_fields_are_named_at_once(
    gateway: Gateway, path: str, body: dict[str, Any], errors: dict[str, list[str]]
) -> None:
    answer = await gateway.post(path, body)
    assert answer.status == 422
    assert answer.json["error"] == "Validation failed"
    assert answer.json["errors"] == errors
    assert gateway.upstream_calls() == []
    assert await gateway.books.rows() == []


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nowhere", 404, "Not found"),
        ("POST", "/v2/chat", 404, "Not found"),
        ("GET", "/chat", 405, "Method not allowed"),
        ("DELETE", "/video/abc", 405, "Method not allowed"),
        ("GET", "/video/none-of-mine", 404, "Video job not found"),
    ],
)
async def test_what_is_not_there_is_json_too(
    gateway: Gateway, method: str, path: str, status: int, message: str
) -> None:
    answer = await gateway.call(method, path)
    assert (answer.status, answer.json) == (status, {"error": message})
    assert answer.headers["X-Request-Id"]
    assert ("Allow" in answer.headers) is (status == 405)


BAD_BODIES: list[tuple[bytes, Mapping[str, str], int, str]] = [
    (b"", JSON, 400, "empty"),
    (b"[]", JSON, 400, "object"),
    (b'{"a":', JSON, 400, "not valid JSON"),
    (b'{"a": "\xff\xfe"}', JSON, 400, "not valid UTF-8"),
    (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", JSON, 400, "nested"),
    (b'{"a":' + b"[" * 100_000, JSON, 400, "JSON"),
    (b"{}", {"Content-Type": "text/plain"}, 415, "application/json"),
    (b"{}", {"Content-Type": "application/json; charset=latin-1"}, 415, "UTF-8"),
    (b"{}", {**JSON, "Content-Encoding": "gzip"}, 415, "compressed"),
]


@pytest.mark.parametrize(("body", "headers", "status", "word"), BAD_BODIES)
async def test_a_body_that_cannot_be_read_is_refused(
    gateway: Gateway, body: bytes, headers: Mapping[str, str], status: int, word: str
) -> None:
    async with raw_call(gateway, "POST", "/chat", body, headers=headers) as (reader, _):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert word in orjson.loads(await reader.read(4096))["error"]
    assert gateway.upstream_calls() == []


async def test_a_form_is_not_what_chat_takes(gateway: Gateway) -> None:
    answer = await gateway.call("POST", "/chat", data=io.BytesIO(b"x"), headers={"Content-Type": "multipart/form-data"})
    assert answer.status in (400, 415)
    assert answer.json["error"]


async def test_a_hundred_megabytes_are_refused_before_they_are_sent(gateway: Gateway) -> None:
    async with raw_call(gateway, "POST", "/chat", headers={"Content-Length": str(100 * 1024**2)}) as (reader, _):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"larger than" in await reader.read(4096)


async def test_a_hundred_megabytes_without_a_length_are_cut_off(gateway: Gateway) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024**2
            await asyncio.sleep(0)

    try:
        answer = await gateway.call("POST", "/chat", data=pieces(), headers=JSON)
    except ConnectionError:
        return  # cut off while still sending: the caller did not wait for the answer
    assert answer.status == 413


async def test_two_lengths_are_no_request(gateway: Gateway) -> None:
    body = orjson.dumps(chat())
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        f"POST /chat HTTP/1.1\r\nHost: x\r\nAuthorization: {gateway.bearer['Authorization']}\r\n"
        f"Content-Length: {len(body)}\r\nContent-Length: {len(body) + 5}\r\n\r\n".encode()
        + body
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.split(b" ")[1] == b"400"
    writer.close()
    await writer.wait_closed()
    assert gateway.upstream_calls() == []


async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"http": {"body_timeout_s": 0.3}}) as gateway:
        async with raw_call(gateway, "POST", "/chat", b'{"model"', headers={"Content-Length": "500"}) as (reader, _):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408 ")
            assert b"Connection: close" in head
        assert gateway.upstream_calls() == []


async def test_fields_that_no_document_names_go_to_the_provider(gateway: Gateway) -> None:
    more: dict[str, Any] = {"stop": ["x"], "top_p": 0.5, "response_format": {"type": "text"}, "seed": 7}
    assert (await gateway.post("/chat", chat(**more))).status == 200
    (sent,) = gateway.upstream_calls()
    assert {name: sent.body[name] for name in more} == more
    await gateway.last_row()
    await gateway.check_books()


async def test_probes_need_no_key(gateway: Gateway) -> None:
    async with gateway.http.get(gateway.url + "/health") as health:
        assert (health.status, (await health.json())["status"]) == (200, "ok")
    async with gateway.http.get(gateway.url + "/ready") as ready:
        assert ready.status == 200
        assert await ready.json() == {
            "status": "ready",
            "checks": {"catalogue": "ok", "database": "ok", "accepting": "ok"},
        }


async def test_browsers_may_ask_first(gateway: Gateway) -> None:
    asked = {
        "Origin": "https://app.example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
    }
    async with gateway.http.options(gateway.url + "/chat", headers=asked) as preflight:
        assert preflight.status == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        assert "AUTHORIZATION" in preflight.headers["Access-Control-Allow-Headers"].upper()
        assert "Access-Control-Allow-Credentials" not in preflight.headers
    answer = await gateway.post("/chat", chat(), headers={"Origin": "https://app.example.org"})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
    assert "X-Bitmesh-Cost" in answer.headers["Access-Control-Expose-Headers"]
    refused = await gateway.post("/chat", {}, headers={"Origin": "https://app.example.org"})
    assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (422, "https://app.example.org")
    streamed = await gateway.post("/chat", chat(stream=True), headers={"Origin": "https://app.example.org"})
    assert streamed.headers["Access-Control-Allow-Origin"] == "https://app.example.org"


@pytest.mark.parametrize(
    ("trusted", "address", "base"),
    [(["127.0.0.0/8"], "203.0.113.9", "https://ai.example.org"), (["10.0.0.0/8"], "127.0.0.1", "")],
)
async def test_what_a_proxy_says_is_believed_of_trusted_ones_only(
    tmp_path: Path, trusted: list[str], address: str, base: str
) -> None:
    forwarded = {
        "X-Forwarded-For": "198.51.100.7, 203.0.113.9",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "ai.example.org:443",
    }
    async with running_gateway(tmp_path, {"http": {"trusted_proxies": trusted}}) as gateway:
        body = {"model": IMAGE_MODEL, "prompt": "A lantern", "width": 256, "height": 256}
        answer = await gateway.post("/image", body, headers=forwarded)
        assert answer.json["data"][0]["url"].startswith((base or gateway.url) + "/imgrslt/")
        assert (await gateway.last_row()).address == address
        await gateway.check_books()
