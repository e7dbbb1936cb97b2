"""The room put together from the settings and the providers' configured addresses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bitmesh_proxy.calls import MediaOutput
from bitmesh_proxy.media.fetch_errors import FetchTooLarge
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.media.room import open_media
from bitmesh_proxy.providers.together import PROVIDER
from bitmesh_proxy.settings import Media
from bitmesh_proxy.upstream.access import ProviderAccess
from tests.media.memory_store import MemoryMediaStore
from tests.media.outside import Outside, body, redirect, serving
from tests.media.rooms import until
from tests.media.test_copies import files_in

PNG = b"\x89PNG\r\n\x1a\n" + bytes(1000)
ROUTES = {
    "/together/shrt/abc": redirect("/together/files/1"),
    "/together/files/1": body(PNG),
    "/together/v1/content": body(PNG),
}


@asynccontextmanager
async def room(directory: Path, outside: Outside, settings: Media) -> AsyncIterator[MediaResults]:
    roots = {
        name: url.replace("https://api.together.ai", outside.url("/together")) for name, url in PROVIDER.roots.items()
    }
    access = ProviderAccess(provider=PROVIDER, roots=roots, auth_headers={"Authorization": "Bearer planted"})
    async with open_media(
        settings,
        directory=directory,
        store=MemoryMediaStore(),
        access={PROVIDER.name: access},
        allow_private=False,
        min_free_bytes=0,
    ) as results:
        yield results


async def hand_out(results: MediaResults, output: MediaOutput) -> str:
    link = await results.register(output, provider=PROVIDER.name, account_id="acc", public_base_url="")
    return link.removeprefix("/imgrslt/")


async def fetched(results: MediaResults, media_id: str) -> bytes:
    async with results.open(await results.lookup(media_id)) as delivery:
        return b"".join([chunk async for chunk in delivery.chunks()])


async def test_a_public_short_link_is_fetched_from_the_configured_address(tmp_path: Path) -> None:
    async with serving(ROUTES) as outside, room(tmp_path, outside, Media(copy_at_once=False)) as results:
        media_id = await hand_out(results, MediaOutput(kind="image", url="https://api.together.xyz/shrt/abc"))
        assert media_id == "abc"
        assert await fetched(results, "abc") == PNG
    assert [path for _, path, _ in outside.requests] == ["/together/shrt/abc", "/together/files/1"]
    assert not any("Authorization" in headers for _, _, headers in outside.requests)


async def test_a_link_that_needs_the_credential_gets_it(tmp_path: Path) -> None:
    async with serving(ROUTES) as outside, room(tmp_path, outside, Media(copy_at_once=False)) as results:
        output = MediaOutput(kind="image", url=outside.url("/together/v1/content"), needs_credential=True)
        assert await fetched(results, await hand_out(results, output)) == PNG
    assert [headers.get("Authorization") for _, _, headers in outside.requests] == ["Bearer planted"]


async def test_copies_are_made_at_once(tmp_path: Path) -> None:
    async with serving(ROUTES) as outside, room(tmp_path, outside, Media()) as results:
        await hand_out(results, MediaOutput(kind="image", url="https://api.together.ai/shrt/abc"))
        await until(lambda: files_in(tmp_path) == ["abc.png"])


@pytest.mark.parametrize("settings", [Media(copy_at_once=False), Media(cache_bytes=0)])
async def test_unless_that_is_switched_off_or_there_is_no_room(tmp_path: Path, settings: Media) -> None:
    async with serving(ROUTES) as outside, room(tmp_path, outside, settings) as results:
        await hand_out(results, MediaOutput(kind="image", url="https://api.together.ai/shrt/abc"))
        await asyncio.sleep(0.05)
    assert outside.requests == []


async def test_the_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    settings = Media(max_bytes=500, copy_at_once=False)
    async with serving(ROUTES) as outside, room(tmp_path, outside, settings) as results:
        media_id = await hand_out(results, MediaOutput(kind="image", url="https://api.together.ai/shrt/abc"))
        with pytest.raises(FetchTooLarge):
            await fetched(results, media_id)
        assert results.keep_s == settings.keep_s
