"""Further routes of the real application, for what no real handler does on demand."""

from __future__ import annotations

from aiohttp import web

from bitmesh_proxy.context import Surface
from bitmesh_proxy.web.route import ROUTES_KEY, Access, HttpHandler, Route


def add(app: web.Application, path: str, handler: HttpHandler, *, access: Access = Access.PUBLIC) -> None:
    """Let ``handler`` serve GET and POST at ``path``, declared as every route is."""
    app[ROUTES_KEY][handler] = Route(
        method="*", path=path, handler=handler, name="extra", surface=Surface.BITMESH, access=access
    )
    app.router.add_route("GET", path, handler)
    app.router.add_route("POST", path, handler)
