"""Callers' pictures: decoded, sniffed, counted, fetched, and never fetched from where they may not be."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bitmesh_proxy.calls import (
    Call,
    ChatCall,
    Frame,
    ImageCall,
    Media,
    MediaOutput,
    SpeechCall,
    TranscriptionCall,
    VideoCall,
)
from bitmesh_proxy.errors import BodyTooLarge, GatewayError, InvalidRequest
from bitmesh_proxy.media.inputs import InputMedia, own_result_id
from bitmesh_proxy.media.room import open_inputs
from bitmesh_proxy.settings import Uploads
from tests.media.rooms import Room, media_room
from tests.media.test_sound_length import wav

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 100
JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 100
WAV = b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 100
HERE = "http://here"


def data_uri(data: bytes, declared: str = "image/png") -> str:
    return f"data:{declared};base64,{base64.b64encode(data).decode()}"


def edit(*links: str, **more: Any) -> ImageCall:
    return ImageCall(model="m", prompt="p", images=tuple(Media(kind="image", url=link) for link in links), **more)


@dataclass
class Outside:
    """A web server of somebody else's, and what it was asked for."""

    url: str = ""
    paths: list[str] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.Response:
        self.paths.append(request.path)
        if request.path == "/away":
            raise web.HTTPFound("http://10.0.0.1/a.png")
        bodies = {"/a.png": PNG, "/large.png": PNG * 100, "/page.png": b"<html>"}
        if request.path not in bodies:
            raise web.HTTPNotFound
        return web.Response(body=bodies[request.path], content_type="image/png")


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    server = Outside()
    app = web.Application()
    app.router.add_get("/{name}", server.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with media_room(tmp_path, []) as opened:
        yield opened


@pytest.fixture
async def inputs(room: Room, outside: Outside) -> AsyncIterator[InputMedia]:
    limits = Uploads(max_images=2, max_image_bytes=1000, max_audio_bytes=1000, trusted_origins=(outside.url,))
    async with open_inputs(limits, room.results) as opened:
        yield opened


async def checked(inputs: InputMedia, call: Call) -> Any:
    return await inputs.checked(call, public_base_url=HERE)


async def test_a_data_uri_becomes_bytes_of_the_type_that_they_are(inputs: InputMedia) -> None:
    call = await checked(inputs, edit(data_uri(JPEG, "image/png"), mask=Media(kind="image", url=data_uri(PNG))))
    assert call.images == (Media(kind="image", data=JPEG, media_type="image/jpeg"),)
    assert call.mask == Media(kind="image", data=PNG, media_type="image/png")
    clip = VideoCall(
        model="m",
        prompt="p",
        frames=(Frame(media=Media(kind="image", url=data_uri(PNG)), position="last"),),
        references=(Media(kind="image", data=JPEG),),
    )
    clip = await checked(inputs, clip)
    assert (clip.frames[0].media.data, clip.frames[0].position) == (PNG, "last")
    assert clip.references[0].media_type == "image/jpeg"
    sound = await checked(inputs, TranscriptionCall(model="m", audio=Media(kind="audio", data=WAV)))
    assert sound.audio.media_type == "audio/wav"


async def test_what_a_sound_says_of_its_length_is_not_taken_for_measured(inputs: InputMedia) -> None:
    silence = b"fLaC\x80\0\0\x22" + bytes(10) + (8_000 << 44 | 8_000 * 3600).to_bytes(8, "big") + bytes(50)
    said = await checked(inputs, TranscriptionCall(model="m", audio=Media(kind="audio", data=silence)))
    assert isinstance(said, TranscriptionCall)
    assert (said.duration_s, said.claimed_s) == (None, 3600.0)
    data = wav(seconds=0.01)
    measured = await checked(inputs, TranscriptionCall(model="m", audio=Media(kind="audio", data=data)))
    assert isinstance(measured, TranscriptionCall)
    assert (measured.duration_s, measured.claimed_s) == (0.01, None)


async def test_calls_without_media_and_links_of_others_stay_as_they_are(inputs: InputMedia, outside: Outside) -> None:
    calls: list[Call] = [
        edit(f"{outside.url}/a.png"),
        ImageCall(model="m", prompt="p"),
        SpeechCall(model="m", text="t"),
    ]
    for call in calls:
        assert await checked(inputs, call) == call
    assert outside.paths == []


@pytest.mark.parametrize(
    ("call", "error", "param"),
    [
        (edit(data_uri(b"<svg/>")), InvalidRequest, "image"),
        (edit(data_uri(WAV)), InvalidRequest, "image"),
        (edit("data:image/png,plain"), InvalidRequest, "image"),
        (edit("data:image/png;base64,%%%"), InvalidRequest, "image"),
        (edit(data_uri(PNG * 10)), BodyTooLarge, "image"),
        (edit(*[data_uri(PNG)] * 3), InvalidRequest, "image"),
        (edit(data_uri(PNG), mask=Media(kind="image", data=b"no")), InvalidRequest, "mask"),
        (edit(f"{HERE}/imgrslt/unknown"), InvalidRequest, "image"),
        (TranscriptionCall(model="m", audio=Media(kind="audio", data=PNG)), InvalidRequest, "file"),
    ],
)
async def test_what_cannot_be_taken_is_refused_by_name(
    inputs: InputMedia, call: Call, error: type[GatewayError], param: str
) -> None:
    with pytest.raises(error) as caught:
        await checked(inputs, call)
    assert caught.value.param == param


async def test_each_type_that_is_taken_is_named_once(inputs: InputMedia) -> None:
    """``audio/mp4`` and ``video/mp4`` are one to a caller."""
    with pytest.raises(InvalidRequest, match=r"\(mpeg, mp4, aac, wav, flac, ogg, webm, quicktime\)"):
        await checked(inputs, TranscriptionCall(model="m", audio=Media(kind="audio", data=PNG)))


async def test_a_result_of_ours_is_read_and_not_fetched(inputs: InputMedia, room: Room) -> None:
    output = MediaOutput(kind="image", data=PNG, media_type="image/png")
    url = await room.results.register(output, provider="maker", account_id="acc", public_base_url=HERE)
    call = await checked(inputs, edit(url))
    assert call.images[0].data == PNG
    parts = [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]
    said = await checked(inputs, ChatCall(model="m", messages=[{"role": "user", "content": parts}]))
    assert said.messages[0]["content"] == [
        {"type": "text", "text": "t"},
        {"type": "image_url", "image_url": {"url": data_uri(PNG), "detail": "low"}},
    ]


async def test_links_are_fetched_where_that_is_needed(inputs: InputMedia, outside: Outside) -> None:
    link = f"{outside.url}/a.png"
    call = await inputs.fetched(edit(link))
    assert isinstance(call, ImageCall)
    assert call.images[0].data == PNG
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "image_url", "image_url": link}, {"type": "file", "file": {}}]},
    ]
    said = await inputs.fetched(ChatCall(model="m", messages=messages))
    assert isinstance(said, ChatCall)
    assert said.messages[0] is messages[0]
    assert said.messages[1]["content"][0]["image_url"] == {"url": data_uri(PNG)}
    assert messages[1]["content"][0]["image_url"] == link  # the caller's own is untouched


@pytest.mark.parametrize(
    ("link", "error"),
    [
        ("{outside}/none.png", InvalidRequest),
        ("{outside}/page.png", InvalidRequest),
        ("{outside}/large.png", BodyTooLarge),
        ("{outside}/away", InvalidRequest),
        ("http://127.0.0.1:1/a.png", InvalidRequest),
        ("http://169.254.169.254/latest/meta-data", InvalidRequest),
        ("http://[::1]/a.png", InvalidRequest),
        ("http://localhost/a.png", InvalidRequest),
    ],
)
async def test_links_lead_nowhere_they_should_not(
    inputs: InputMedia, outside: Outside, link: str, error: type[GatewayError]
) -> None:
    with pytest.raises(error) as caught:
        await inputs.fetched(edit(link.format(outside=outside.url)))
    assert caught.value.param == "image"


def test_links_of_ours_are_known_by_their_beginning() -> None:
    assert own_result_id("http://here/imgrslt/abc?x=1", HERE) == "abc"
    assert own_result_id("http://here/v1/imgrslt/abc#f", HERE) == "abc"
    for other in ("http://here/other/abc", "http://here.evil/imgrslt/abc", "http://there/imgrslt/abc", "data:,"):
        assert own_result_id(other, HERE) is None
