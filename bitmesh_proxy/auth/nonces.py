"""Nonces: a signed request is good once.

A nonce is burnt after signature and payload signature were found good, and stays burnt until its timestamp has left
the window, so that nothing that could still be accepted is ever forgotten. It counts per consumer key, whatever the
timestamp beside it: stricter than RFC 5849 (3.3), which lets a nonce return with another second, and no client that
draws its nonces at random notices.

``NonceStore`` is what authentication needs. The store that survives a restart is in ``storage``; the one here is for
one process without a database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeAlias

from bitmesh_proxy.errors import Unavailable

#: Hears what ``burn`` gives, or what it would raise.
Burnt: TypeAlias = Callable[[bool | Exception], None]


class NonceStore(Protocol):
    """Remembers what has been used."""

    async def burn(self, consumer_key: str, nonce: str, timestamp_s: int) -> bool:
        """Insert if absent, in one step. ``True``: it was new, and is durable. ``False``: it had been used.

        Raises Unavailable when it cannot be remembered; the request must then be refused.
        """
        ...

    def burn_soon(self, consumer_key: str, nonce: str, timestamp_s: int, on_done: Burnt) -> None:
        """The same with a function for a coroutine: the hot path's form. It is called once, on the event loop and never
        before this returns, unless this raises Unavailable."""
        ...


class MemoryNonces:
    """A wheel of one set per second of expiry, so that forgetting costs nothing per nonce. Not for several processes.

    ``clock`` is Unix time. Holds at most ``max_nonces``: then it refuses (Unavailable) rather than forget one that
    could be replayed.
    """

    def __init__(self, *, clock: Callable[[], float], window_s: float = 300.0, max_nonces: int = 1_000_000) -> None:
        self._clock = clock
        self._window_s = window_s
        self._max_nonces = max_nonces
        self._used: set[tuple[str, str]] = set()
        self._wheel: dict[int, list[tuple[str, str]]] = {}
        self._turned_at_s = int(clock())

    def __len__(self) -> int:
        return len(self._used)

    async def burn(self, consumer_key: str, nonce: str, timestamp_s: int) -> bool:
        """Insert if absent. See NonceStore."""
        return self.burn_now(consumer_key, nonce, timestamp_s)

    def burn_soon(self, consumer_key: str, nonce: str, timestamp_s: int, on_done: Burnt) -> None:
        """See NonceStore."""
        asyncio.get_running_loop().call_soon(on_done, self.burn_now(consumer_key, nonce, timestamp_s))

    def burn_now(self, consumer_key: str, nonce: str, timestamp_s: int) -> bool:
        """The same without awaiting: nothing can come between the look and the entry."""
        self._turn()
        entry = (consumer_key, nonce)
        if entry in self._used:
            return False
        if len(self._used) >= self._max_nonces:
            raise Unavailable("Too many signed requests at the moment.")
        self._used.add(entry)
        # One second more than the window, because expiry is kept in whole seconds.
        self._wheel.setdefault(int(timestamp_s + self._window_s) + 1, []).append(entry)
        return True

    def _turn(self) -> None:
        """Forget what has expired, at most once a second. Never more slots than twice the window's seconds."""
        now_s = int(self._clock())
        if now_s <= self._turned_at_s:
            return
        self._turned_at_s = now_s
        for second in [second for second in self._wheel if second <= now_s]:
            self._used.difference_update(self._wheel.pop(second))
