"""The speed at which a stream's tokens come: the options' interval, or a directive's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from bitmesh_proxy.sandbox.plays import Ask


async def paced(ask: Ask, tokens: Sequence[str]) -> AsyncIterator[tuple[int, str]]:
    """Number and token, with a wait between two; without an interval the loop still gets its turn."""
    interval_ms = ask.directives.interval_ms
    interval_s = ask.stage.options.token_interval_s if interval_ms is None else interval_ms / 1000
    for number, token in enumerate(tokens):
        if number:
            await asyncio.sleep(interval_s)
        yield number, token
