"""What of a picture reaches the caller: its bytes, a link of ours, or both, as the call wants it.

Bytes that the provider gave as a link are fetched; a link to bytes is made by keeping a copy. Where nothing can be
kept, who gets the bytes goes without the link. ``b64_ephemeral`` leaves nothing behind where the provider gave bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from msgspec.structs import replace

from bitmesh_proxy.calls import ImageCall, MediaOutput
from bitmesh_proxy.errors import NotFound, Unavailable, UpstreamBroken
from bitmesh_proxy.media.fetch_errors import FetchError, as_gateway_error
from bitmesh_proxy.media.results import MediaResults

logger = logging.getLogger(__name__)


async def hand_out(
    results: MediaResults,
    call: ImageCall,
    outputs: Sequence[MediaOutput],
    *,
    provider: str,
    account_id: str,
    public_base_url: str,
    max_bytes: int,
) -> tuple[tuple[MediaOutput, ...], tuple[str | None, ...]]:
    """The outputs with the bytes that the call wants (and no others), and a link of ours for each, or None.

    Raises UpstreamBroken and its kin when a result cannot be had, Unavailable when it cannot be kept and has to be.
    """
    wants_bytes = call.response_format in ("b64_json", "b64_ephemeral")
    wants_links = not wants_bytes or call.with_links
    shown: list[MediaOutput] = []
    urls: list[str | None] = []
    for output in outputs:
        url = None
        if wants_links or output.data is None:
            try:
                url = await results.register(
                    output, provider=provider, account_id=account_id, public_base_url=public_base_url
                )
            except Unavailable as exc:
                if not wants_bytes or output.data is None:
                    raise
                logger.warning("a picture is answered without a link: %s", exc)
        data = output.data
        if wants_bytes and data is None and url is not None:
            data = await _load(results, url, max_bytes=max_bytes)
        shown.append(replace(output, data=data if wants_bytes else None))
        urls.append(url if wants_links else None)
    return tuple(shown), tuple(urls)


async def _load(results: MediaResults, url: str, *, max_bytes: int) -> bytes:
    try:
        return await results.load(url.rpartition("/")[2], max_bytes=max_bytes)
    except NotFound as exc:
        raise UpstreamBroken("The provider's result is gone already.") from exc
    except FetchError as exc:
        raise as_gateway_error(exc) from exc
