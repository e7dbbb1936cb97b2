"""A context, a caller, and a server for one handler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bitmesh_proxy.calls import ChatCall
from bitmesh_proxy.context import Caller, RequestContext, Surface
from bitmesh_proxy.endpoints.responses.chat_call import chat_call
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.responses import ResponseStore
from bitmesh_proxy.web.responses.session import ResponseSession, Transport
from tests.endpoints.responses.making import a_request

NOON_S = 1_795_300_000.0

CALLER = Caller(account_id="acct_1", key_id="key_1")
CONTEXT = RequestContext(
    request_id="req_1",
    address="127.0.0.1",
    public_base_url="http://h.test",
    received_at_s=NOON_S,
    started_s=100.0,
    surface=Surface.OPEN_RESPONSES,
)


def a_store(database: Database) -> ResponseStore:
    return ResponseStore(database, keep_s=10_000, max_total_bytes=10_000_000, clock=lambda: NOON_S)


def a_session(kept_in: ResponseStore, /, *, transport: Transport = Transport.SSE, **fields: Any) -> ResponseSession:
    """A session of a chat request."""
    request = a_request(**fields)
    call: ChatCall = chat_call(request)
    return ResponseSession(
        request,
        call,
        context=CONTEXT,
        caller=CALLER,
        store=kept_in,
        instance=1,
        transport=transport,
        clock=lambda: NOON_S + 2,
        monotonic=lambda: 100.5,
    )


@asynccontextmanager
async def served(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[TestClient[Any, Any]]:
    """A client of a server with this one handler, on a real socket."""
    app = web.Application()
    app.router.add_route("*", "/", handler)
    async with TestClient(TestServer(app)) as client:
        yield client
