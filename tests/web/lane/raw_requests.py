"""Requests as bytes, and what a lane makes of them: by the parser's word, and by what it remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import StreamReader

from bitmesh_proxy.web.lane.entry import Visitor
from bitmesh_proxy.web.lane.heads import left_of
from bitmesh_proxy.web.lane.lane import Lane
from bitmesh_proxy.web.route import Route

Headers = Sequence[tuple[str, str]]
TOKEN = "a-token"
PLAIN: Headers = (("Host", "ai.example"), ("Content-Type", "application/json"), ("Authorization", f"Bearer {TOKEN}"))


def replaced(name: str, value: str | None) -> Headers:
    """The plain headers with another value of one, or without it."""
    return [each for each in PLAIN if each[0] != name] + ([] if value is None else [(name, value)])


def messages_of(data: bytes) -> list[tuple[RawRequestMessage, StreamReader]]:
    """What the parser of a new connection makes of this. Raises HttpProcessingError."""
    loop = asyncio.get_running_loop()
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, auto_decompress=False)
    return list(parser.feed_data(data)[0])


def parsed(data: bytes) -> tuple[RawRequestMessage, StreamReader]:
    """A request as the connection's parser gives it. Raises HttpProcessingError."""
    ((message, payload),) = messages_of(data)
    return message, payload


def request(
    headers: Headers = PLAIN,
    *,
    line: str = "POST /chat HTTP/1.1",
    body: bytes = b"{}",
    length: str | None = None,
    name: str = "Content-Length",
) -> bytes:
    """A request as bytes."""
    lines = [line, *(f"{name}: {value}" for name, value in headers)]
    lines.insert(1 + len(headers) // 2, f"{name}: {len(body) if length is None else length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape") + body


def taken(
    lane: Lane, headers: Headers = PLAIN, *, peer: str | None = "192.0.2.1", **more: Any
) -> tuple[Route, Visitor, bytes] | None:
    """Does the lane take this?"""
    entry = lane.takes(*parsed(request(headers, **more)), peer)
    return None if entry is None else (entry.route, entry.visitor, entry.token_digest)


def learnt(lane: Lane, data: bytes, peer: str | None = "192.0.2.1") -> bool:
    """As a connection does, whose parser stands between two messages. Is it taken?"""
    messages = messages_of(data)
    if len(messages) != 1:
        return False
    message, payload = messages[0]
    entry = lane.takes(message, payload, peer)
    if entry is not None and left_of(message, data) == 0:
        lane.heads.remember(entry, message, data, payload.total_bytes, peer=peer)
    return entry is not None


def as_parsed(lane: Lane, data: bytes, peer: str | None) -> tuple[Route, Visitor, bytes, bytes] | None:
    """One whole request and nothing else, which the lane takes, by the parser's word."""
    try:
        messages = messages_of(data)
    except HttpProcessingError:
        return None
    if len(messages) != 1 or left_of(messages[0][0], data) != 0:
        return None
    message, payload = messages[0]
    entry = lane.takes(message, payload, peer)
    return None if entry is None else (entry.route, entry.visitor, entry.token_digest, payload.read_nowait())


def as_recalled(lane: Lane, data: bytes, peer: str | None) -> tuple[Route, Visitor, bytes, bytes] | None:
    """The same, by the lane's memory."""
    recalled = lane.heads.recall(data, peer)
    if recalled is None:
        return None
    entry, body, newcomer = recalled
    return entry.route, entry.visitor, newcomer or entry.token_digest, body


def damaged(chance: Random, data: bytes) -> bytes:
    """Something else, which may look like it."""
    at_byte, other = chance.randrange(len(data)), chance.randrange(len(data))
    kind = chance.randrange(8)
    if kind == 0:
        return data[:at_byte]
    if kind == 1:
        return data + data[:other]
    if kind == 2:
        return data[:at_byte] + bytes([chance.choice(b"\r\n \0:9X")]) + data[at_byte:]
    if kind == 3:
        return data[:at_byte] + bytes([chance.choice(b"\r\n \0:9X")]) + data[at_byte + 1 :]
    if kind == 4:
        return data.replace(b"\r\n", b"\n", chance.choice([-1, 1, 2]))
    if kind == 5:
        return chance.choice([b"\r\n", b"\r\n\r\n", b"\n", b" "]) + data
    if kind == 6:
        return data.replace(b"\r\n\r\n", b"\r\n" + data[at_byte:other] + b"\r\n\r\n", 1)
    return data[other:] + data[:other]
