"""Result files: links, ranges, ends of life, and padding."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from bitmesh_proxy.sandbox.files import MAX_WHOLE_BYTES, Padded, RangeNotSatisfiable, find_range, pad
from bitmesh_proxy.sandbox.movies import walk
from bitmesh_proxy.sandbox.plays import Refused
from tests.sandbox.callers import Caller


async def make_url(caller: Caller, **more: Any) -> str:
    """The short link of a new picture."""
    body = {"model": "m", "prompt": "x", "width": 64, "height": 64, "output_format": "png", **more}
    answer = await caller.post("/together/v1/images/generations", body)
    return str(answer.json["data"][0]["url"])


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-500", (0, 100)),
        (" bytes=1-2 ", (1, 3)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=0-1,4-5", None),
        ("lines=1-2", None),
        ("bytes=a-b", None),
    ],
)
def test_ranges(asked: str, found: tuple[int, int] | None) -> None:
    assert find_range(asked, 100) == found


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_ranges_behind_the_end(asked: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        find_range(asked, 100)


@pytest.mark.parametrize(("start", "end"), [(0, 30), (0, 10), (5, 15), (10, 30), (20, 21), (29, 30)])
def test_padding_is_cut_where_asked(start: int, end: int) -> None:
    content = Padded(head=b"0123456789", zeros=20)
    assert b"".join(content.pieces(start, end)) == (b"0123456789" + bytes(20))[start:end]
    assert content.size == 30


def test_padding_never_makes_a_file_smaller() -> None:
    assert pad(b"0123456789", "image/png", 5) == pad(b"0123456789", "image/png", None) == Padded(head=b"0123456789")
    assert pad(b"0123456789", "video/mp4", 12).whole() == b"0123456789\0\0"


def test_padding_of_an_mp4_is_a_box() -> None:
    head = (8).to_bytes(4) + b"moov"
    assert [box.kind for box in walk(pad(head, "video/mp4", 5000).whole())] == [b"moov", b"free"]


def test_what_is_built_in_memory_is_bounded() -> None:
    with pytest.raises(Refused):
        pad(b"x", "image/png", MAX_WHOLE_BYTES + 1).whole()


async def test_a_short_link_leads_to_the_file(caller: Caller) -> None:
    short = await make_url(caller)
    redirect = await caller.get(short, allow_redirects=False, headers={"Authorization": ""})
    assert redirect.status == 302
    assert redirect.headers["Location"].startswith(f"{caller.sandbox.url}/together/files/")
    answer = await caller.get(short, headers={"Authorization": ""})
    assert answer.status == 200
    assert (answer.headers["Content-Type"], answer.headers["Accept-Ranges"]) == ("image/png", "bytes")
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    with Image.open(io.BytesIO(answer.body)) as image:
        assert image.size == (64, 64)


async def test_a_head_tells_the_size(caller: Caller) -> None:
    short = await make_url(caller)
    answer = await caller.get(short)
    head = await caller.call("HEAD", short, allow_redirects=True)
    assert (head.status, head.body) == (200, b"")
    for name in ("Content-Length", "ETag", "Content-Type"):
        assert head.headers[name] == answer.headers[name]


async def test_a_part_of_a_file(caller: Caller) -> None:
    short = await make_url(caller)
    whole = await caller.get(short)
    part = await caller.get(short, headers={"Range": "bytes=10-19"})
    assert (part.status, part.body) == (206, whole.body[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole.body)}"
    assert part.headers["Content-Length"] == "10"
    beyond = await caller.get(short, headers={"Range": "bytes=999999-"})
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(whole.body)}")
    assert (await caller.get(short, headers={"Range": "bytes=0-1,3-4"})).body == whole.body


async def test_a_part_of_the_same_file_only(caller: Caller) -> None:
    short = await make_url(caller)
    tag = (await caller.get(short)).headers["ETag"]
    assert (await caller.get(short, headers={"Range": "bytes=0-1", "If-Range": tag})).status == 206
    assert (await caller.get(short, headers={"Range": "bytes=0-1", "If-Range": '"other"'})).status == 200


async def test_a_huge_file_is_still_a_picture(caller: Caller) -> None:
    short = await make_url(caller, prompt="x [[sandbox: huge=2000000]]")
    answer = await caller.get(short)
    assert len(answer.body) == int(answer.headers["Content-Length"]) == 2_000_000
    with Image.open(io.BytesIO(answer.body)) as image:
        image.load()
    tail = await caller.get(short, headers={"Range": "bytes=-3"})
    assert (tail.status, tail.body) == (206, bytes(3))


async def test_a_link_dies_in_time(caller: Caller) -> None:
    short = await make_url(caller)
    caller.clock.now_s += 3599
    assert (await caller.get(short)).status == 200
    caller.clock.now_s += 1
    answer = await caller.get(short)
    assert (answer.status, answer.headers["Content-Type"]) == (403, "application/xml; charset=utf-8")
    assert b"Request has expired" in answer.body


async def test_what_was_never_made_is_404(caller: Caller) -> None:
    short = await make_url(caller)
    file_id = short.rpartition("/")[2]
    for path in ("shrt/nothing", f"files/{file_id}.jpg", "files/nothing.png", f"shrt/{file_id}x"):
        assert (await caller.get(f"/together/{path}")).status == 404
