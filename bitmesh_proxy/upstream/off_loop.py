"""What would keep the event loop, and so every stream of the process, for milliseconds goes to a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

#: JSON above this size is parsed in a thread.
THREAD_PARSE_BYTES: Final = 256 * 1024


async def in_thread_if_large(function: Callable[[bytes], T], data: bytes) -> T:
    """Call ``function`` here, or in a thread when ``data`` is so large that the loop would stand still."""
    if len(data) > THREAD_PARSE_BYTES:
        return await asyncio.to_thread(function, data)
    return function(data)
