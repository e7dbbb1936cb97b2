"""Links handed out: whose id they carry, what they hide, and that nothing else is served."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from bitmesh_proxy.calls import MediaOutput
from bitmesh_proxy.errors import InternalError, NotFound, Unavailable, UpstreamBroken
from bitmesh_proxy.media.ids import OWN_ID_LENGTH
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.storage.media import MediaRecord
from tests.media.disks import FailingFiles
from tests.media.memory_store import MemoryMediaStore
from tests.media.outside import body, serving
from tests.media.rooms import copied, media_room, source
from tests.media.test_copies import content

# The smallest PNG there is: one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
MAKER = source("https://api.maker.test")
OTHER = source("https://api.other.test", provider="other")
SHORT = "https://api.maker.test/shrt/DwlaBdSakNRFlBxN"
SIGNED = "https://bucket.s3.test/a.png?X-Amz-Signature=abc%2B"


async def handed_out(results: MediaResults, url: str, *, provider: str = "maker", account_id: str = "acc") -> str:
    output = MediaOutput(kind="image", url=url)
    link = await results.register(
        output, provider=provider, account_id=account_id, public_base_url="https://ai.example.org"
    )
    base, _, media_id = link.rpartition("/")
    assert base == "https://ai.example.org/imgrslt"
    return media_id


async def test_a_short_link_keeps_its_id_and_its_link_is_not_kept(tmp_path: Path) -> None:
    async with media_room(tmp_path, [MAKER]) as room:
        assert await handed_out(room.results, SHORT) == "DwlaBdSakNRFlBxN"
        record = await room.results.lookup("DwlaBdSakNRFlBxN")
        assert (record.is_short, record.url, record.provider) == (True, None, "maker")
        assert await handed_out(room.results, SHORT, account_id="another") == "DwlaBdSakNRFlBxN"


async def test_any_other_link_gets_an_id_of_ours(tmp_path: Path) -> None:
    async with media_room(tmp_path, [MAKER, OTHER]) as room:
        for url, provider in ((SIGNED, "maker"), (SHORT, "other"), (SHORT, "unknown"), (SHORT + "?x", "maker")):
            media_id = await handed_out(room.results, url, provider=provider)
            assert len(media_id) == OWN_ID_LENGTH
            record = await room.results.lookup(media_id)
            assert (record.url, record.is_short, record.provider) == (url, False, provider)


async def test_a_result_stays_of_its_kind(tmp_path: Path) -> None:
    async with media_room(tmp_path, [MAKER]) as room:
        for url in (SHORT, SIGNED):
            output = MediaOutput(kind="video", url=url)
            link = await room.results.register(output, provider="maker", account_id="acc", public_base_url="")
            assert (await room.results.lookup(link.removeprefix("/imgrslt/"))).kind == "video"


async def test_a_short_id_that_stands_for_something_else_is_not_taken_over(tmp_path: Path) -> None:
    async with media_room(tmp_path, [MAKER, OTHER]) as room:
        assert await handed_out(room.results, SHORT) == "DwlaBdSakNRFlBxN"
        same_id = "https://api.other.test/shrt/DwlaBdSakNRFlBxN"
        media_id = await handed_out(room.results, same_id, provider="other")
        assert media_id != "DwlaBdSakNRFlBxN"
        assert (await room.results.lookup(media_id)).url == same_id
        assert (await room.results.lookup("DwlaBdSakNRFlBxN")).provider == "maker"


async def test_the_same_link_keeps_its_id_but_not_across_accounts(tmp_path: Path) -> None:
    async with media_room(tmp_path, [MAKER]) as room:
        first = await handed_out(room.results, SIGNED)
        assert await handed_out(room.results, SIGNED) == first
        assert await handed_out(room.results, SIGNED, account_id="another") != first
        assert await handed_out(room.results, SIGNED + "&more") != first


async def test_ids_are_made_of_the_given_randomness_and_never_taken_twice(tmp_path: Path) -> None:
    numbers = iter([1, 1, 2])
    async with media_room(tmp_path, [], random_bytes=lambda count: bytes([next(numbers)]) * count) as room:
        assert await handed_out(room.results, SIGNED) == "b" * OWN_ID_LENGTH
        assert await handed_out(room.results, SIGNED + "&2") == "c" * OWN_ID_LENGTH


async def test_broken_randomness_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    async with media_room(tmp_path, [], random_bytes=bytes) as room:
        await handed_out(room.results, SIGNED)
        with pytest.raises(InternalError):
            await handed_out(room.results, SIGNED + "&2")


@pytest.mark.parametrize("url", ["", "javascript:alert(1)", "file:///etc/passwd", "/relative", "http://u:p@host/"])
async def test_a_link_that_is_none_is_the_providers_fault(tmp_path: Path, url: str) -> None:
    store = MemoryMediaStore()
    async with media_room(tmp_path, [MAKER], store=store) as room:
        with pytest.raises(UpstreamBroken):
            await handed_out(room.results, url)
    assert store.records == {}


@pytest.mark.parametrize("media_id", ["", "../x", "a" * 65, "a\n"])
async def test_what_cannot_be_an_id_does_not_reach_the_database(tmp_path: Path, media_id: str) -> None:
    async with media_room(tmp_path, [MAKER], store=_UntouchableStore()) as room:
        with pytest.raises(NotFound):
            await room.results.lookup(media_id)


class _UntouchableStore(MemoryMediaStore):
    async def get(self, media_id: str) -> MediaRecord | None:
        raise AssertionError(f"asked for {media_id!r}")


async def test_what_was_not_handed_out_is_not_found(tmp_path: Path) -> None:
    async with media_room(tmp_path, [MAKER]) as room:
        with pytest.raises(NotFound):
            await room.results.lookup("DwlaBdSakNRFlBxN")


async def test_bytes_are_kept_on_disk_with_the_type_they_have(tmp_path: Path) -> None:
    async with media_room(tmp_path, [MAKER]) as room:
        output = MediaOutput(kind="image", data=PNG, media_type="image/jpeg")
        link = await room.results.register(output, provider="maker", account_id="acc", public_base_url="")
        media_id = link.removeprefix("/imgrslt/")
        assert await content(room.copies, media_id) == PNG
        async with room.results.open(await room.results.lookup(media_id)) as delivery:
            assert delivery.media_type == "image/png"


@pytest.mark.parametrize("data", [b"", b"<html>sorry</html>"])
async def test_bytes_that_are_no_media_are_the_providers_fault(tmp_path: Path, data: bytes) -> None:
    async with media_room(tmp_path, [MAKER]) as room:
        with pytest.raises(UpstreamBroken):
            await room.results.register(
                MediaOutput(kind="image", data=data), provider="maker", account_id="acc", public_base_url=""
            )


async def test_bytes_for_which_there_is_no_disk_are_refused_openly(tmp_path: Path) -> None:
    async with media_room(tmp_path, [MAKER], files=FailingFiles(room_bytes=10)) as room:
        with pytest.raises(Unavailable, match="base64") as refusal:
            await room.results.register(
                MediaOutput(kind="image", data=PNG), provider="maker", account_id="acc", public_base_url=""
            )
        assert refusal.value.retry_after_s is None  # the next one would cost as much
        assert room.copies.used_bytes == 0


async def test_an_output_with_nothing_in_it_is_a_mistake_of_ours(tmp_path: Path) -> None:
    async with media_room(tmp_path, [MAKER]) as room:
        with pytest.raises(InternalError):
            await room.results.register(
                MediaOutput(kind="image"), provider="maker", account_id="acc", public_base_url=""
            )


async def test_a_copy_is_made_at_once_and_outlives_the_link_and_the_process(tmp_path: Path) -> None:
    store = MemoryMediaStore()
    routes = {"/shrt/abc": body(PNG)}
    async with serving(routes) as outside:
        async with media_room(tmp_path, [source(outside.url(""))], store=store, copy_at_once=True) as room:
            await handed_out(room.results, outside.url("/shrt/abc"))
            await copied(room, "abc")
        routes.clear()
        async with media_room(tmp_path, [source(outside.url(""))], store=store) as room:
            async with room.results.open(await room.results.lookup("abc")) as delivery:
                assert b"".join([chunk async for chunk in delivery.chunks()]) == PNG
    assert len(outside.requests) == 1
