"""Fetch bytes from a link that somebody else wrote, without being led to places that only this machine can reach.

- The host is resolved once per connection, **every** address of the answer is judged (``addresses.is_public``), and the
  connection goes to exactly those addresses: a name that changes its mind between check and connect gains nothing.
- Redirects are followed by hand and judged like the first link; from https to http only towards a trusted origin.
- Ports 80 and 443, and the ports of trusted origins. Trusted origins come from the configuration, never from a request;
  with ``allow_private`` (the sandbox) private addresses are let through too, the other rules stay.
- ``headers`` (a provider's credential) go to the first origin only, and are gone for good once a redirect leaves it.
  No cookies, no netrc, no proxy of the environment, no decompression: what is counted is what came.
- Bytes, redirects, the time to connect, silence and the whole time spent waiting for the other side are bounded. The
  time that our own reader takes is not counted: a slow caller is not the other side's fault.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

import msgspec
from aiohttp import abc
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from bitmesh_proxy.errors import UpstreamBroken
from bitmesh_proxy.media.addresses import is_public, parse_address
from bitmesh_proxy.media.fetch_answer import ALL_KINDS, Answer, Kind
from bitmesh_proxy.media.fetch_budget import FetchBudget
from bitmesh_proxy.media.fetch_connections import JudgedConnect
from bitmesh_proxy.media.fetch_errors import FetchBroken, FetchRefused
from bitmesh_proxy.media.origins import Origin, follow, origin_of, parse_link
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.connections import Connections
from bitmesh_proxy.upstream.opening import Origin as ConnectionOrigin

_USUAL_PORTS: Final = frozenset({80, 443})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_KEEPALIVE_S: Final = 15.0
_HEADERS: Final = {"User-Agent": "bitmesh-proxy", "Accept": "*/*", "Accept-Encoding": "identity"}


class FetchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much, how far, how long. ``total_timeout_s`` is time spent waiting for the other side, all in all."""

    max_bytes: int = 512 * 1024 * 1024
    max_redirects: int = 3
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    total_timeout_s: float = 300.0


class GuardedFetcher:
    """One session for fetches from outside. See the module's docstring. An async context manager."""

    def __init__(
        self,
        limits: FetchLimits,
        *,
        trusted_origins: Iterable[Origin] = (),
        allow_private: bool = False,
        resolver: abc.AbstractResolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._limits = limits
        self._trusted = frozenset(trusted_origins)
        self._allow_private = allow_private
        self._resolver = resolver
        self._ssl = ssl_context
        self._connections: Connections | None = None

    async def __aenter__(self) -> Self:
        connect = JudgedConnect(
            self._resolver or ThreadedResolver(),
            self._may_connect,
            timeout_s=self._limits.connect_timeout_s,
            ssl_context=self._ssl,
        )
        self._connections = Connections(
            connect_timeout_s=self._limits.connect_timeout_s,
            keepalive_s=_KEEPALIVE_S,
            max_per_origin=sys.maxsize,  # how many fetches run is the caller's decision
            connect=connect,
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connections is not None:
            await self._connections.close()
            self._connections = None

    @asynccontextmanager
    async def open(
        self,
        link: str,
        *,
        kinds: frozenset[Kind] = ALL_KINDS,
        headers: Mapping[str, str] | None = None,
        max_bytes: int | None = None,
    ) -> AsyncIterator[Answer]:
        """Follow ``link`` to its answer, whatever its status; leaving the context ends the exchange at once.

        A success must declare one of ``kinds``, or nothing in particular; an error's body may be anything. Raises the
        classes of ``fetch_errors``, except FetchGone.
        """
        if self._connections is None:
            raise RuntimeError("the fetcher is not open")
        limit = self._limits.max_bytes if max_bytes is None else min(max_bytes, self._limits.max_bytes)
        budget = FetchBudget(
            max_bytes=limit, total_timeout_s=self._limits.total_timeout_s, watch=self._connections.watch
        )
        answer = None
        try:
            answer = await self._follow(parse_link(link), dict(headers or {}), budget)
            if answer.status < 400:
                answer.check(kinds, max_bytes=limit)
            yield answer
        finally:
            budget.close()
            if answer is not None:
                _release(answer)

    async def _follow(self, url: URL, secret: dict[str, str], budget: FetchBudget) -> Answer:
        """The first answer that is not a redirect. Every hop is judged before anything is sent there."""
        for _ in range(self._limits.max_redirects + 1):
            origin = self._judge(url)
            head = _head_bytes(url, {**_HEADERS, **secret})
            answer = await self._send(origin, head, budget)
            if answer.status not in _REDIRECTS:
                return answer
            _release(answer)
            location = answer.headers.get("Location")
            if location is None:
                raise FetchBroken("a redirect without a target")
            url = follow(url, location)
            target = origin_of(url)
            if origin.scheme == "https" and target.scheme == "http" and target not in self._trusted:
                raise FetchRefused("a redirect from https to http")
            if target != origin:
                secret = {}
        raise FetchRefused("too many redirects")

    async def _send(self, at: Origin, head: bytes, budget: FetchBudget) -> Answer:
        """The answer to one hop, on a connection that was waiting or else on a new one."""
        assert self._connections is not None, "open has looked"
        origin = ConnectionOrigin(at.host, at.port, at.scheme == "https")
        async with budget:
            waiting = self._connections.take_idle(origin)
            if waiting is not None:
                try:
                    return await self._exchange(waiting, head, budget)
                except UpstreamBroken:  # as it were the end of its life, of which we had not heard yet
                    if not waiting.may_repeat(is_repeatable=True):
                        raise
            fresh = await self._connections.take(origin, is_fresh=True, until_s=math.inf)
            return await self._exchange(fresh, head, budget)

    async def _exchange(self, connection: ProviderConnection, head: bytes, budget: FetchBudget) -> Answer:
        idle_s = self._limits.idle_timeout_s
        try:
            connection.send(
                head,
                b"",
                is_head_only=False,
                first_byte_s=asyncio.get_running_loop().time() + idle_s,
                idle_s=idle_s,
                deadline_s=math.inf,  # the whole time is the budget's, for our own reader's is not counted
            )
            return Answer(connection, await connection.head(), budget=budget)
        except BaseException:
            connection.finish()
            raise

    def _judge(self, url: URL) -> Origin:
        """Refuse by what the link itself says; names are judged when they are resolved."""
        origin = origin_of(url)
        if origin in self._trusted:
            return origin
        if origin.port not in _USUAL_PORTS:
            raise FetchRefused("the link leads to an unusual port")
        address = parse_address(origin.host)
        if address is not None and not (self._allow_private or is_public(address)):
            raise FetchRefused("the link leads to an address that is not public")
        return origin

    def _may_connect(self, host: str, port: int, address: str) -> bool:
        if self._allow_private or any(o.host == host.lower() and o.port == port for o in self._trusted):
            return True
        parsed = parse_address(address)
        return parsed is not None and is_public(parsed)


def _release(answer: Answer) -> None:
    """The exchange is over. If its end has been reached, another one may follow on the connection."""
    connection = answer.detach()
    if connection is not None:
        connection.finish()


def _head_bytes(url: URL, headers: Mapping[str, str]) -> bytes:
    """The request, which has no body. Raises FetchRefused where a header would end its line."""
    lines = [f"GET {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if any(character in line for line in lines for character in "\r\n\0"):
        raise FetchRefused("a header of the request holds a line end")
    return "\r\n".join([*lines, "", ""]).encode()
