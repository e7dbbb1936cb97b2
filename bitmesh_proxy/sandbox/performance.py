"""The way of a request through a play: outer faults → credential → body → directives → schema → faults → handler.

``make_handler`` turns a route into an aiohttp handler; every refusal on the way is worded by the play. The record of
what was received is kept by ``server.record``, outside of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http.client import responses

from aiohttp import web

from bitmesh_proxy.sandbox.bodies import Body, read_body
from bitmesh_proxy.sandbox.faults import NOTHING, Directives, UnknownDirective, read_markers
from bitmesh_proxy.sandbox.plays import Ask, Json, Play, Refused, Route
from bitmesh_proxy.sandbox.replies import HungUp, hang_up, send_json
from bitmesh_proxy.sandbox.schemas import coerce_form, load_checker
from bitmesh_proxy.sandbox.stage import Received, Stage

STAGE = web.AppKey("sandbox_stage", Stage)
RECEIVED = web.RequestKey("sandbox_received", Received)

#: A key that every provider refuses, for trying what a refused key does.
BAD_KEY = "bad-key"
#: A model whose id contains this is known to no provider.
MISSING_MODEL = "no-such-model"
#: Larger bodies are checked in a thread.
THREAD_CHECK_BYTES = 64 * 1024

HTML_PAGE = (
    "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n"
    "<center><h1>{status} {reason}</h1></center>\r\n<hr><center>sandbox edge</center>\r\n</body>\r\n</html>\r\n"
)

WebHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_handler(play: Play, route: Route) -> WebHandler:
    async def handle(request: web.Request) -> web.StreamResponse:
        stage = request.app[STAGE]
        ask = Ask(request=request, stage=stage, play=play)
        try:
            if stage.faults.go_on is not None:
                await stage.faults.go_on.wait()
            outer = stage.faults.take(request.method, request.path)
            if (page := await _strike(ask, outer)) is not None:
                return page
            if not route.is_public:
                _check_credential(ask)
            ask, marked = await _read(ask, route)
            if (page := await _strike(ask, marked)) is not None:
                return page
            return await route.handler(replace(ask, directives=outer.over(marked)))
        except Refused as refused:
            refused.headers = {**play.answer_headers(stage), **refused.headers}
            return await send_json(ask, play.render_refusal(refused), status=refused.status, headers=refused.headers)
        except HungUp as hung_up:
            return hung_up.response

    return handle


async def _strike(ask: Ask, directives: Directives) -> web.Response | None:
    """What directives do before the first byte: wait, hang up, refuse, or give an edge's page."""
    if directives.stall:
        await asyncio.sleep(directives.stall)
    if directives.hangup:
        raise hang_up(ask.request)
    headers = {} if directives.retry_after is None else {"Retry-After": f"{directives.retry_after:g}"}
    if directives.html is not None:
        page = HTML_PAGE.format(status=directives.html, reason=_reason(directives.html))
        return web.Response(status=directives.html, text=page, content_type="text/html", headers=headers)
    if directives.moderated and ask.play.moderated is not None:
        raise ask.play.moderated()
    if directives.status is not None:
        message = f"The sandbox was told to answer {directives.status} {_reason(directives.status)}."
        raise Refused(directives.status, message, code=directives.code, headers=headers)
    return None


def _reason(status: int) -> str:
    return responses.get(status, "Unknown")


def _check_credential(ask: Ask) -> None:
    key = ask.play.credential(ask.request.headers)
    if key is None:
        raise ask.play.missing_credential()
    if key == BAD_KEY:
        raise ask.play.bad_credential(key)


async def _read(ask: Ask, route: Route) -> tuple[Ask, Directives]:
    """The ask with its body, checked, and the directives of its markers."""
    if route.schema is None and route.form_schema is None:
        return ask, NOTHING
    options = ask.stage.options
    body = await read_body(ask.request, max_bytes=options.max_body_bytes, is_list=route.is_list)
    received = ask.request[RECEIVED]
    received.body = body.summary() if body.size_bytes <= options.keep_body_bytes or body.is_form else None
    operation = route.schema if not body.is_form else route.form_schema
    if operation is None:
        takes = "no multipart form" if body.is_form else "a multipart form only"
        raise Refused(415, f"This operation takes {takes}", code="unsupported_content_type")
    values = _values(ask.play.name, operation, body)
    try:
        marked, prompt = read_markers(route.prompt(values))
    except UnknownDirective as error:
        raise Refused(400, str(error), code="unknown_sandbox_directive") from error
    marked = ask.stage.faults.applicable(marked, provider=ask.play.name, text=route.prompt(values))
    await _check_schema(ask, operation, body, values)
    if MISSING_MODEL in (model := named_model(ask.request, values)):
        raise ask.play.missing_model(model)
    return replace(ask, body=values, files=body.files, prompt=prompt), marked


def named_model(request: web.Request, values: Json) -> str:
    """The model that a request names, in its address or in its body; "" where it names none."""
    fields = values if isinstance(values, dict) else {}
    return str(request.match_info.get("model") or fields.get("model") or fields.get("model_id") or "")


def _values(provider: str, operation: str, body: Body) -> Json:
    return coerce_form(provider, operation, body.texts) if body.is_form else body.json


async def _check_schema(ask: Ask, operation: str, body: Body, values: Json) -> None:
    check = load_checker(ask.play.name, operation, ask.stage.options.is_strict)
    # A file counts as the string that the schema names it.
    files = {name: "" if len(uploads) == 1 else [""] * len(uploads) for name, uploads in body.files.items()}
    subject = {**values, **files} if files else values
    if body.size_bytes > THREAD_CHECK_BYTES:
        violation = await asyncio.to_thread(check, subject)
    else:
        violation = check(subject)
    if violation is not None:
        raise ask.play.refuse_violation(violation)
