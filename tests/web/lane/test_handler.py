"""Connections are as aiohttp makes them, slot by slot, though aiohttp does not make them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from bitmesh_proxy.web.lane.handler import Handler

#: As ``app.make_runner`` has them, and every option that aiohttp takes, with another value than its own.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"access_log": None, "auto_decompress": False, "keepalive_timeout": 75.0},
    {
        "keepalive_timeout": 1.5,
        "tcp_keepalive": False,
        "debug": True,
        "max_line_size": 11,
        "max_headers": 12,
        "max_field_size": 13,
        "lingering_time": 14.0,
        "read_bufsize": 15,
        "auto_decompress": False,
        "timeout_ceil_threshold": 16,
    },
]


def slots_of(handler: RequestHandler) -> dict[str, Any]:
    """What each slot of aiohttp's holds; the parser is one of both, or none."""
    names = [name for made in RequestHandler.__mro__ for name in getattr(made, "__slots__", ())]
    assert len(names) > 40
    return {name: getattr(handler, name) for name in names if name != "_parser" and hasattr(handler, name)}


def made(options: dict[str, Any]) -> tuple[RequestHandler, Handler]:
    """One that aiohttp has made, and one of ours."""
    server = web.Server(lambda request: None)  # type: ignore[arg-type,return-value]  # it serves nothing
    like = RequestHandler(server, loop=asyncio.get_running_loop(), **options)
    return like, Handler(like, options.get("auto_decompress", True), max_head_bytes=65_536)


@pytest.mark.parametrize("options", OPTIONS)
async def test_every_slot_is_as_aiohttp_leaves_it(options: dict[str, Any]) -> None:
    like, handler = made(options)
    ours, theirs = slots_of(handler), slots_of(like)
    assert ours == theirs
    assert {name: type(value) for name, value in ours.items()} == {name: type(value) for name, value in theirs.items()}


async def test_nothing_that_changes_belongs_to_two() -> None:
    like, handler = made(OPTIONS[1])
    shared = {
        name
        for name, value in slots_of(handler).items()
        if value is getattr(like, name) and not isinstance(value, int | float | str | bytes | None)
    }
    assert shared == {"_loop", "_manager", "_request_handler", "_request_factory", "logger"}


async def test_the_parser_is_there_for_the_first_bytes_and_not_after_the_end() -> None:
    """And what it reads lies in the queue."""
    _, handler = made(OPTIONS[1])
    parsers = [handler._parser]
    for data in (b"GET / HT", b"TP/1.1\r\nHost: x\r\n\r\n"):
        handler.data_received(data)
        parsers.append(handler._parser)
    assert parsers[0] is None
    assert parsers[1] is parsers[2] is not None
    ((message, payload),) = handler._messages
    assert isinstance(message, RawRequestMessage)
    assert (message.method, message.path) == ("GET", "/")
    assert payload.is_eof()
    handler.connection_lost(None)
    handler.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert handler._parser is None
