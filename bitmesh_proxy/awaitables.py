"""What may be awaited, or not: a coroutine that nobody comes to await complains, and this does not.

Whoever takes a piece gives back what is to be waited for. When the fetch, or the call whose answer it is, is ended
between the two, nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Deferred:
    """An awaitable that makes its coroutine when it is awaited; once."""

    __slots__ = ("_begin",)

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._begin = begin

    def __await__(self) -> Generator[Any, Any, None]:
        return self._begin().__await__()
