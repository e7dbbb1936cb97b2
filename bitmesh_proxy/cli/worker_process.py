"""What a child of the supervisor (``supervisor.py``) does from its fork to its end: serve, or play the providers.

It has two pipes. On one come orders; its end means that the supervisor is gone, however that came about, and then a
child drains and ends as on SIGTERM. Into the other goes a byte when it serves, and one each time its loop has turned
for a while, so that the supervisor notices a blocked one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence, Set
from functools import partial
from typing import Any

import click
import msgspec
from aiohttp import web
from msgspec.structs import replace

from bitmesh_proxy import keys
from bitmesh_proxy.app import make_app, make_runner
from bitmesh_proxy.cli.children import BEAT, READY, WELCOME, Lines
from bitmesh_proxy.cli.first_run import welcome
from bitmesh_proxy.cli.options import EXIT_CONFIG
from bitmesh_proxy.cli.process import BACKLOG, beating, beside, loop_factory, settle_memory, starting, url_of
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.startup import StartError, sandbox_for
from bitmesh_proxy.worker import Worker, settings_of_seat


class Callers(msgspec.Struct, frozen=True):
    """Where callers come: sockets of the service manager, which all workers have in common, or reserved addresses."""

    given: Sequence[socket.socket]
    reserved: Sequence[socket.socket]

    @property
    def url(self) -> str:
        """The first of them."""
        return url_of([*self.given, *self.reserved][0].getsockname())

    def close(self) -> None:
        """Let go of them."""
        for sock in (*self.given, *self.reserved):
            sock.close()


def run_worker(settings: Settings, worker: Worker, callers: Callers, lines: Lines) -> int:
    """Serve until told to stop; gives the exit status."""
    worker = replace(worker, is_first=worker.seat == 0 and not lines.is_replacement)
    if settings.http.pin_workers:
        # Before there are other threads, which will have the same. A service manager may forbid it: then so be it.
        with contextlib.suppress(PermissionError):
            os.sched_setaffinity(0, cores_of(worker.seat, seats=worker.seats, cores=os.sched_getaffinity(0)))
    return _run(lambda: _serve(settings, worker, callers, lines))


def cores_of(seat: int, *, seats: int, cores: Set[int]) -> Set[int]:
    """Where the worker in a seat runs, of the ``cores`` that the program may use.

    On one, if all are needed: left to itself, the kernel wakes a worker where its caller or provider runs, so that two
    of them often shared a core while another was free. Where cores are over, the worker's threads may use them.
    """
    return cores if len(cores) > seats else {sorted(cores)[seat % len(cores)]}


def run_sandbox(settings: Settings, sock: socket.socket, callers: Callers, lines: Lines) -> int:
    """Play the providers until told to stop; gives the exit status."""
    callers.close()  # or they would still be let in when no worker listens any more
    # Ctrl-C reaches all, but running streams need the sandbox to their end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _run(lambda: _play(settings, sock, lines))


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(main())
    except StartError as exc:
        click.echo(f"bitmesh-proxy: {exc}", err=True)
        return 1 if exc.may_pass else EXIT_CONFIG
    except KeyboardInterrupt:  # before there was a handler
        return 130
    return 0


async def _serve(settings: Settings, worker: Worker, callers: Callers, lines: Lines) -> None:
    orders = _Orders(lines, signals=(signal.SIGTERM, signal.SIGINT))
    runner = make_runner(app := make_app(settings_of_seat(settings, worker.seat, seats=worker.seats), worker=worker))
    try:
        async with starting(app, partial(_report, lines, BEAT)):
            await runner.setup()
        sockets = callers.given or beside(callers.reserved)
        for sock in sockets:
            await web.SockSite(runner, sock, backlog=BACKLOG).start()
        runner.hand_down_keepalive()
        await runner.open_doors(BACKLOG)
        settle_memory()
        async with _reporting(lines):
            await orders.welcome.wait()
            if not orders.stop.is_set():
                await welcome(app, callers.url)
            await orders.stop.wait()
        app[keys.DRAINING].set()
    finally:
        await runner.cleanup()
        sys.stdout.flush()


async def _play(settings: Settings, sock: socket.socket, lines: Lines) -> None:
    orders = _Orders(lines, signals=(signal.SIGTERM,))
    async with sandbox_for(settings, os.environ, sock), _reporting(lines):
        await orders.stop.wait()


class _Orders:
    """What the supervisor wants: by its pipe, or by a signal."""

    def __init__(self, lines: Lines, *, signals: Sequence[signal.Signals]) -> None:
        self.stop = asyncio.Event()
        #: Also set at the stop, so that one wait is enough.
        self.welcome = asyncio.Event()
        self._descriptor = lines.orders
        self._loop = asyncio.get_running_loop()
        for number in signals:
            self._loop.add_signal_handler(number, self._stop)
        self._loop.add_reader(lines.orders, self._read)

    def _read(self) -> None:
        order = os.read(self._descriptor, 1)
        if order == WELCOME:
            self.welcome.set()
        elif not order:
            self._loop.remove_reader(self._descriptor)
            self._stop()

    def _stop(self) -> None:
        self.stop.set()
        self.welcome.set()


@contextlib.asynccontextmanager
async def _reporting(lines: Lines) -> AsyncIterator[None]:
    """Say that it serves, and then that the loop turns."""
    _report(lines, READY)
    async with beating(partial(_report, lines, BEAT), lines.beat_interval_s):
        yield


def _report(lines: Lines, word: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more: the end of the other pipe says so too
        os.write(lines.reports, word)
