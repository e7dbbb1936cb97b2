"""The routes of the Bitmesh API."""

from __future__ import annotations

import asyncio

import pytest

from bitmesh_proxy.context import Surface
from bitmesh_proxy.web.bitmesh import routes
from bitmesh_proxy.web.route import Access
from tests.journeys.gateway import Gateway, video


def test_they_are_those_of_the_contract() -> None:
    served = {(route.method, route.path): route.name for route in routes()}
    for (method, path), name in {
        ("GET", "/test"): "test",
        ("POST", "/chat"): "chat",
        ("POST", "/image"): "image",
        ("POST", "/video"): "video",
        ("GET", "/video/{id:.+}"): "video_status",
    }.items():
        assert served[method, path] == served[method, f"/v1{path}"] == name
    assert {route.access for route in routes()} == {Access.KEY}
    assert {route.surface for route in routes()} == {Surface.BITMESH}


@pytest.mark.parametrize("path", ["/test", "/v1/test"])
async def test_the_way_in_can_be_tried(gateway: Gateway, path: str) -> None:
    answer = await gateway.get(path)
    assert (answer.status, answer.json) == (200, {"message": "you are the man"})


async def test_a_clip_is_shown_as_last_seen_while_its_provider_cannot_be_asked(gateway: Gateway) -> None:
    submitted = await gateway.post("/video", video("A cat [[sandbox: job_s=60]]"))
    job_id = submitted.json["id"]
    await asyncio.sleep(0)
    gateway.fault("status=500", method="GET", times=20)
    shown = await gateway.get(f"/video/{job_id}")
    assert (shown.status, shown.json["id"]) == (200, job_id)
    assert shown.json["status"] in ("queued", "in_progress")
