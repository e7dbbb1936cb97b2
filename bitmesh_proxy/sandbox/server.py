"""The sandbox as a server: all plays under their prefixes, on a loopback port of its own.

``Sandbox`` is what ``serve`` embeds, what ``bitmesh-proxy sandbox`` runs, and what tests call as their upstream::

    async with Sandbox() as sandbox:
        base_url = f"{sandbox.url}/openai/v1"
        ...
        assert sandbox.requests[-1].cancelled

A client that leaves cancels its handler at once, as at a real provider.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Handler

from bitmesh_proxy.sandbox.control import control_routes
from bitmesh_proxy.sandbox.faults import Faults
from bitmesh_proxy.sandbox.journal import Journal
from bitmesh_proxy.sandbox.performance import RECEIVED, STAGE, make_handler
from bitmesh_proxy.sandbox.pictures import Picture
from bitmesh_proxy.sandbox.plays import Play, Refused, Route
from bitmesh_proxy.sandbox.registry import PLAYS
from bitmesh_proxy.sandbox.schemas import load_checker
from bitmesh_proxy.sandbox.stage import Options, Received, Stage, make_stage

MARK = "X-Bitmesh-Sandbox"
SECRET_HEADERS = frozenset({"authorization", "x-api-key", "x-goog-api-key", "xi-api-key", "x-key", "cookie"})
#: What links in documentation stand for.
EXAMPLE_PICTURE = Picture(prompt="A picture from an example", width=512, height=512)
#: How long ``stop`` lets running answers go on.
SHUTDOWN_TIMEOUT_S = 1.0


def make_sandbox(
    *,
    clock: Callable[[], float] = time.time,
    faults: Faults | None = None,
    options: Options = Options(),  # noqa: B008 (frozen)
    rng: random.Random | None = None,
) -> web.Application:
    """The application. ``rng`` makes ids; give one with a seed to know them beforehand."""
    stage = make_stage(clock, faults or Faults(), options, rng or random.Random())  # noqa: S311 (ids of a sandbox)
    app = web.Application(middlewares=[record], client_max_size=options.max_body_bytes)
    app[STAGE] = stage
    app.on_startup.append(load_schemas)
    app.on_response_prepare.append(mark)
    app.add_routes(control_routes())
    for play in PLAYS:
        mount(app, play)
    return app


async def load_schemas(app: web.Application) -> None:
    """Before the first request, in a thread: files are read, and a validator takes a while to import."""
    is_strict = app[STAGE].options.is_strict

    def load() -> None:
        for play in PLAYS:
            for route in play.routes:
                for operation in filter(None, (route.schema, route.form_schema)):
                    load_checker(play.name, operation, is_strict)

    await asyncio.to_thread(load)


def mount(app: web.Application, play: Play) -> None:
    """Put a play's routes under ``/<name>``; any other path there is the provider's own 404."""
    for route in play.routes:
        app.router.add_route(route.method, f"/{play.name}{route.path}", make_handler(play, route))
    nowhere = Route(method="*", path="/{tail:.*}", handler=_refuse_path, is_public=True)
    app.router.add_route("*", f"/{play.name}{nowhere.path}", make_handler(play, nowhere))


async def _refuse_path(ask: object) -> web.StreamResponse:
    raise Refused(404, "There is nothing at this URL", code="unknown_url")


@web.middleware
async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Write down what came and how it ended."""
    stage = request.app[STAGE]
    received = request[RECEIVED] = _received(request, stage)
    if not request.path.startswith("/_control"):
        stage.requests.append(received)
    try:
        response = await handler(request)
        received.status = response.status
        return response
    except asyncio.CancelledError:
        received.cancelled = True
        raise
    except ConnectionResetError:
        # A write after the client had closed: the same thing, noticed by other means.
        received.cancelled = True
        return web.Response(status=499)
    except web.HTTPException as answer:
        received.status = answer.status
        raise
    finally:
        received.ended_at = stage.clock()


def _received(request: web.Request, stage: Stage) -> Received:
    return Received(
        method=request.method,
        path=request.path,
        query=dict(request.query),
        headers={
            name.lower(): "***" if name.lower() in SECRET_HEADERS else value for name, value in request.headers.items()
        },
        received_at=stage.clock(),
    )


async def mark(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[MARK] = "1"


class Sandbox:
    """The application on a socket. ``port`` 0 takes a free one; ``start`` raises OSError when the port is taken.

    ``sock``, if given, is bound already and stands in for host and port. ``journal``: a file in which clips that are
    being made outlive this process.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        clock: Callable[[], float] = time.time,
        faults: Faults | None = None,
        options: Options = Options(),  # noqa: B008 (frozen)
        rng: random.Random | None = None,
        journal: Path | None = None,
    ) -> None:
        self.faults = faults or Faults()
        self.app = make_sandbox(clock=clock, faults=self.faults, options=options, rng=rng)
        self._host = host
        self._port = port
        self._sock = sock
        self._journal = None if journal is None else Journal(journal)
        self._runner: web.AppRunner | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """``http://host:port``, once started."""
        if not self._url:
            raise RuntimeError("the sandbox is not started")
        return self._url

    @property
    def requests(self) -> deque[Received]:
        """What was received, oldest first, bounded by ``Options.keep_requests``."""
        return self.app[STAGE].requests

    async def example_picture(self) -> bytes:
        """The picture that links in documentation stand for: a PNG."""
        return await self.app[STAGE].studio.render(EXAMPLE_PICTURE)

    async def start(self) -> None:
        runner = web.AppRunner(
            self.app, handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S
        )
        await runner.setup()
        try:
            if self._sock is None:
                await web.TCPSite(runner, self._host, self._port).start()
            else:
                await web.SockSite(runner, self._sock).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        host, port = runner.addresses[0][:2]
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        if self._journal is not None:
            await self._journal.open(self.app[STAGE], self._url)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            if self._journal is not None:
                await self._journal.close()
            self._runner = None
            self._url = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
