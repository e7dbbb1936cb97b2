"""``/health``: the process is alive. ``/ready``: it can serve (database writable, catalogue loaded, not draining).

``/metrics``: counts, for those networks that may have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from aiohttp import web

from bitmesh_proxy import __version__, keys
from bitmesh_proxy.context import Surface
from bitmesh_proxy.errors import NotFound, Unavailable
from bitmesh_proxy.metrics import CONTENT_TYPE, load_renderer
from bitmesh_proxy.web.replies import json_answer
from bitmesh_proxy.web.route import Access, Route


async def handle_health(request: web.Request) -> web.StreamResponse:
    """Alive."""
    return json_answer({"status": "ok", "version": __version__})


async def handle_ready(request: web.Request) -> web.StreamResponse:
    """Able to serve, or 503 with what is missing."""
    app = request.app
    checks: dict[str, str] = {"catalogue": "ok" if app[keys.CATALOGUE].models else "empty"}
    try:
        await app[keys.DATABASE].see_that_new_work_can_be_written()
        checks["database"] = "ok"
    except Unavailable as exc:
        checks["database"] = exc.message
    checks["accepting"] = "ok" if not app[keys.DRAINING].is_set() else "draining"
    is_ready = all(value == "ok" for value in checks.values())
    body = {"status": "ready" if is_ready else "not ready", "checks": checks}
    return json_answer(body, status=200 if is_ready else 503)


async def handle_metrics(request: web.Request) -> web.StreamResponse:
    """Counts in Prometheus' text format. For everybody else the route is not there."""
    address = request[keys.STATE].context.address
    networks = request.app[keys.SETTINGS].metrics.allowed_networks
    if not _is_within(address, networks):
        raise NotFound("Not found")
    await asyncio.to_thread(load_renderer)
    return web.Response(body=request.app[keys.METRICS].render(), headers={"Content-Type": CONTENT_TYPE})


def _is_within(address: str, networks: Sequence[str]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in ip_network(network) for network in networks)


def routes() -> list[Route]:
    """The probes. Many monitors ask with HEAD, and would take a 405 for a service that is down."""
    return [
        Route(method=method, path=path, handler=handler, name=path[1:], surface=Surface.OPENAI, access=Access.PROBE)
        for method, path, handler in (
            ("GET", "/health", handle_health),
            ("HEAD", "/health", handle_health),
            ("GET", "/metrics", handle_metrics),
            ("GET", "/ready", handle_ready),
            ("HEAD", "/ready", handle_ready),
        )
    ]
