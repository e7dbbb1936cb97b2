"""What every endpoint that makes a call has in common."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from bitmesh_proxy.endpoints import bitmesh
from bitmesh_proxy.web.serve_call import call_handler, caller_of
from tests.journeys.gateway import Gateway, chat, running_gateway
from tests.web.extra_routes import add


async def needs_caller(request: web.Request) -> web.StreamResponse:
    return web.json_response({"key": caller_of(request).key_id})


async def test_a_public_route_that_wants_a_caller_is_a_fault_of_ours(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, prepare=lambda app: add(app, "/wrong", needs_caller)) as gateway:
        answer = await gateway.get("/wrong")
        assert (answer.status, answer.json) == (500, {"error": "Internal server error"})


def test_a_handler_is_named_for_its_endpoint() -> None:
    assert getattr(call_handler(bitmesh.CHAT), "__name__", "") == "handle_chat"


async def test_the_same_key_at_another_place_is_another_request(gateway: Gateway) -> None:
    headers = {"Idempotency-Key": "k"}
    assert (await gateway.post("/chat", chat(), headers=headers)).status == 200
    assert (await gateway.post("/v1/chat", chat(), headers=headers)).status == 409
    assert len(gateway.upstream_calls()) == 1


async def test_a_body_over_the_depth_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"http": {"max_json_depth": 4}}) as gateway:
        answer = await gateway.post("/chat", chat(metadata=[[[[[1]]]]]))
        assert answer.status == 400
        assert "nested" in answer.json["error"]
        assert await gateway.books.rows() == []
