"""How fast the sandbox thinks and speaks: long questions are answered in a thread, tokens come at an interval."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

from bitmesh_proxy.sandbox.chat import Completion, answer
from bitmesh_proxy.sandbox.plays import Ask

#: Longer bodies take a thread to answer, so that counting their tokens holds nobody up.
THREAD_BYTES = 64 * 1024


async def think(ask: Ask, *, player: str) -> Completion:
    """The completion of a chat in OpenAI's shape."""
    work = partial(answer, ask.body, ask.prompt, ask.directives, player=player)
    is_long = (ask.request.content_length or THREAD_BYTES) >= THREAD_BYTES or ask.directives.tokens is not None
    return await asyncio.to_thread(work) if is_long else work()


async def paced(ask: Ask, tokens: Sequence[str]) -> AsyncIterator[tuple[int, str]]:
    """Number and token, with a wait between two; without an interval the loop still gets its turn."""
    interval_ms = ask.directives.interval_ms
    interval_s = ask.stage.options.token_interval_s if interval_ms is None else interval_ms / 1000
    for number, token in enumerate(tokens):
        if number:
            await asyncio.sleep(interval_s)
        yield number, token
