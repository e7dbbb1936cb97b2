"""Large bodies share a room: those that are too many are refused before they are in memory, and a lone one never."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.web.body_room import FREE_BYTES, ROOM_KEY, BodyRoom, Hold, parsed_bytes
from bitmesh_proxy.web.call_bodies import read_call_body
from tests.journeys.gateway import Gateway, chat, eventually, raw_call, running_gateway
from tests.web.extra_routes import add

ROOM_BYTES = 1_000_000


def test_room_is_taken_and_given_back() -> None:
    room = BodyRoom(100)
    one, other = Hold(room), Hold(room)
    one.take(60)
    other.take(40)
    with pytest.raises(Unavailable) as refusal:
        other.take(1)
    assert refusal.value.retry_after_s
    assert room.taken_bytes == 100
    one.release()
    one.release()
    assert room.taken_bytes == 40
    other.take(60)
    other.release()
    assert room.taken_bytes == 0


def test_who_is_alone_finds_room_and_others_wait_for_him() -> None:
    room = BodyRoom(100)
    large, small = Hold(room), Hold(room)
    large.take(90)
    large.take(900)
    with pytest.raises(Unavailable):
        small.take(1)
    large.release()
    small.take(1)
    with pytest.raises(Unavailable):
        large.take(100)


def size_of(value: Any) -> int:
    """What a parsed value takes, as far as Python says; 16 more for what the collector looks after."""
    if isinstance(value, dict):
        inner = sum(map(size_of, value)) + sum(map(size_of, value.values()))
        return sys.getsizeof(value) + 16 + inner
    if isinstance(value, list):
        return sys.getsizeof(value) + 16 + sum(map(size_of, value))
    return sys.getsizeof(value)


@pytest.mark.parametrize(
    "value",
    [
        {"text": "x" * 50_000},
        {"text": "\u044f" * 50_000},
        {"text": "x" * 50_000 + "\U0001f600"},
        {"list": [[] for _ in range(9_000)]},
        {"dicts": [{} for _ in range(9_000)]},
        {"dicts": [{"a": 1} for _ in range(9_000)]},
        {"dicts": [{f"name{n}": n + 0.5} for n in range(9_000)]},
        {f"name{n}": n + 1000 for n in range(22_000)},
        {"numbers": [n + 0.5 for n in range(20_000)]},
        {"texts": [str(n) for n in range(20_000)]},
        {"deep": [[[[[n + 1000]]]] for n in range(3_000)]},
    ],
    ids=lambda value: f"{next(iter(value))}",
)
def test_no_less_is_taken_than_parsing_takes(value: dict[str, Any]) -> None:
    for raw in (orjson.dumps(value), json.dumps(value).encode()):
        assert size_of(value) <= parsed_bytes(raw)


async def echo(request: web.Request) -> web.StreamResponse:
    return web.json_response({"values": len(await read_call_body(request))})


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    http = {"max_bodies_bytes": ROOM_BYTES}
    async with running_gateway(tmp_path, {"http": http}, prepare=lambda app: add(app, "/echo", echo)) as gateway:
        yield gateway


def slow(
    gateway: Gateway, size_bytes: int, path: str = "/echo"
) -> AbstractAsyncContextManager[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A body of which so much comes, and nothing further."""
    return raw_call(gateway, "POST", path, b"[" + b" " * (size_bytes - 1), headers={"Content-Length": "5000000"})


def taken_bytes(gateway: Gateway) -> int:
    return gateway.app[ROOM_KEY].taken_bytes


async def test_large_bodies_are_refused_while_others_take_the_room(gateway: Gateway) -> None:
    """Before the provider hears of it or anything is reserved; and they are served when the others have gone."""
    body = chat("x" * 300_000)
    async with slow(gateway, 600_000):
        await eventually(lambda: taken_bytes(gateway) == 600_000, "the body is counted as it comes")
        answer = await gateway.post("/v1/chat/completions", body)
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        assert answer.json["error"]["message"] == "Too many large requests at the moment. Please try again."
        assert taken_bytes(gateway) == 600_000
        assert (await gateway.post("/v1/chat/completions", chat())).status == 200, "what is small needs no room"
    await eventually(lambda: taken_bytes(gateway) == 0, "who has left takes nothing")
    assert len(await gateway.books.rows()) == 1
    assert (await gateway.post("/echo", body)).status == 200
    assert taken_bytes(gateway) == 0
    await gateway.check_books()


async def test_a_body_is_refused_for_what_it_would_become(gateway: Gateway) -> None:
    values = {"values": [1000] * (2 * FREE_BYTES // 5)}
    async with slow(gateway, 200_000):
        await eventually(lambda: taken_bytes(gateway) == 200_000, "the body is counted")
        assert (await gateway.post("/echo", values)).status == 503
        assert (await gateway.post("/echo", {"text": "x" * 2 * FREE_BYTES})).status == 200
        assert taken_bytes(gateway) == 200_000
    assert (await gateway.post("/echo", values)).status == 200


async def test_a_lone_body_is_served_however_large_it_is(gateway: Gateway) -> None:
    assert (await gateway.post("/echo", {"text": "x" * 900_000})).status == 200
    assert taken_bytes(gateway) == 0


async def test_an_announced_length_takes_no_room(gateway: Gateway) -> None:
    async with slow(gateway, 1000):
        assert (await gateway.post("/echo", {"text": "x" * 300_000})).status == 200


async def test_files_of_forms_take_room_when_they_are_read(gateway: Gateway) -> None:
    def form() -> aiohttp.FormData:
        data = aiohttp.FormData()
        data.add_field("model", "test/one")
        data.add_field("prompt", "brighter")
        data.add_field("image", b"\x89PNG" + b"x" * 250_000, filename="a.png")
        return data

    async with slow(gateway, 600_000):
        await eventually(lambda: taken_bytes(gateway) == 600_000, "the body is counted")
        url = f"{gateway.url}/v1/images/edits"
        async with gateway.http.post(url, data=form(), headers=gateway.bearer) as answer:
            assert answer.status == 503, await answer.text()
    await eventually(lambda: taken_bytes(gateway) == 0, "who has left takes nothing")
    async with gateway.http.post(url, data=form(), headers=gateway.bearer) as answer:
        assert answer.status in (400, 404), "a picture that is none, of a model that is none"
    assert taken_bytes(gateway) == 0
    assert await gateway.books.rows() == []
