"""Bytes, links, or both: what reaches the caller, from providers that give the one or the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bitmesh_proxy.calls import ImageCall, MediaOutput
from bitmesh_proxy.errors import GatewayError, Unavailable, UpstreamBroken
from bitmesh_proxy.media.hand_out import hand_out
from bitmesh_proxy.media.sources import make_source
from tests.media.rooms import Room, media_room

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 100
BYTES = MediaOutput(kind="image", data=PNG, media_type="image/png")


@pytest.fixture
async def provider() -> AsyncIterator[str]:
    async def serve(request: web.Request) -> web.Response:
        if request.path == "/gone.png":
            raise web.HTTPNotFound
        return web.Response(body=PNG, content_type="image/png")

    app = web.Application()
    app.router.add_get("/{name}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def room(tmp_path: Path, provider: str) -> AsyncIterator[Room]:
    source = make_source("maker", {"default": provider}, own_roots={"default": provider}, short_url=None, short_path="")
    async with media_room(tmp_path, [source]) as opened:
        opened.base_url = "http://here"
        yield opened


async def handed(
    room: Room, output: MediaOutput, *, max_bytes: int = 10_000, **call: Any
) -> tuple[MediaOutput, str | None]:
    outputs, urls = await hand_out(
        room.results,
        ImageCall(model="m", prompt="p", **call),
        [output],
        provider="maker",
        account_id="acc",
        public_base_url=room.base_url,
        max_bytes=max_bytes,
    )
    return outputs[0], urls[0]


@pytest.mark.parametrize(
    ("call", "has_bytes", "has_link"),
    [
        ({"response_format": "b64_json", "with_links": True}, True, True),
        ({"response_format": "b64_json"}, True, False),
        ({"response_format": "b64_ephemeral"}, True, False),
        ({"response_format": "url"}, False, True),
        ({}, False, True),
    ],
)
async def test_what_is_asked_for_comes_whatever_the_provider_gives(
    room: Room, provider: str, call: dict[str, Any], has_bytes: bool, has_link: bool
) -> None:
    for given in (BYTES, MediaOutput(kind="image", url=f"{provider}/a.png")):
        output, url = await handed(room, given, **call)
        assert output.data == (PNG if has_bytes else None)
        assert (url is not None) is has_link
        if url is not None:
            assert url.startswith(f"{room.base_url}/imgrslt/")


async def test_who_gets_the_bytes_goes_without_a_link_where_nothing_can_be_kept(tmp_path: Path, provider: str) -> None:
    source = make_source("maker", {"default": provider})
    async with media_room(tmp_path, [source], cache_bytes=0) as room:
        output, url = await handed(room, BYTES, response_format="b64_json", with_links=True)
        assert (output.data, url) == (PNG, None)
        linked = MediaOutput(kind="image", url=f"{provider}/a.png")
        output, url = await handed(room, linked, response_format="b64_json", with_links=True)
        assert output.data == PNG
        assert url is not None, "the provider keeps it"
        with pytest.raises(Unavailable):
            await handed(room, BYTES, response_format="url")


async def test_bytes_that_nobody_wants_a_link_to_are_not_kept(room: Room) -> None:
    await handed(room, BYTES, response_format="b64_ephemeral")
    assert getattr(room.store, "records", None) == {}


async def test_what_cannot_be_had_is_the_providers_failure(room: Room, provider: str) -> None:
    with pytest.raises(UpstreamBroken):
        await handed(room, MediaOutput(kind="image", url=f"{provider}/gone.png"), response_format="b64_json")
    link = MediaOutput(kind="image", url=f"{provider}/a.png")
    with pytest.raises(GatewayError) as caught:
        await handed(room, link, response_format="b64_json", max_bytes=50)
    assert caught.value.status == 502
