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

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Literal, Self

import aiohttp
import msgspec
from aiohttp import abc
from yarl import URL

from bitmesh_proxy.media.addresses import is_public, parse_address
from bitmesh_proxy.media.fetch_budget import FetchBudget
from bitmesh_proxy.media.fetch_errors import FetchBroken, FetchNotMedia, FetchRefused, FetchTooLarge
from bitmesh_proxy.media.origins import Origin, follow, origin_of, parse_link

Kind = Literal["image", "video", "audio", "file"]
ALL_KINDS: frozenset[Kind] = frozenset({"image", "video", "audio", "file"})

_USUAL_PORTS = frozenset({80, 443})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: "Some bytes": what object stores say when nobody told them. What it is in truth, sniffing says.
_UNDECLARED = frozenset({"application/octet-stream", "binary/octet-stream", "application/binary"})
_FILE_TYPES = frozenset({"application/pdf"})
#: ``aws-chunked`` is a left-over of the upload that S3 repeats on the download; the bytes are plain.
_NO_CODING = frozenset({"", "identity", "aws-chunked"})
_READ_BUFFER_BYTES = 64 * 1024


class FetchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much, how far, how long. ``total_timeout_s`` is time spent waiting for the other side, all in all."""

    max_bytes: int = 512 * 1024 * 1024
    max_redirects: int = 3
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    total_timeout_s: float = 300.0


class Answer:
    """The final answer to a fetch. ``status`` may be an error's; then ``chunks`` is that error's body.

    ``media_type`` is as declared, lower case, without parameters; None when nothing useful was declared.
    ``content_length`` is that of this body (of the part, for a 206); None when it was not declared.
    """

    def __init__(self, response: aiohttp.ClientResponse, *, budget: FetchBudget) -> None:
        self.status = response.status
        self.media_type = _declared_type(response)
        self.content_length = response.content_length
        self.content_range = response.headers.get("Content-Range")
        self._response = response
        self._budget = budget

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, one network read at a time; nothing is read ahead beyond a small buffer.

        Raises FetchTooLarge, FetchTimedOut, FetchBroken. An end without an error is the true end.
        """
        content = self._response.content
        while True:
            async with self._budget.waiting():
                chunk = await content.readany()
            if not chunk:
                return
            self._budget.count(len(chunk))
            yield chunk


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
        user_agent: str = "bitmesh-proxy",
    ) -> None:
        self._limits = limits
        self._trusted = frozenset(trusted_origins)
        self._allow_private = allow_private
        self._resolver = resolver
        self._ssl: ssl.SSLContext | bool = ssl_context or True
        self._headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        inner = self._resolver or aiohttp.ThreadedResolver()
        connector = aiohttp.TCPConnector(
            resolver=_JudgingResolver(inner, self._may_connect),
            use_dns_cache=False,  # each connection is resolved, judged and made in one go
            limit=0,  # how many fetches run is the caller's decision
            keepalive_timeout=15.0,
            ssl=self._ssl,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BUFFER_BYTES,
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._limits.connect_timeout_s, sock_read=self._limits.idle_timeout_s
            ),
        )
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def open(
        self,
        link: str,
        *,
        kinds: frozenset[Kind] = ALL_KINDS,
        headers: Mapping[str, str] | None = None,
        method: Literal["GET", "HEAD"] = "GET",
        byte_range: str | None = None,
        max_bytes: int | None = None,
    ) -> AsyncIterator[Answer]:
        """Follow ``link`` to its answer, whatever its status; leaving the context ends the exchange at once.

        ``byte_range`` is a ``Range`` header's value. A success must declare one of ``kinds``, or nothing in particular;
        an error's body may be anything. Raises the classes of ``fetch_errors``, except FetchGone.
        """
        limit = self._limits.max_bytes if max_bytes is None else min(max_bytes, self._limits.max_bytes)
        budget = FetchBudget(max_bytes=limit, total_timeout_s=self._limits.total_timeout_s)
        more = {"Range": byte_range} if byte_range else {}
        response = await self._follow(parse_link(link), method, dict(headers or {}), more, budget)
        try:
            answer = Answer(response, budget=budget)
            if response.status < 400:
                _check_head(response, answer.media_type, kinds, limit if method == "GET" else None)
            yield answer
        finally:
            response.close() if not response.content.at_eof() else response.release()

    async def _follow(
        self, url: URL, method: str, secret: dict[str, str], plain: Mapping[str, str], budget: FetchBudget
    ) -> aiohttp.ClientResponse:
        """The first answer that is not a redirect. Every hop is judged before anything is sent there."""
        for _ in range(self._limits.max_redirects + 1):
            origin = self._judge(url)
            response = await self._send(url, method, {**self._headers, **plain, **secret}, budget)
            if response.status not in _REDIRECTS:
                return response
            response.close()
            location = response.headers.get("Location")
            if location is None:
                raise FetchBroken("a redirect without a target")
            url = follow(url, location)
            target = origin_of(url)
            if origin.scheme == "https" and target.scheme == "http" and target not in self._trusted:
                raise FetchRefused("a redirect from https to http")
            if target != origin:
                secret = {}
        raise FetchRefused("too many redirects")

    async def _send(
        self, url: URL, method: str, headers: Mapping[str, str], budget: FetchBudget
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the fetcher is not open")
        async with budget.waiting():
            return await self._session.request(method, url, headers=headers, allow_redirects=False)

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


class _JudgingResolver(abc.AbstractResolver):
    """Resolves by another resolver and refuses the whole answer if one address of it is not public."""

    def __init__(self, inner: abc.AbstractResolver, may_connect: Callable[[str, int, str], bool]) -> None:
        self._inner = inner
        self._may_connect = may_connect

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[abc.ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not all(self._may_connect(host, port, entry["host"]) for entry in found):
            raise FetchRefused("the link leads to an address that is not public")
        return found

    async def close(self) -> None:
        await self._inner.close()


def _declared_type(response: aiohttp.ClientResponse) -> str | None:
    declared = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return None if not declared or declared in _UNDECLARED else declared


def _check_head(
    response: aiohttp.ClientResponse, media_type: str | None, kinds: frozenset[Kind], max_bytes: int | None
) -> None:
    if response.headers.get("Content-Encoding", "").strip().lower() not in _NO_CODING:
        raise FetchBroken("the answer is compressed, although that was not offered")
    if media_type is not None and not _is_of(media_type, kinds):
        raise FetchNotMedia("the answer is not of a kind that was asked for")
    if max_bytes is not None and (response.content_length or 0) > max_bytes:
        raise FetchTooLarge("the answer is larger than it may be")


def _is_of(media_type: str, kinds: frozenset[Kind]) -> bool:
    if media_type in _FILE_TYPES:
        return "file" in kinds
    return media_type.partition("/")[0] in kinds
