"""Heads of providers' answers: read by aiohttp's own parser (llhttp), then looked at once more, strictly.

The parser only ever sees whole heads, one after the other, so that all connections share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import hdrs
from aiohttp.http import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser, RawResponseMessage

from bitmesh_proxy.upstream.framing import ChunkedBody, Framing, FramingError, NoBody, SizedBody, UntilClosed

#: Heads above this size are refused before the parser sees them.
MAX_HEAD_BYTES: Final = 64 * 1024
#: Interim answers (100, 103) before the real one.
MAX_INTERIM_ANSWERS: Final = 16

_WITHOUT_BODY: Final = frozenset({204, 304})


class AnswerHead:
    """Status and headers of an answer. ``should_close``: no other one follows on the connection."""

    __slots__ = ("code", "headers", "should_close")

    def __init__(self, code: int, headers: Mapping[str, str], should_close: bool) -> None:
        self.code = code
        self.headers = headers
        self.should_close = should_close

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case; empty when the provider sent none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()


class HeadReader:
    """Reads whole heads, of any connection."""

    __slots__ = ("_loop", "_parser")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser: Any = None

    def read(self, data: bytes, *, is_head_only: bool) -> tuple[AnswerHead, Framing | None]:
        """A head, up to and with its empty line, and how the body behind it is framed; None for an interim answer.

        ``is_head_only``: there is no body whatever the head says. Raises FramingError.
        """
        parser, self._parser = self._parser, None
        if parser is None:
            parser = HttpResponseParser(
                None,  # only a body would need the protocol
                self._loop,
                2**16,
                response_with_body=False,
                auto_decompress=False,
            )
        try:
            messages, _, _ = parser.feed_data(data)
        except HttpProcessingError as exc:
            raise FramingError("the head is not HTTP") from exc
        if not messages:
            raise FramingError("the head is incomplete")
        message: RawResponseMessage = messages[0][0]
        if not message.should_close and not message.upgrade:
            self._parser = parser  # otherwise it would take nothing more
        head = AnswerHead(message.code, message.headers, message.should_close)
        if head.code < 200:
            return head, None
        return head, framing_of(message, is_head_only=is_head_only)


def framing_of(message: RawResponseMessage, *, is_head_only: bool) -> Framing:
    """How the body behind a head is framed. Raises FramingError where two readers might disagree."""
    headers = message.headers
    lengths = headers.getall(hdrs.CONTENT_LENGTH, ())
    codings = headers.getall(hdrs.TRANSFER_ENCODING, ())
    if codings and (lengths or len(codings) > 1 or codings[0].strip().lower() != "chunked"):
        raise FramingError("the head names two framings, or one that nobody knows")
    if len(lengths) > 1:
        raise FramingError("the head names two lengths")
    if is_head_only or message.code in _WITHOUT_BODY:
        return NoBody()
    if codings:
        return ChunkedBody()
    if not lengths:
        return UntilClosed()
    length = lengths[0].strip()
    if not (length.isascii() and length.isdecimal()):
        raise FramingError("the length is no number")
    return SizedBody(int(length))
