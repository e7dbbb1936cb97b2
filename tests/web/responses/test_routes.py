from __future__ import annotations

import pytest

from bitmesh_proxy.context import Surface
from bitmesh_proxy.web.responses.routes import routes
from bitmesh_proxy.web.route import Access


def test_every_route_stands_under_both_roots_and_needs_a_key() -> None:
    table = {(route.method, route.path): route for route in routes()}
    for (method, path), route in table.items():
        assert (method, path.replace("/v1/responses", "/v1/openai/responses")) in table
        assert route.access is Access.KEY
        assert route.surface is Surface.OPEN_RESPONSES


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", ""),
        ("GET", ""),
        ("GET", "/{response_id}"),
        ("DELETE", "/{response_id}"),
        ("POST", "/{response_id}/cancel"),
        ("GET", "/{response_id}/input_items"),
        ("POST", "/input_tokens"),
        ("POST", "/compact"),
    ],
)
def test_what_clients_call_is_there(method: str, path: str) -> None:
    assert (method, f"/v1/responses{path}") in {(route.method, route.path) for route in routes()}
