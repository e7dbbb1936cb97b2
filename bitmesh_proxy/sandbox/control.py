"""``/_control``: from outside, say what is to go wrong, and see what was received. Loopback and JSON only.

``POST /_control`` takes ``{"clear": true}`` and/or
``{"faults": [{"directives": "status=503", "times": 2, "path": "/openai/*", "method": "POST"}]}``; only ``directives``
is required. ``GET /_control`` shows the pending faults and the recorded requests, newest first.
"""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, fields
from typing import Any

import orjson
from aiohttp import web

from bitmesh_proxy.sandbox.faults import MAX_PENDING_FAULTS, Directives, Fault, UnknownDirective, parse_directives
from bitmesh_proxy.sandbox.performance import STAGE
from bitmesh_proxy.sandbox.stage import Stage

FAULT_FIELDS = frozenset({"directives", "times", "path", "method"})


def control_routes() -> list[web.RouteDef]:
    return [web.get("/_control", show), web.post("/_control", change)]


async def show(request: web.Request) -> web.Response:
    _require_loopback(request)
    return _answer(request.app[STAGE])


async def change(request: web.Request) -> web.Response:
    """All or nothing: a fault that is not understood changes nothing."""
    _require_loopback(request)
    if request.content_type != "application/json":
        # A web page cannot send this type across origins without asking first.
        raise web.HTTPUnsupportedMediaType(text="send application/json")
    stage = request.app[STAGE]
    try:
        wanted = orjson.loads(await request.read())
        faults = [_fault(item) for item in wanted.get("faults", [])]
        if unknown := wanted.keys() - {"faults", "clear"}:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        pending = 0 if wanted.get("clear") else len(stage.faults.pending)
        if pending + len(faults) > MAX_PENDING_FAULTS:
            raise ValueError(f"at most {MAX_PENDING_FAULTS} faults may be pending")
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise web.HTTPBadRequest(text=f"not understood: {error}") from error
    if wanted.get("clear"):
        stage.faults.clear()
    for fault in faults:
        stage.faults.add(fault)
    return _answer(stage)


def _fault(item: dict[str, Any]) -> Fault:
    if unknown := item.keys() - FAULT_FIELDS:
        raise UnknownDirective(f"unknown: {', '.join(sorted(unknown))}")
    times = item.get("times", 1)
    if not isinstance(times, int) or times < 1:
        raise ValueError("times must be a whole number from 1")
    return Fault(
        directives=parse_directives(item["directives"]),
        times=times,
        path=str(item.get("path", "*")),
        method=str(item.get("method", "*")),
    )


def _require_loopback(request: web.Request) -> None:
    try:
        is_local = ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        is_local = False
    if not is_local:
        raise web.HTTPForbidden(text="from this machine only")


def _answer(stage: Stage) -> web.Response:
    shown = {
        "faults": [
            {
                "directives": _said(fault.directives),
                "times": fault.times,
                "path": fault.path,
                "method": fault.method,
            }
            for fault in stage.faults.pending
        ],
        "requests": [asdict(received) for received in reversed(stage.requests)],
    }
    return web.Response(body=orjson.dumps(shown), content_type="application/json")


def _said(directives: Directives) -> dict[str, Any]:
    pairs = ((field.name, field.default, getattr(directives, field.name)) for field in fields(directives))
    return {name: value for name, default, value in pairs if value != default}
