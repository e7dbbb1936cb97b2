"""The whole media room over real sockets: an upstream on one side, HTTP callers on the other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from bitmesh_proxy.calls import MediaOutput
from bitmesh_proxy.media.copies import CopyStore
from bitmesh_proxy.media.delivery import Deliveries, DeliveryLimits
from bitmesh_proxy.media.files import Files
from bitmesh_proxy.media.guarded_fetch import FetchLimits, GuardedFetcher
from bitmesh_proxy.media.handlers import make_handler
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.media.sources import ResultSource, make_source
from bitmesh_proxy.media.store import MediaStore
from tests.hand_clock import HandClock
from tests.media.memory_store import MemoryMediaStore

MIB = 1024 * 1024
SECRET = {"Authorization": "Bearer planted-secret"}


@dataclass(kw_only=True)
class Room:
    """The parts, and the base URL under which ``/imgrslt/{id}`` answers."""

    results: MediaResults
    deliveries: Deliveries
    copies: CopyStore
    store: MediaStore
    base_url: str = ""

    async def hand_out(self, url: str, *, provider: str = "maker", needs_credential: bool = False) -> str:
        """The public link for a provider's link."""
        output = MediaOutput(kind="image", url=url, needs_credential=needs_credential)
        return await self.results.register(output, provider=provider, account_id="acc", public_base_url=self.base_url)


@asynccontextmanager
async def media_room(
    directory: Path,
    sources: Iterable[ResultSource],
    *,
    cache_bytes: int = 512 * MIB,
    keep_s: float = 1000.0,
    limits: DeliveryLimits | None = None,
    fetch_limits: FetchLimits | None = None,
    store: MediaStore | None = None,
    clock: Callable[[], float] | None = None,
    files: Files | None = None,
    copy_at_once: bool = False,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> AsyncIterator[Room]:
    """A room for these providers. Copies are made when somebody asks, unless the test says otherwise."""
    by_name = {source.provider: source for source in sources}
    trusted = [origin for source in by_name.values() for origin in source.origins]
    clock = clock or HandClock()
    copies = CopyStore(directory, max_bytes=cache_bytes, keep_s=keep_s, clock=clock, files=files)
    await copies.start()
    async with GuardedFetcher(fetch_limits or FetchLimits(), trusted_origins=trusted) as fetcher:
        deliveries = Deliveries(
            copies=copies,
            fetcher=fetcher,
            sources=by_name,
            credential_headers=_headers_of,
            clock=clock,
            limits=limits or DeliveryLimits(),
        )
        store = store or MemoryMediaStore()
        results = MediaResults(
            store=store,
            copies=copies,
            deliveries=deliveries,
            sources=by_name,
            clock=clock,
            copy_at_once=copy_at_once,
            random_bytes=random_bytes,
        )
        try:
            yield Room(results=results, deliveries=deliveries, copies=copies, store=store)
        finally:
            await deliveries.close()
    await copies.close()


@asynccontextmanager
async def served(room: Room, *, stall_timeout_s: float = 5.0) -> AsyncIterator[Room]:
    """The same room with its route on a port of the loopback."""
    app = web.Application()
    handler = make_handler(room.results, stall_timeout_s=stall_timeout_s)
    app.router.add_get("/imgrslt/{id}", handler)  # HEAD comes with it
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    room.base_url = f"http://{host}:{port}"
    try:
        yield room
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread or the network brings about; a test that waits for ever fails by itself."""
    while not condition():  # noqa: ASYNC110  # what is waited for is outside this loop and sets no event
        await asyncio.sleep(0.005)


async def copied(room: Room, media_id: str) -> None:
    """Wait until there is a whole copy: it gets its name a moment after the last reader has the last byte."""
    while True:
        copy = await room.copies.open(media_id)
        if copy is not None:
            copy.close()
            return
        await asyncio.sleep(0.005)


def source(base_url: str, *, provider: str = "maker", short_path: str = "/shrt/") -> ResultSource:
    """A provider at a test's server, with short links."""
    return make_source(provider, {"default": base_url + "/v1"}, short_path=short_path)


def _headers_of(provider: str) -> Mapping[str, str]:
    return SECRET if provider == "maker" else {}
