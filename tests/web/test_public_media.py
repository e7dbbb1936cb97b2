"""The way to results for everybody who has their link."""

from __future__ import annotations

from bitmesh_proxy.context import Surface
from bitmesh_proxy.web.public_media import routes
from bitmesh_proxy.web.route import Access
from tests.journeys.gateway import Gateway, image


def test_it_is_open_to_everybody_and_has_heads() -> None:
    assert {(route.method, route.path) for route in routes()} == {
        (method, path) for method in ("GET", "HEAD") for path in ("/imgrslt/{id}", "/v1/imgrslt/{id}")
    }
    assert {(route.access, route.surface) for route in routes()} == {(Access.PUBLIC, Surface.PUBLIC_MEDIA)}


async def test_a_result_needs_its_link_and_nothing_else(gateway: Gateway) -> None:
    made = await gateway.post("/image", image())
    path = made.json["data"][0]["url"].removeprefix(gateway.url)
    async with gateway.http.get(gateway.url + path) as answer:
        assert answer.status == 200
        assert answer.content_type == "image/jpeg"
    for unknown in ("/imgrslt/aaaaaaaaaaaaaaaa", "/imgrslt/..%2F..%2Fetc", "/v1/imgrslt/x"):
        missing = await gateway.get(unknown, headers={"Authorization": ""})
        assert (missing.status, missing.headers["Content-Type"]) == (404, "text/plain; charset=utf-8")
        assert missing.body == b"Resource not found"
