"""An id of our making is new with every request, and only where it was asked for."""

from __future__ import annotations

import uuid

from aiohttp import web
from aiohttp.test_utils import TestServer

from bitmesh_proxy.dialects.base import FRESH_UUID, UpstreamRequest
from bitmesh_proxy.providers.runware import PROVIDER
from bitmesh_proxy.settings import Upstream as UpstreamSettings
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.client import Upstream


async def test_the_placeholder_is_replaced_once_and_by_another_each_time() -> None:
    seen: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        seen.append(await request.read())
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/v1", take)
    body = b'["' + FRESH_UUID + b'","' + FRESH_UUID + b'"]'
    async with TestServer(app) as server, Upstream(UpstreamSettings()) as upstream:
        access = ProviderAccess(provider=PROVIDER, roots={"default": str(server.make_url("/v1"))}, auth_headers={})
        for needs in (True, True, False):
            request = UpstreamRequest(path="", body=body, needs_fresh_uuid=needs)
            async with upstream.open(access, request) as answer:
                await answer.read(1000)
    ids = [text[2:38] for text in seen]
    assert ids[0] != ids[1]
    assert all(uuid.UUID(each.decode()).version == 4 for each in ids)
    assert [text[41:77] for text in seen] == [FRESH_UUID] * 3
    assert ids[2] == FRESH_UUID
