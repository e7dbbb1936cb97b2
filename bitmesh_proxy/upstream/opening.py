"""Opening a connection to a provider by its name: addresses and TLS sessions are remembered."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import aiohappyeyeballs

from bitmesh_proxy.errors import UpstreamUnreachable
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.names import Names
from bitmesh_proxy.upstream.tls import TlsSessions, make_tls_context
from bitmesh_proxy.upstream.watch import Patience, Watch

#: RFC 8305: how long one address is waited for before the next one is tried beside it.
NEXT_ADDRESS_S: Final = 0.25


class Origin(NamedTuple):
    """Where connections lead. ``host`` is a name or a bare address."""

    host: str
    port: int
    is_tls: bool


#: Opens a connection to an origin, with what the second argument makes as its protocol, within a bounded time.
Connect = Callable[[Origin, Callable[[], ProviderConnection]], Awaitable[ProviderConnection]]


class NamedConnect:
    """``Connect`` for origins of the settings. Belongs to one event loop; ``close`` ends what it has begun."""

    def __init__(self, *, timeout_s: float, watch: Watch, names: Names | None = None) -> None:
        self.timeout_s = timeout_s
        #: None until a connection with TLS is opened.
        self.tls: TlsSessions | None = None
        self._watch = watch
        self._names = names or Names()
        self._loop = asyncio.get_running_loop()

    async def __call__(self, origin: Origin, make: Callable[[], ProviderConnection]) -> ProviderConnection:
        """Raises UpstreamUnreachable."""
        try:
            with Patience(self._watch, self._loop.time() + self.timeout_s):
                return await self._connect(origin, make)
        except (OSError, UnicodeError) as exc:  # a name that no resolver takes is a UnicodeError
            # Whatever of that was to blame, next time it is found out anew.
            self._names.forget(origin.host, origin.port)
            if self.tls is not None:
                self.tls.forget(origin.host)
            if isinstance(exc, TimeoutError):
                raise UpstreamUnreachable("The provider cannot be reached: the connection timed out.") from exc
            raise UpstreamUnreachable("The provider cannot be reached.") from exc

    def note_answer(self, transport: asyncio.BaseTransport) -> None:
        """The first answer on a connection has begun."""
        if self.tls is not None:
            self.tls.note(transport)

    def close(self) -> None:
        """Nothing more will be opened."""
        self._names.close()

    async def _connect(self, origin: Origin, make: Callable[[], ProviderConnection]) -> ProviderConnection:
        host, port, is_tls = origin
        tls = (await self._tls_sessions()).context if is_tls else None
        name = host if is_tls else None
        addresses = await self._names.addresses_of(host, port)
        address = addresses[0] if len(addresses) == 1 else self._names.proven(host, port)
        if address is not None:
            try:
                _, connection = await self._loop.create_connection(make, address, port, ssl=tls, server_hostname=name)
                return connection
            except ssl.SSLError:  # somebody was there
                raise
            except OSError:
                if len(addresses) == 1:
                    raise
        sock = await first_to_answer(addresses, port)
        self._names.note_answer(host, port, sock.getpeername()[0])
        _, connection = await self._loop.create_connection(make, sock=sock, ssl=tls, server_hostname=name)
        return connection

    async def _tls_sessions(self) -> TlsSessions:
        if self.tls is None:
            context = await asyncio.to_thread(make_tls_context)  # it reads a few hundred certificates from disk
            self.tls = TlsSessions(context)
        return self.tls


async def first_to_answer(addresses: Sequence[str], port: int) -> socket.socket:
    """A socket connected to one of these addresses: where one keeps silent, the next is tried beside it (RFC 8305).

    Raises OSError when nobody answers at any; for how long one waits is the caller's business.
    """
    places = [_place(address, port) for address in addresses]
    return await aiohappyeyeballs.start_connection(places, happy_eyeballs_delay=NEXT_ADDRESS_S, interleave=1)


def _place(address: str, port: int) -> tuple[Any, ...]:
    """As ``getaddrinfo`` gives it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    place = (address, port, 0, 0) if family is socket.AF_INET6 else (address, port)
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place
