"""What every process that serves does, whether it serves alone or is one of several."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.freed_memory import keep_freed_memory
from bitmesh_proxy.service_manager import EXTENSION_S

#: A request makes a few hundred objects and almost no circles, so that looking for them after every 700 is in vain.
GC_THRESHOLDS: Final = (20_000, 20, 20)
#: Connections that wait to be accepted.
BACKLOG: Final = 1024
#: Files that a process may have open, as in the systemd unit, and what is too few for some hundreds of streams.
MANY_FILES: Final = 65_536
FEW_FILES: Final = 2_048
#: What is said to a SIGHUP that does not end us.
HANGUP_ANSWER: Final = "SIGHUP changes nothing: settings, models and prices are read at a start"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that end a service, its running answers finished.

    SIGHUP is one of them where it means that the terminal is gone. From elsewhere it is an operator's wish to have
    settings read anew: that would kill us by default, and systemd would take it for a proper end.
    """
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:  # nohup: to go on is what is wanted
        return (signal.SIGTERM, signal.SIGINT)
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return (signal.SIGTERM, signal.SIGINT)
    return (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def allow_many_files() -> int:
    """Let this process and its children have as many files and connections open as they may; gives how many.

    Each stream takes two. Shells and containers begin with 1,024, and the event loop cuts off callers beyond that
    without an answer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed, wanted = (MANY_FILES if each == resource.RLIM_INFINITY else min(each, MANY_FILES) for each in (soft, hard))
    if allowed >= wanted:
        return allowed
    with contextlib.suppress(OSError, ValueError):  # who may not has what was there
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return allowed


def settle_memory() -> None:
    """To be called when everything is there: it stays, and the collector need not walk it again and again. What comes
    and goes from now on is mostly requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    keep_freed_memory()


@contextlib.asynccontextmanager
async def beating(
    beat: Callable[[], object], interval_s: float | None, *, since: asyncio.Event | None = None
) -> AsyncIterator[None]:
    """Call ``beat`` now and then, from the loop itself, so that whoever hears it knows that the loop turns.

    None: nobody wants to know. With ``since``, from when that has happened.
    """
    if interval_s is None:
        yield
        return

    async def go_on() -> None:
        if since is not None:
            await since.wait()
        while True:
            beat()
            await asyncio.sleep(interval_s)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def starting(app: web.Application, tell: Callable[[], object]) -> AsyncIterator[None]:
    """For an application's start: when it turns out that the database has to be brought up to date, which takes its
    time, call ``tell`` at once and then often enough (``EXTENSION_S``) until the start is over."""
    loop, begun = asyncio.get_running_loop(), asyncio.Event()
    app[keys.ON_MIGRATION] = lambda: loop.call_soon_threadsafe(begun.set)
    async with beating(tell, EXTENSION_S / 4, since=begun):
        yield


def reserve(host: str, port: int) -> list[socket.socket]:
    """Hold all addresses of a host (empty: of this machine) at a port, for those who will listen ``beside``.

    Port 0 takes a free one for each address. Raises OSError.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    wanted = [(socket.AddressFamily(family), address) for family, _, _, _, address in dict.fromkeys(found)]
    for alone in _bound(wanted, is_shared=False):  # or we would move in with another service of this user
        alone.close()
    return _bound(wanted, is_shared=True)


def beside(reserved: Sequence[socket.socket]) -> list[socket.socket]:
    """Sockets of one's own at the same addresses, among which the kernel divides callers (SO_REUSEPORT).

    When their process dies, callers are with the others at once. Raises OSError.
    """
    return _bound([(sock.family, sock.getsockname()) for sock in reserved], is_shared=True)


def _bound(wanted: Sequence[tuple[int, Any]], *, is_shared: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, address in wanted:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setblocking(False)
            sock.bind(address)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def url_of(address: Any) -> str:
    """A listening socket's own address, as callers write it."""
    if isinstance(address, str):
        return f"unix:{address}"
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"
