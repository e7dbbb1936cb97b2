"""``serve``: the gateway itself, from the first listening socket to the last drained stream."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from aiohttp import web

from bitmesh_proxy import keys, service_manager
from bitmesh_proxy.app import make_app, make_runner
from bitmesh_proxy.cli.first_run import welcome
from bitmesh_proxy.cli.options import EXIT_CONFIG, common_options, fail, on_ignored_variables, settings_of
from bitmesh_proxy.cli.process import (
    BACKLOG,
    FEW_FILES,
    HANGUP_ANSWER,
    allow_many_files,
    beating,
    loop_factory,
    settle_memory,
    starting,
    stop_signals,
    url_of,
)
from bitmesh_proxy.logs import set_up_logs
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.startup import StartError, on_missing_credentials
from bitmesh_proxy.web.lane.server import LaneRunner

log = logging.getLogger(__name__)


@click.command()
@common_options
@click.option("--host", help="Address to listen on. Default: http.host (127.0.0.1).")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one. Default: http.port (3000)."
)
@click.option("--workers", type=click.IntRange(1, 64), help="Processes that serve. Default: http.workers (1).")
@click.option(
    "--sandbox/--no-sandbox",
    default=None,
    help="Play the providers instead of calling them. Default: sandbox.mode (on as long as none has a credential).",
)
@click.pass_context
def serve(
    ctx: click.Context,
    config: Path | None,
    data_dir: Path | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    sandbox: bool | None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C. Running answers are finished before it ends."""
    overrides: dict[str, dict[str, Any]] = {}
    for name, value in (("host", host), ("port", port), ("workers", workers)):
        if value is not None:
            overrides.setdefault("http", {})[name] = value
    if sandbox is not None:
        overrides["sandbox"] = {"mode": "on" if sandbox else "off"}
    settings = settings_of(ctx, config, data_dir, overrides, warns=False)
    set_up_logs(settings.logging)
    for sentence in on_ignored_variables(settings):
        log.warning(sentence)
    if settings.sandbox.mode != "on":
        for sentence in on_missing_credentials(settings, os.environ):
            log.warning(sentence)
    if (files := allow_many_files()) < FEW_FILES:
        log.warning(
            "only %d files may be open (ulimit -n), and each stream takes two: callers beyond are cut off", files
        )
    try:
        if settings.http.workers > 1:
            from bitmesh_proxy.cli.workers import supervise  # one process need not load what several need

            sys.exit(supervise(settings))
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(settings))
    except StartError as exc:
        fail(str(exc), 1 if exc.may_pass else EXIT_CONFIG)
    except OSError as exc:
        fail(f"cannot listen on {settings.http.host}:{settings.http.port}: {exc.strerror or exc}")
    except UnicodeError:
        fail(f"cannot listen on {settings.http.host}:{settings.http.port}: that is no name of a host")
    except KeyboardInterrupt:
        sys.exit(130)


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    ending = stop_signals()
    loop.add_signal_handler(signal.SIGHUP, log.warning, HANGUP_ANSWER)
    for number in ending:
        loop.add_signal_handler(number, stop.set)
    runner = make_runner(app := make_app(settings))
    try:
        # Not once it is to stop: that would put off the stop's own end.
        async with starting(app, lambda: stop.is_set() or service_manager.ask_for_time()):
            await runner.setup()
        address = await _listen(runner, settings)
        settle_memory()
        await welcome(app, address)
        service_manager.notify(b"READY=1")
        async with beating(partial(service_manager.notify, b"WATCHDOG=1"), service_manager.watchdog_interval_s()):
            await stop.wait()
        log.info("draining: no new calls are taken, running ones are finished")
        service_manager.notify(b"STOPPING=1")
        app[keys.DRAINING].set()
    finally:
        await runner.cleanup()


async def _listen(runner: LaneRunner, settings: Settings) -> str:
    """Open the sockets (those of systemd, if it gave any) and give the first one's URL."""
    given = service_manager.listen_sockets()
    if given:
        for sock in given:
            await web.SockSite(runner, sock, backlog=BACKLOG).start()
    else:
        await web.TCPSite(runner, settings.http.host, settings.http.port, backlog=BACKLOG).start()
    runner.hand_down_keepalive()
    await runner.open_doors(BACKLOG)
    return url_of(runner.addresses[0])
