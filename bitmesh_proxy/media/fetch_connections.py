"""How the guarded fetcher connects: a name is resolved once, every address of it judged, and only these connected to.

What was judged and what is connected to is the same list, so that a name that changes its mind in between gains
nothing. With TLS it is the name that is asked for and that the certificate has to bear, whatever the address.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from aiohttp import abc

from bitmesh_proxy.media.addresses import parse_address
from bitmesh_proxy.media.fetch_errors import FetchRefused, FetchTimedOut, FetchUnreachable
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.opening import Origin, first_to_answer
from bitmesh_proxy.upstream.tls import make_tls_context

#: May a connection to this host and port go to this address?
Judge = Callable[[str, int, str], bool]


class JudgedConnect:
    """``Connections.connect`` of the guarded fetcher. See the module's docstring."""

    def __init__(
        self,
        resolver: abc.AbstractResolver,
        judge: Judge,
        *,
        timeout_s: float,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._resolver = resolver
        self._judge = judge
        self._timeout_s = timeout_s
        self._ssl = ssl_context

    async def __call__(self, origin: Origin, make: Callable[[], ProviderConnection]) -> ProviderConnection:
        """Raises FetchRefused (nothing was sent), FetchUnreachable or FetchTimedOut."""
        bound = asyncio.timeout(self._timeout_s)
        try:
            async with bound:
                return await self._connect(origin, make)
        except ssl.CertificateError as exc:
            raise FetchUnreachable("the other side's certificate is not good") from exc
        except (OSError, UnicodeError) as exc:  # a name that no resolver takes is a UnicodeError
            if bound.expired():
                raise FetchTimedOut("the other side did not answer in time") from exc
            raise FetchUnreachable("the other side cannot be reached") from exc

    async def _connect(self, origin: Origin, make: Callable[[], ProviderConnection]) -> ProviderConnection:
        addresses = await self._judged_addresses(origin)
        tls = await self._tls_context() if origin.is_tls else None
        connected = await first_to_answer(addresses, origin.port)
        _, connection = await asyncio.get_running_loop().create_connection(
            make, sock=connected, ssl=tls, server_hostname=None if tls is None else origin.host.rstrip(".")
        )
        return connection

    async def _judged_addresses(self, origin: Origin) -> list[str]:
        """Raises FetchRefused if a single one of them is not to be gone to."""
        found = [origin.host]
        if parse_address(origin.host) is None:
            answer = await self._resolver.resolve(origin.host, origin.port, socket.AF_UNSPEC)
            found = [entry["host"] for entry in answer]
        if not found:
            raise OSError("a name without an address")
        if not all(self._judge(origin.host, origin.port, address) for address in found):
            raise FetchRefused("the link leads to an address that is not public")
        return found

    async def _tls_context(self) -> ssl.SSLContext:
        if self._ssl is None:
            self._ssl = await asyncio.to_thread(make_tls_context)  # it reads a few hundred certificates from disk
        return self._ssl
