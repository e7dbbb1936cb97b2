"""The addresses of providers' names, remembered for a few seconds.

Whoever opens a connection would ask the system's resolver, in a thread: a fifth to half a millisecond of CPU time, and
as long as the name server takes. When many calls come at once, each needs a connection of its own; so they ask once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

#: Moves of a provider are seen after so long, or at once if nobody answers at the old addresses any more.
REMEMBERED_S: Final = 10.0

#: Gives the addresses of a host and port, the likeliest first. Raises OSError or UnicodeError.
Resolve = Callable[[str, int], Awaitable[list[str]]]


class _Known(Struct, eq=False):
    asking: asyncio.Task[list[str]]
    until_s: float
    proven: str | None = None


class Names:
    """Belongs to one event loop; ``close`` ends what it has begun. Names are those of the settings, so few."""

    def __init__(self, resolve: Resolve | None = None, *, clock: Callable[[], float] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._resolve = resolve or self._ask_system
        self._clock = clock or self._loop.time
        self._known: dict[tuple[str, int], _Known] = {}

    async def addresses_of(self, host: str, port: int) -> list[str]:
        """At least one, the likeliest first. Raises OSError or UnicodeError."""
        if _is_address(host):
            return [host]
        known = self._known.get((host, port))
        if known is None or self._clock() >= known.until_s:
            asking = self._loop.create_task(self._addresses_of(host, port))
            asking.add_done_callback(_hear)
            known = self._known[host, port] = _Known(asking, self._clock() + REMEMBERED_S)
        try:
            return await asyncio.shield(known.asking)  # others may wait for the same
        except (OSError, UnicodeError):
            if self._known.get((host, port)) is known:
                del self._known[host, port]
            raise

    def proven(self, host: str, port: int) -> str | None:
        """The address where somebody has answered; None if nobody knows one."""
        known = self._known.get((host, port))
        return None if known is None else known.proven

    def note_answer(self, host: str, port: int, address: str) -> None:
        """Somebody has answered there."""
        known = self._known.get((host, port))
        if known is not None:
            known.proven = address

    def forget(self, host: str, port: int) -> None:
        """Nobody has answered there."""
        self._known.pop((host, port), None)

    def close(self) -> None:
        """Ask no more."""
        for known in self._known.values():
            known.asking.cancel()
        self._known.clear()

    async def _addresses_of(self, host: str, port: int) -> list[str]:
        addresses = await self._resolve(host, port)
        if not addresses:
            raise OSError("a name without an address")
        return addresses

    async def _ask_system(self, host: str, port: int) -> list[str]:
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # An address within a link is one only with its scope.
        return list(dict.fromkeys(_text_of(place) for _, _, _, _, place in found))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _text_of(place: tuple[object, ...]) -> str:
    address = str(place[0])
    if len(place) == 4 and place[3] and "%" not in address:
        return f"{address}%{place[3]}"
    return address


def _hear(asking: asyncio.Task[list[str]]) -> None:
    """All who waited may have left."""
    if not asking.cancelled():
        asking.exception()
