"""The one way out: an HTTP client for calls to providers, with every time-out and every transport error in one place.

``Upstream.open`` sends one request and gives an ``UpstreamAnswer`` as soon as the head of the answer is there. The body
is read chunk by chunk as it comes (nothing is collected, nothing decompressed); leaving the context before its end
closes the connection at once, which is how a provider learns that nobody listens any more.

Foreign errors end here: aiohttp's client errors become ``UpstreamUnreachable`` (nothing was sent), ``UpstreamBroken``
or ``UpstreamTimeout``. Whoever is cancelled while waiting for the head of an answer has to know whether the provider
may be at work already, so ``on_sent`` is called when the first byte of a request's body goes out.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from bitmesh_proxy import __version__
from bitmesh_proxy.errors import UpstreamBroken, UpstreamError, UpstreamTimeout, UpstreamUnreachable
from bitmesh_proxy.providers.base import FRESH_UUID, FormPart, UpstreamRequest
from bitmesh_proxy.settings import Upstream as UpstreamSettings
from bitmesh_proxy.upstream.access import ProviderAccess

USER_AGENT = f"bitmesh-proxy/{__version__}"
#: A large body goes out in pieces of this size, so that other streams get their turn in between.
WRITE_BYTES = 256 * 1024


class UpstreamAnswer:
    """The head of a provider's answer, and its body to come."""

    def __init__(self, response: aiohttp.ClientResponse, *, idle_timeout_s: float, deadline_s: float) -> None:
        self._response = response
        self._idle_timeout_s = idle_timeout_s
        self._deadline_s = deadline_s
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case; empty when the provider sent none."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int | None:
        """The declared length in bytes, if there is one."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isdigit() else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, one item per read.

        Raises UpstreamBroken when it breaks off, UpstreamTimeout when nothing comes for too long or all takes too long.
        """
        content = self._response.content
        loop = asyncio.get_running_loop()
        try:
            while True:
                async with asyncio.timeout_at(min(loop.time() + self._idle_timeout_s, self._deadline_s)):
                    data = await content.readany()
                if not data:
                    return
                yield data
        except TimeoutError as exc:
            raise UpstreamTimeout("The provider fell silent.") from exc
        except aiohttp.ClientError as exc:
            raise UpstreamBroken("The provider's answer broke off.") from exc
        except ValueError as exc:
            raise UpstreamBroken("The provider's answer was not valid HTTP.") from exc

    async def read(self, max_bytes: int) -> bytes:
        """The whole body. Raises UpstreamBroken beyond ``max_bytes``."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > max_bytes:
                raise UpstreamBroken("The provider's answer is larger than this service takes.")
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Upstream:
    """Owns the client session. One per application, opened and closed with it."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._slots: dict[str, asyncio.Semaphore] = {}

    async def __aenter__(self) -> Upstream:
        connector = aiohttp.TCPConnector(
            limit=0,  # aiohttp's default of 100 makes the 101st stream wait for the first to end
            limit_per_host=self._settings.max_connections_per_provider,
            keepalive_timeout=self._settings.keepalive_timeout_s,
            enable_cleanup_closed=False,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout_s),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            trust_env=False,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def open(
        self, access: ProviderAccess, request: UpstreamRequest, *, on_sent: Callable[[], None] | None = None
    ) -> AsyncIterator[UpstreamAnswer]:
        """Send ``request`` and give the answer's head; the connection is closed or reused on leaving.

        Raises UpstreamUnreachable, UpstreamTimeout or UpstreamBroken. Error *statuses* are the caller's business.
        """
        if access.max_concurrent:
            slot = self._slots.setdefault(access.name, asyncio.Semaphore(access.max_concurrent))
            async with slot:
                async with self._open(access, request, on_sent) as answer:
                    yield answer
        else:
            async with self._open(access, request, on_sent) as answer:
                yield answer

    @asynccontextmanager
    async def _open(
        self, access: ProviderAccess, request: UpstreamRequest, on_sent: Callable[[], None] | None
    ) -> AsyncIterator[UpstreamAnswer]:
        deadline_s = asyncio.get_running_loop().time() + self._settings.total_timeout_s
        response = await self._send(access, request, on_sent)
        try:
            yield UpstreamAnswer(response, idle_timeout_s=self._settings.idle_timeout_s, deadline_s=deadline_s)
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def _send(
        self, access: ProviderAccess, request: UpstreamRequest, on_sent: Callable[[], None] | None
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("Upstream is used outside of its context")
        headers = {**request.headers, **access.auth_headers}
        data: aiohttp.Payload | None = None
        if request.form is not None:
            data = _multipart(request.form, on_sent)
        elif request.body is not None:
            data = _Body(_finished_body(request.body, request), content_type=request.content_type, on_write=on_sent)
        try:
            async with asyncio.timeout(self._settings.first_byte_timeout_s):
                return await self._session.request(
                    request.method,
                    access.url(request),
                    params=list(request.query) or None,
                    headers=headers,
                    data=data,
                    allow_redirects=False,
                )
        except TimeoutError as exc:  # aiohttp's ConnectionTimeoutError and SocketTimeoutError are TimeoutErrors too
            raise _map_timeout(exc) from exc
        except aiohttp.ClientConnectorError as exc:
            raise UpstreamUnreachable("The provider cannot be reached.") from exc
        except aiohttp.ClientError as exc:
            raise UpstreamBroken("The provider closed the connection without an answer.") from exc


def _map_timeout(exc: TimeoutError) -> UpstreamError:
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return UpstreamUnreachable("The provider cannot be reached: the connection timed out.")
    return UpstreamTimeout("The provider did not answer in time.")


def _finished_body(body: bytes, request: UpstreamRequest) -> bytes:
    """The body with its new id in place, where the protocol wants one of our making."""
    return body.replace(FRESH_UUID, str(uuid.uuid4()).encode(), 1) if request.needs_fresh_uuid else body


class _Body(aiohttp.Payload):
    """Bytes that go out in pieces, and say so when the first one does."""

    _value: bytes

    def __init__(self, value: bytes, *, content_type: str, on_write: Callable[[], None] | None = None) -> None:
        super().__init__(value, content_type=content_type)
        self._size = len(value)
        self._on_write = on_write

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        if self._on_write is not None:
            self._on_write()
        value = self._value if content_length is None else self._value[:content_length]
        if len(value) <= WRITE_BYTES:
            await writer.write(value)
            return
        view = memoryview(value)
        for start in range(0, len(value), WRITE_BYTES):
            await writer.write(view[start : start + WRITE_BYTES])


def _multipart(parts: tuple[FormPart, ...], on_sent: Callable[[], None] | None) -> aiohttp.MultipartWriter:
    writer = aiohttp.MultipartWriter("form-data")
    for number, part in enumerate(parts):
        payload = _Body(
            part.value,
            content_type=part.media_type
            or ("application/octet-stream" if part.filename else "text/plain; charset=utf-8"),
            on_write=on_sent if number == 0 else None,
        )
        if part.filename is not None:
            payload.set_content_disposition("form-data", name=part.name, filename=part.filename)
        else:
            payload.set_content_disposition("form-data", name=part.name)
        writer.append_payload(payload)
    return writer
