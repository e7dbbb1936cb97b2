"""Puts the media room together: fetchers, copies, deliveries, results and inputs, opened and closed in their order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bitmesh_proxy.media.copies import CopyStore
from bitmesh_proxy.media.delivery import Deliveries, DeliveryLimits
from bitmesh_proxy.media.guarded_fetch import FetchLimits, GuardedFetcher
from bitmesh_proxy.media.inputs import ExamplePicture, InputMedia
from bitmesh_proxy.media.origins import origin_of
from bitmesh_proxy.media.results import MediaResults
from bitmesh_proxy.media.sources import ResultSource, make_source
from bitmesh_proxy.media.store import MediaStore
from bitmesh_proxy.settings import Media as MediaSettings
from bitmesh_proxy.settings import Uploads
from bitmesh_proxy.upstream.access import ProviderAccess


@asynccontextmanager
async def open_media(
    settings: MediaSettings,
    *,
    directory: Path,
    store: MediaStore,
    access: Mapping[str, ProviderAccess],
    allow_private: bool,
    min_free_bytes: int,
    clock: Callable[[], float] = time.time,
    shared_as: str | None = None,
    is_first: bool = True,
) -> AsyncIterator[MediaResults]:
    """The room, ready for use. ``allow_private`` is the sandbox's: its results lie on a loopback port.

    ``min_free_bytes``: so much of the disk copies leave to others. ``shared_as`` and ``is_first`` as for ``CopyStore``.
    """
    sources = {name: _source(entry) for name, entry in access.items()}
    limits = FetchLimits(
        max_bytes=settings.max_bytes,
        max_redirects=settings.max_redirects,
        total_timeout_s=settings.fetch_timeout_s,
    )
    copies = CopyStore(
        directory,
        max_bytes=settings.cache_bytes,
        keep_s=settings.keep_s,
        clock=clock,
        min_free_bytes=min_free_bytes,
        shared_as=shared_as,
        is_first=is_first,
    )
    trusted = [origin for source in sources.values() for origin in source.origins]
    await copies.start()
    try:
        async with GuardedFetcher(limits, trusted_origins=trusted, allow_private=allow_private) as fetcher:
            deliveries = Deliveries(
                copies=copies,
                fetcher=fetcher,
                sources=sources,
                credential_headers=lambda provider: access[provider].auth_headers if provider in access else {},
                clock=clock,
                limits=DeliveryLimits(
                    max_concurrent_fetches=settings.max_concurrent_fetches,
                    finish_alone_bytes=settings.finish_alone_bytes,
                ),
            )
            try:
                yield MediaResults(
                    store=store,
                    copies=copies,
                    deliveries=deliveries,
                    sources=sources,
                    clock=clock,
                    copy_at_once=settings.copy_at_once and settings.cache_bytes > 0,
                )
            finally:
                await deliveries.close()
    finally:
        await copies.close()


@asynccontextmanager
async def open_inputs(
    settings: Uploads, results: MediaResults, *, example: ExamplePicture | None = None
) -> AsyncIterator[InputMedia]:
    """Callers' pictures, with a fetcher of their own: what is trusted for providers is not trusted for callers."""
    limits = FetchLimits(max_bytes=settings.max_image_bytes, total_timeout_s=settings.fetch_timeout_s)
    trusted = [origin_of(origin) for origin in settings.trusted_origins]
    async with GuardedFetcher(limits, trusted_origins=trusted) as fetcher:
        yield InputMedia(results, fetcher, settings, example=example)


def _source(access: ProviderAccess) -> ResultSource:
    provider = access.provider
    return make_source(
        provider.name,
        access.roots,
        own_roots=provider.roots,
        short_url=provider.short_url,
        short_path=provider.short_path,
    )
