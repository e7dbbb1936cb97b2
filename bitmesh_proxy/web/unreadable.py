"""The answer to what no middleware sees: what is no HTTP, or more of it than is read, so that no request comes of it,
and a request with an expectation that nobody knows.

Where the former was meant to go is not known either, so the answer has Bitmesh's format. aiohttp's own is a plain text
that quotes what it could not read, which may be a part of a key.

aiohttp bounds the lines of a head and their number, which comes to megabytes for each connection, before anybody has
shown a key; here it is bounded as a whole. This leans on private names of ``RequestHandler``, as there is no public
way: ``tests/web/test_unreadable.py`` lists them, and ``pyproject.toml`` bounds the version.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from bitmesh_proxy.context import Surface
from bitmesh_proxy.errors import (
    ExpectationFailed,
    GatewayError,
    HeadTooLarge,
    InvalidRequest,
    VersionNotSupported,
)
from bitmesh_proxy.web.error_formats import render_error
from bitmesh_proxy.web.replies import SERVER
from bitmesh_proxy.web.request_ids import make_request_id
from bitmesh_proxy.web.route import route_of

_VERSIONS: Final = (HttpVersion10, HttpVersion11)


class _Overlong(HttpProcessingError):
    """A head does not end."""


class _OtherVersion(HttpProcessingError):
    """The parser takes HTTP/0.9 and HTTP/2.0 in a request's line, but nobody can be answered in them."""


class JsonRefusals(RequestHandler):
    """A connection of aiohttp's, with that answer, and at most ``max_head_bytes`` of a head whose end has not come.

    A head that comes in one read, which is 256 KiB at most, is kept no longer than its request.
    """

    __slots__ = ("_head_bytes", "_last_body", "_max_head_bytes")

    def __init__(self, manager: web.Server, *, max_head_bytes: int, **options: Any) -> None:
        super().__init__(manager, **options)
        self._max_head_bytes = max_head_bytes
        #: Of the head that is on its way; above the bound, it has been refused.
        self._head_bytes = 0
        #: Of the message that the parser found last.
        self._last_body: StreamReader = EMPTY_PAYLOAD

    def data_received(self, data: bytes) -> None:
        """See asyncio. Called by aiohttp too, without data."""
        if self._head_bytes > self._max_head_bytes:
            return
        queued, is_head = len(self._messages), self._last_body.is_eof()
        super().data_received(data)
        if len(self._messages) > queued:
            for at in range(queued, len(self._messages)):
                message = self._messages[at][0]
                if isinstance(message, RawRequestMessage) and message.version not in _VERSIONS:
                    self._messages[at] = _ErrInfo(VersionNotSupported.status, _OtherVersion(), ""), EMPTY_PAYLOAD
            self._head_bytes, self._last_body = 0, self._messages[-1][1]
        elif is_head and self._payload_parser is None and not self._upgraded:
            self._head_bytes += len(data)
            if self._head_bytes > self._max_head_bytes:
                self._messages.append((_ErrInfo(HeadTooLarge.status, _Overlong(), ""), EMPTY_PAYLOAD))
                if self._waiter is not None and not self._waiter.done():
                    self._waiter.set_result(None)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See aiohttp, which logs it, and closes the connection.

        Raises ConnectionError where it is one: no error of ours, which none of the middlewares has seen, but a caller
        who was to be told to go on (``Expect: 100-continue``), and has left. The connection then ends without a word.
        """
        if isinstance(exc, ConnectionError):
            raise exc
        answer = super().handle_error(request, status, exc, message)
        if not isinstance(exc, HttpProcessingError):
            answer.headers["Server"] = SERVER
            return answer
        error: GatewayError
        if isinstance(exc, _Overlong):
            error = HeadTooLarge(f"The request's headers are larger than {self._max_head_bytes} bytes.")
        elif isinstance(exc, _OtherVersion):
            error = VersionNotSupported("The versions of HTTP that are spoken here are 1.0 and 1.1.")
        elif isinstance(exc, LineTooLong):
            error = InvalidRequest("The request's address or one of its headers is too long.")
        else:
            error = InvalidRequest("The request is not valid HTTP.")
        return _refusal(error, Surface.BITMESH)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """See aiohttp, which answers an unknown expectation itself, and holds on to an answer until there is another,
        though it may have megabytes and the connection wait for minutes."""
        if isinstance(resp, web.HTTPExpectationFailed) and isinstance(request, web.Request):
            error = ExpectationFailed("The only expectation (Expect) that is met is 100-continue.")
            resp = _refusal(error, route_of(request).surface)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            if isinstance(resp, web.Response):
                resp.body = None


def _refusal(error: GatewayError, surface: Surface) -> web.Response:
    rendered = render_error(error, surface, make_request_id())
    refusal = web.Response(status=rendered.status, headers={**rendered.headers, "Server": SERVER}, body=rendered.body)
    refusal.force_close()
    return refusal
