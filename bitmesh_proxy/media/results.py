"""Results on their way to callers: every link that a provider gives becomes one of this service's, ``/imgrslt/{id}``.

- A provider's short link keeps its id; every other link, and bytes, get an id of ours that cannot be guessed.
- An id that was not handed out by this service is not served, whatever the provider would say to it.
- A link that only our credential opens never reaches a caller.
- Links die within the hour, so a copy may be made at once (``copy_at_once``), before anybody asks.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from bitmesh_proxy.calls import MediaOutput
from bitmesh_proxy.errors import InternalError, NotFound, Unavailable, UpstreamBroken
from bitmesh_proxy.media.copies import CopyFailed, CopyStore
from bitmesh_proxy.media.delivery import Deliveries, Delivery
from bitmesh_proxy.media.fetch_errors import FetchRefused, FetchTooLarge
from bitmesh_proxy.media.ids import RandomBytes, is_media_id, make_media_id
from bitmesh_proxy.media.origins import parse_link
from bitmesh_proxy.media.sniff import SNIFF_BYTES, served_type
from bitmesh_proxy.media.sources import ResultSource
from bitmesh_proxy.media.store import MediaStore
from bitmesh_proxy.storage.media import MediaRecord

#: A job is polled again and again and gives the same link each time; it is to keep its id.
RECENT_LINKS = 4096
#: Two ids of ours never meet; this bounds the loop if the source of randomness is broken.
_ATTEMPTS = 4


class MediaResults:
    """Hands out ids for results and finds the results again. See the module's docstring."""

    def __init__(
        self,
        *,
        store: MediaStore,
        copies: CopyStore,
        deliveries: Deliveries,
        sources: Mapping[str, ResultSource],
        clock: Callable[[], float],
        random_bytes: RandomBytes = os.urandom,
        copy_at_once: bool = True,
    ) -> None:
        self._store = store
        self._copies = copies
        self._deliveries = deliveries
        self._sources = sources
        self._clock = clock
        self._random_bytes = random_bytes
        self._copy_at_once = copy_at_once
        self._recent: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    async def register(self, output: MediaOutput, *, provider: str, account_id: str, public_base_url: str) -> str:
        """The public link of a result. The same link of the same account gets the same id again for a while.

        Raises UpstreamBroken for a link that is none, Unavailable when bytes cannot be kept or the database refuses.
        """
        if output.data is not None:
            media_id = await self._register_bytes(output, output.data, provider=provider, account_id=account_id)
        elif output.url is not None:
            media_id = await self._register_link(output, output.url, provider=provider, account_id=account_id)
        else:
            raise InternalError("a result without a link and without bytes")
        return f"{public_base_url}/imgrslt/{media_id}"

    async def lookup(self, media_id: str) -> MediaRecord:
        """What was handed out under an id. Raises NotFound."""
        record = await self._store.get(media_id) if is_media_id(media_id) else None
        if record is None:
            raise NotFound("Resource not found")
        return record

    async def forget(self, media_id: str) -> None:
        """Serve nothing under an id any more. Its copy, if there is one, goes with the oldest."""
        for key in [key for key, known in self._recent.items() if known == media_id]:
            del self._recent[key]
        await self._store.forget(media_id)

    def open(self, record: MediaRecord) -> AbstractAsyncContextManager[Delivery]:
        """The bytes. Entering raises NotFound when they are gone, FetchError when they cannot be had now."""
        return self._deliveries.open(record)

    async def load(self, media_id: str, *, max_bytes: int) -> bytes:
        """All bytes of a result, in memory. Raises NotFound, and FetchError (too large included)."""
        data = bytearray()
        async with self.open(await self.lookup(media_id)) as delivery:
            if (delivery.length_bytes or 0) > max_bytes:
                raise FetchTooLarge("the result is larger than it may be")
            async for chunk in delivery.chunks():
                data += chunk
                if len(data) > max_bytes:
                    raise FetchTooLarge("the result is larger than it may be")
        return bytes(data)

    @property
    def keep_s(self) -> float:
        """How long a copy is kept, in seconds."""
        return self._copies.keep_s

    async def _register_link(self, output: MediaOutput, url: str, *, provider: str, account_id: str) -> str:
        key = (provider, account_id, url)
        known = self._recent.get(key)
        if known is not None:
            self._recent.move_to_end(key)
            return known
        try:
            parse_link(url)
        except FetchRefused as exc:
            raise UpstreamBroken("The provider's result carries a link that cannot be followed.") from exc
        record = await self._remember_short(output, url, provider=provider, account_id=account_id)
        if record is None:
            record = await self._remember_own(output, url, provider=provider, account_id=account_id)
        self._recent[key] = record.media_id
        if len(self._recent) > RECENT_LINKS:
            self._recent.popitem(last=False)
        if self._copy_at_once:
            self._deliveries.copy_ahead(record)
        return record.media_id

    async def _remember_short(
        self, output: MediaOutput, url: str, *, provider: str, account_id: str
    ) -> MediaRecord | None:
        """The record of a short link; None if it is not one, or its id already stands for something else."""
        source = self._sources.get(provider)
        media_id = source.short_id_of(url) if source is not None else None
        if media_id is None:
            return None
        record = MediaRecord(
            media_id=media_id,
            provider=provider,
            account_id=account_id,
            kind=output.kind,
            created_at_s=self._clock(),
            is_short=True,
        )
        if await self._store.remember(record):
            return record
        known = await self._store.get(media_id)
        return known if known is not None and known.is_short and known.provider == provider else None

    async def _remember_own(
        self, output: MediaOutput, url: str | None, *, provider: str, account_id: str
    ) -> MediaRecord:
        for _ in range(_ATTEMPTS):
            record = MediaRecord(
                media_id=make_media_id(self._random_bytes),
                provider=provider,
                account_id=account_id,
                kind=output.kind,
                created_at_s=self._clock(),
                url=url,
                needs_credential=output.needs_credential,
            )
            if await self._store.remember(record):
                return record
        raise InternalError("no new id for a result")

    async def _register_bytes(self, output: MediaOutput, data: bytes, *, provider: str, account_id: str) -> str:
        media_type = served_type(data[:SNIFF_BYTES], output.media_type, kind=output.kind) if data else None
        if media_type is None:
            raise UpstreamBroken("The provider's result is not a picture, film or sound.")
        record = await self._remember_own(output, None, provider=provider, account_id=account_id)
        try:
            await self._copies.put(record.media_id, data, media_type=media_type)
        except CopyFailed as exc:
            raise Unavailable(
                "The result cannot be kept for a link; ask for it as base64.", retry_after_s=None
            ) from exc
        return record.media_id
