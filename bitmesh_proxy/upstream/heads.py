"""Heads of providers' answers: read by aiohttp's own parser (llhttp), then looked at once more, strictly.

The parser only ever sees whole heads, one after the other, so that all connections share one. What it made of a short
head is remembered, byte for byte: servers that put no id of the answer into it write the same one again and again, at
least within a second (a tenth of what a whole answer takes was to read it).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from aiohttp import hdrs
from aiohttp.http import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser, RawResponseMessage

from bitmesh_proxy.upstream.framing import ChunkedBody, Framing, FramingError, NoBody, SizedBody, UntilClosed

#: Heads above this size are refused before the parser sees them.
MAX_HEAD_BYTES: Final = 64 * 1024
#: Interim answers (100, 103) before the real one.
MAX_INTERIM_ANSWERS: Final = 16

#: Longer heads mostly hold an id of the answer, or cookies, and never come again.
MAX_KEPT_BYTES: Final = 512
#: A head takes about 2 KiB. When there are so many, all are forgotten: the ``Date`` in them is over anyway.
MAX_KEPT: Final = 128

_WITHOUT_BODY: Final = frozenset({204, 304})
#: ``aws-chunked`` is a left-over of the upload that S3 repeats on the download; the bytes are plain.
_NO_CODING: Final = frozenset({"", "identity", "aws-chunked"})


class AnswerHead:
    """Status and headers of an answer, not to be changed. ``should_close``: no other one follows on the connection.

    ``length_bytes``: that of the body, where it is framed by a declared length. ``is_coded``: it is compressed, or the
    like, which nobody here asks for, or could read.
    """

    __slots__ = ("_media_type", "code", "headers", "is_coded", "length_bytes", "should_close")

    def __init__(
        self, code: int, headers: Mapping[str, str], should_close: bool, length_bytes: int | None = None
    ) -> None:
        self.code = code
        self.headers = headers
        self.should_close = should_close
        self.length_bytes = length_bytes
        self.is_coded = headers.get(hdrs.CONTENT_ENCODING, "").strip().lower() not in _NO_CODING
        self._media_type: str | None = None

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case; empty when the provider sent none."""
        media_type = self._media_type
        if media_type is None:
            media_type = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            self._media_type = media_type
        return media_type


class HeadReader:
    """Reads whole heads, of any connection."""

    __slots__ = ("_loop", "_parser", "kept")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser: Any = None
        #: Heads that have been read, with what makes the framing of the body behind them; not those of answers to HEAD.
        self.kept: dict[bytes, tuple[AnswerHead, Callable[[], Framing]]] = {}

    def read(self, data: bytes, *, is_head_only: bool) -> tuple[AnswerHead, Framing | None]:
        """A head, up to and with its empty line, and how the body behind it is framed; None for an interim answer.

        ``is_head_only``: there is no body whatever the head says. Raises FramingError.
        """
        message = self._parsed(data)
        if message.code < 200:
            return AnswerHead(message.code, message.headers, message.should_close), None
        length_bytes, make_framing = framing_of(message, is_head_only=is_head_only)
        head = AnswerHead(message.code, message.headers, message.should_close, length_bytes)
        if not is_head_only and len(data) <= MAX_KEPT_BYTES:
            if len(self.kept) >= MAX_KEPT:
                self.kept.clear()
            self.kept[data] = head, make_framing
        return head, make_framing()

    def _parsed(self, data: bytes) -> RawResponseMessage:
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
        return message


def framing_of(message: RawResponseMessage, *, is_head_only: bool) -> tuple[int | None, Callable[[], Framing]]:
    """How the body behind a head is framed: its declared length, if that counts, and what makes the framing.

    Raises FramingError where two readers might disagree.
    """
    headers = message.headers
    lengths = headers.getall(hdrs.CONTENT_LENGTH, ())
    codings = headers.getall(hdrs.TRANSFER_ENCODING, ())
    if codings and (lengths or len(codings) > 1 or codings[0].strip().lower() != "chunked"):
        raise FramingError("the head names two framings, or one that nobody knows")
    if len(lengths) > 1:
        raise FramingError("the head names two lengths")
    if is_head_only or message.code in _WITHOUT_BODY:
        return None, NoBody
    if codings:
        return None, ChunkedBody
    if not lengths:
        return None, UntilClosed
    length = lengths[0].strip()
    if not (length.isascii() and length.isdecimal()):
        raise FramingError("the length is no number")
    length_bytes = int(length)
    return length_bytes, partial(SizedBody, length_bytes)
