"""Opening a connection to a provider by its name: addresses and TLS sessions are remembered."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from bitmesh_proxy.errors import UpstreamUnreachable
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.names import Names
from bitmesh_proxy.upstream.tls import TlsSessions, make_tls_context
from bitmesh_proxy.upstream.watch import Patience, Watch


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
        tls = await self._tls_sessions() if origin.is_tls else None
        addresses = await self._names.addresses_of(origin.host, origin.port)
        refusal: OSError | None = None
        for address in addresses:
            try:
                _, connection = await self._loop.create_connection(
                    make,
                    address,
                    origin.port,
                    ssl=None if tls is None else tls.context,
                    server_hostname=None if tls is None else origin.host,
                )
            except ssl.SSLError:  # somebody was there
                raise
            except OSError as exc:
                refusal = exc
            else:
                if address != addresses[0]:
                    self._names.prefer(origin.host, origin.port, address)
                return connection
        assert refusal is not None, "a name has an address"
        raise refusal

    async def _tls_sessions(self) -> TlsSessions:
        if self.tls is None:
            context = await asyncio.to_thread(make_tls_context)  # it reads a few hundred certificates from disk
            self.tls = TlsSessions(context)
        return self.tls
