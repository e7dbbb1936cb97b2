"""The answer to what no middleware sees: what is no HTTP, or more of it than is read, so that no request comes of it,
and a request with an expectation that nobody knows.

Where the former was meant to go is not known either, so the answer has Bitmesh's format. aiohttp's own is a plain text
that quotes what it could not read, which may be a part of a key.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler

from bitmesh_proxy.context import Surface
from bitmesh_proxy.errors import ExpectationFailed, GatewayError, InvalidRequest
from bitmesh_proxy.web.error_formats import render_error
from bitmesh_proxy.web.replies import SERVER
from bitmesh_proxy.web.request_ids import make_request_id
from bitmesh_proxy.web.route import route_of


class JsonRefusals(RequestHandler):
    """A connection of aiohttp's, with that answer."""

    __slots__ = ()

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
        if isinstance(exc, LineTooLong):
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
