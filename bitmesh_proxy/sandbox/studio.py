"""Renders recipes to bytes in worker threads, and keeps the newest results.

Two films at a time, and beside them two of everything else, so that a word need not wait for a film.

A recipe is frozen and says everything: equal recipes give equal bytes, so a file is kept as its recipe and drawn when
somebody fetches it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

MAX_CONCURRENT_RENDERS = 2


class Recipe(Protocol):
    """What can be rendered. Hashable; ``render`` blocks and runs in a thread."""

    @property
    def media_type(self) -> str: ...

    @property
    def extension(self) -> str: ...

    def render(self) -> bytes: ...

    def __hash__(self) -> int: ...


class Studio:
    """Use within one event loop."""

    def __init__(self, *, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._kept: OrderedDict[Recipe, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._free = asyncio.Semaphore(MAX_CONCURRENT_RENDERS)
        self._free_for_films = asyncio.Semaphore(MAX_CONCURRENT_RENDERS)

    async def render(self, recipe: Recipe) -> bytes:
        """The recipe's bytes. Raises what its ``render`` raises."""
        if (kept := self._find(recipe)) is not None:
            return kept
        async with self._free_for_films if recipe.media_type.startswith("video/") else self._free:
            if (kept := self._find(recipe)) is not None:
                return kept
            data = await asyncio.to_thread(recipe.render)
        self._keep(recipe, data)
        return data

    def _find(self, recipe: Recipe) -> bytes | None:
        if (data := self._kept.get(recipe)) is not None:
            self._kept.move_to_end(recipe)
        return data

    def _keep(self, recipe: Recipe, data: bytes) -> None:
        if recipe in self._kept or len(data) > self._keep_bytes:
            return
        self._kept[recipe] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > self._keep_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped)
