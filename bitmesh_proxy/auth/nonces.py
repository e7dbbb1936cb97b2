"""Nonces: a signed request is good once.

A nonce is burnt after signature and payload signature were found good, and stays burnt until its timestamp has left
the window, so that nothing that could still be accepted is ever forgotten. It counts per consumer key, whatever the
timestamp beside it: stricter than RFC 5849 (3.3), which lets a nonce return with another second, and no client that
draws its nonces at random notices.

``NonceStore`` is what authentication needs; ``storage.nonces`` keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

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
