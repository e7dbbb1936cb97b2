"""The table of all routes: complete, without doubles, and closed to the public where nothing else is said."""

from __future__ import annotations

from collections import Counter

from bitmesh_proxy.context import Surface
from bitmesh_proxy.web.route import Access
from bitmesh_proxy.web.routes import all_routes

#: What anybody may call. Whoever adds to it has to do so here too.
OPEN = {
    "/health",
    "/ready",
    "/metrics",
    "/imgrslt/{id}",
    "/v1/imgrslt/{id}",
    "/v1/models",
    "/v1/models/{id:.+}",
    "/v1/openai/models",
    "/v1/openai/models/{id:.+}",
}


def test_no_place_is_served_twice() -> None:
    served = Counter((route.method, route.path) for route in all_routes())
    assert [place for place, times in served.items() if times > 1] == []


def test_only_these_places_are_open_to_everybody() -> None:
    assert {route.path for route in all_routes() if route.access is not Access.KEY} == OPEN


def test_what_bitmesh_has_is_under_v1_too() -> None:
    bitmesh = {
        (route.method, route.path, route.handler)
        for route in all_routes()
        if route.surface is Surface.BITMESH or route.surface is Surface.PUBLIC_MEDIA
    }
    plain = {each for each in bitmesh if not each[1].startswith("/v1/")}
    assert {(method, f"/v1{path}", handler) for method, path, handler in plain} <= bitmesh
