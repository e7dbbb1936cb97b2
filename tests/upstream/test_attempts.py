"""One attempt at one offer. What becomes of callers and books, the journeys show; here is what they do not reach."""

from __future__ import annotations

import io
import threading
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from msgspec.structs import replace

from bitmesh_proxy import keys
from bitmesh_proxy.billing.usage import BYTES_PER_TOKEN_USUALLY
from bitmesh_proxy.calls import Frame, ImageCall, Media, VideoCall
from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.errors import InvalidRequest
from bitmesh_proxy.upstream.off_loop import THREAD_PARSE_BYTES
from bitmesh_proxy.upstream.progress import Progress
from tests.dialects.offers import make_offer
from tests.journeys.gateway import Answer, Gateway, running_gateway
from tests.journeys.scripted import MODEL, at, scripted, whole_answer
from tests.upstream.scripted_provider import answering, provider

SPEECH = {"model": "gpt-4o-mini-tts", "input": "Hello there. " * 40, "voice": "alloy", "response_format": "wav"}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path) as running:
        yield running


async def test_sound_that_breaks_off_is_cut_and_no_words_are_put_into_it(gateway: Gateway) -> None:
    """An error event in the middle of a sound would be noise, and a clean end would be a lie."""
    gateway.fault("break_after=3")
    async with gateway.http.post(
        gateway.url + "/v1/openai/audio/speech", json=SPEECH, headers=gateway.bearer
    ) as answer:
        assert answer.status == 200
        assert answer.content_type.startswith("audio/")
        received = b""
        try:
            async for chunk in answer.content.iter_any():
                received += chunk
        except aiohttp.ClientPayloadError:
            pass
        else:
            pytest.fail("it ended as if it were whole")
    assert received.startswith(b"RIFF")
    assert b"upstream_broken" not in received
    row = await gateway.last_row()
    assert (row.state, row.outcome) == ("settled", "upstream_broken")
    assert row.charge_nano_usd > 0
    await gateway.check_books()


async def test_a_page_is_no_sound(gateway: Gateway) -> None:
    """Nor is it paid for as one."""
    gateway.fault("html=200")
    answer = await gateway.post("/v1/audio/speech", SPEECH)
    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_broken")
    row = await gateway.last_row()
    assert (row.outcome, row.charge_nano_usd) == ("upstream_broken", 0)
    await gateway.check_books()


LARGE = Media(kind="image", data=bytes(THREAD_PARSE_BYTES + 1))
SMALL = Media(kind="image", data=b"x")


@pytest.mark.parametrize(
    ("call", "is_here"),
    [
        (ImageCall(model="m", prompt="p", images=(SMALL,), mask=SMALL), True),
        (ImageCall(model="m", prompt="p", images=(SMALL, LARGE)), False),
        (ImageCall(model="m", prompt="p", images=(SMALL,), mask=LARGE), False),
        (VideoCall(model="m", prompt="p", frames=(Frame(media=LARGE),)), False),
        (VideoCall(model="m", prompt="p", references=(SMALL, LARGE)), False),
        (VideoCall(model="m", prompt="p", references=(SMALL,)), True),
    ],
)
async def test_large_pictures_are_written_where_no_stream_waits_for_it(
    gateway: Gateway, call: ImageCall | VideoCall, is_here: bool
) -> None:
    places: list[bool] = []

    def write(_call: object, _offer: object) -> UpstreamRequest:
        places.append(threading.current_thread() is threading.main_thread())
        raise InvalidRequest("That is enough.")

    access, attempts = gateway.app[keys.ACCESS]["together"], gateway.app[keys.ATTEMPTS]
    image, video = access.provider.image, access.provider.video
    assert image is not None
    assert video is not None
    provider = replace(access.provider, image=replace(image, request=write), video=replace(video, submit=write))
    at, offer = replace(access, provider=provider), make_offer(call.operation)
    attempt: Callable[..., Awaitable[object]] = attempts.submit_video
    if isinstance(call, ImageCall):
        attempt = attempts.image
    with pytest.raises(InvalidRequest):
        await attempt(call, offer, access=at, progress=Progress())
    assert places == [is_here]


TRANSCRIPTS = """
[[model]]
id = "heard"
operation = "transcription"
{offers}
"""
OFFER = """
[[offer]]
model = "heard"
provider = "{provider}"
upstream_model = "m"
usd_per_minute = "{price}"
"""


@asynccontextmanager
async def hearing(directory: Path, *answers: tuple[str, bytes]) -> AsyncIterator[Gateway]:
    """A gateway with an offer at one provider for each answer, which it gives with status 200, whatever it hears."""
    providers, offers = [], []
    async with AsyncExitStack() as stack:
        for number, (content_type, body) in enumerate(answers):
            kind = f"Content-Type: {content_type}\r\n" if content_type else ""
            head = f"HTTP/1.1 200 OK\r\n{kind}Content-Length: {len(body)}\r\n\r\n"
            running = await stack.enter_async_context(provider(answering(head.encode() + body)))
            address = f"http://127.0.0.1:{running.port}/v1"
            entry = {"name": f"p{number}", "kind": "openai_compatible", "base_urls": {"default": address}}
            providers.append(entry)
            offers.append(OFFER.format(provider=entry["name"], price=f"0.0{number + 1}"))
        rows = directory / "rows"
        rows.mkdir()
        (rows / "heard.toml").write_text(TRANSCRIPTS.format(offers="".join(offers)))
        changes = {"sandbox": {"mode": "off"}, "catalogue": {"dir": str(rows)}, "providers": providers}
        yield await stack.enter_async_context(running_gateway(directory / "data", changes))


async def transcript(gateway: Gateway, response_format: str) -> Answer:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, 8000, 8000, "NONE", ""))
        file.writeframes(bytes(16000))
    data = aiohttp.FormData({"model": "heard", "response_format": response_format})
    data.add_field("file", sound.getvalue(), filename="a.wav", content_type="audio/wav")
    return await gateway.call("POST", "/v1/audio/transcriptions", data=data)


@pytest.mark.parametrize("response_format", ["text", "srt", "vtt", "json"])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain; charset=utf-8"])
async def test_an_error_under_a_good_status_is_no_transcript(
    tmp_path: Path, response_format: str, content_type: str
) -> None:
    """Nor is it paid for as one."""
    async with hearing(tmp_path, (content_type, b'{"error":{"message":"No such model"}}')) as gateway:
        answer = await transcript(gateway, response_format)
        assert (answer.status, answer.json["error"]["message"]) == (502, "No such model")
        assert answer.json["error"]["code"]
        row = await gateway.last_row()
        assert (row.state, row.charge_nano_usd) == ("released", 0)
        await gateway.check_books()


async def test_an_error_that_is_too_deep_to_be_shown_is_the_providers_all_the_same(tmp_path: Path) -> None:
    deep = b'{"error":' + b"[" * 300 + b"]" * 300 + b"}"
    async with hearing(tmp_path, ("application/json", deep)) as gateway:
        answer = await transcript(gateway, "text")
        assert (answer.status, answer.json["error"]["code"]) == (502, "provider_error")
        await gateway.check_books()


@pytest.mark.parametrize("content_type", ["text/html", "text/plain"])
async def test_a_page_is_no_transcript(tmp_path: Path, content_type: str) -> None:
    """Nor is it paid for as one, whatever it is called."""
    async with hearing(tmp_path, (content_type, b"<!doctype html><title>Down</title>")) as gateway:
        answer = await transcript(gateway, "srt")
        assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_broken")
        row = await gateway.last_row()
        assert (row.outcome, row.charge_nano_usd) == ("upstream_broken", 0)
        await gateway.check_books()


@pytest.mark.parametrize(
    ("response_format", "body", "content_type"),
    [("srt", b"1\n00:00:00,000 --> 00:00:01,000\nHi\n", "text/plain"), ("json", b'{"text":"Hi"}', "application/json")],
)
async def test_a_transcript_that_is_called_nothing_is_not_called_json_if_it_is_none(
    tmp_path: Path, response_format: str, body: bytes, content_type: str
) -> None:
    async with hearing(tmp_path, ("", body)) as gateway:
        answer = await transcript(gateway, response_format)
        assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, content_type)
        assert answer.body == body
        await gateway.check_books()


async def test_an_error_that_says_nothing_was_begun_lets_another_hear(tmp_path: Path) -> None:
    busy = ("application/json", b'{"error":{"message":"Busy","code":429}}')
    async with hearing(tmp_path, busy, ("text/plain", b"Hello\n")) as gateway:
        answer = await transcript(gateway, "text")
        assert (answer.status, answer.body) == (200, b"Hello\n")
        row = await gateway.last_row()
        assert (row.provider, row.outcome) == ("p1", "completed")
        assert row.charge_nano_usd > 0
        await gateway.check_books()


async def test_an_error_body_that_never_ends_does_not_hide_the_status(gateway: Gateway) -> None:
    """The status alone is enough: the provider's own, though its words break off."""
    gateway.fault("status=429 retry_after=3 break_after=1")
    body = {"model": "openai/gpt-oss-120b", "messages": [{"role": "user", "content": "Hello"}]}
    answer = await gateway.post("/chat", body)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "3")
    assert answer.json["error"]
    await gateway.check_books()


WRITTEN = "x" * 400
TOKENS = len(WRITTEN) // BYTES_PER_TOKEN_USUALLY
PARTS: dict[str, dict[str, Any]] = {
    "text": {"content": WRITTEN},
    "reasoning": {"reasoning_content": WRITTEN},
    "a tool call": {
        "tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": WRITTEN}}]
    },
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("part", PARTS)
async def test_whatever_was_written_is_paid_for_where_no_usage_came(tmp_path: Path, part: str, path: str) -> None:
    """Translated or passed through: an answer that broke off, and a whole one."""

    async def script(request: web.Request) -> web.StreamResponse:
        if not (await request.json()).get("stream"):
            answer = whole_answer("")
            answer["choices"][0]["message"] = {"role": "assistant", "content": None, **PARTS[part]}
            return web.json_response({**answer, "usage": None})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        event = {"id": "c1", "choices": [{"index": 0, "delta": PARTS[part]}]}
        await response.write(b"data: " + orjson.dumps(event) + b"\n\n")
        return response

    async with (
        scripted(script) as upstream,
        running_gateway(tmp_path, at(tmp_path / "rows", a=upstream.url)) as gateway,
    ):
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
        for stream in True, False:
            assert (await gateway.post(path, {**body, "stream": stream})).status == 200
            assert (await gateway.last_row()).output_tokens == TOKENS
        await gateway.check_books()
