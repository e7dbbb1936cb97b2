"""The one way out: calls to providers, with every time-out and every transport error in one place.

``Upstream.open`` sends one request and gives an ``UpstreamAnswer`` as soon as the head of the answer is there. The body
is taken as it comes (nothing is collected, nothing decompressed); leaving the context before its end closes the
connection at once, which is how a provider learns that nobody listens any more. Connections are our own
(``connection.py``, ``connections.py``), because a client session costs several times what the rest of a call does.

``Upstream.begin`` is the same for a request that is bytes already, without anything to wait for: what becomes of it is
told to a ``Listener``. Where there is something to wait for, ``begin_when_free`` waits for it, and then does the same.

Errors of the transport are ``UpstreamUnreachable`` (nothing was sent), ``UpstreamBroken`` or ``UpstreamTimeout``.
Whoever is cancelled while waiting for the head of an answer has to know whether the provider may be at work already, so
``on_sent`` is called when a request begins to go out.

A request is repeated once, and only on a new connection, when the connection it was sent on had been used before and
was lost before any answer, and either not a byte of it had gone out or repeating it can do no harm (GET, HEAD).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType

from bitmesh_proxy.dialects.base import UpstreamRequest
from bitmesh_proxy.errors import UpstreamBroken
from bitmesh_proxy.settings import Upstream as UpstreamSettings
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.answers import too_large
from bitmesh_proxy.upstream.connection import ProviderConnection
from bitmesh_proxy.upstream.connections import Connections
from bitmesh_proxy.upstream.heads import AnswerHead
from bitmesh_proxy.upstream.inbox import Take
from bitmesh_proxy.upstream.listener import Listener
from bitmesh_proxy.upstream.opening import Origin
from bitmesh_proxy.upstream.requests import request_bytes
from bitmesh_proxy.upstream.slots import Slots

#: May be sent again without asking: RFC 9110, section 9.2.2. (PUT and DELETE are not used.)
_REPEATABLE = frozenset({"GET", "HEAD"})


class UpstreamAnswer:
    """The head of a provider's answer, and its body to come."""

    __slots__ = ("_connection", "head")

    def __init__(self, connection: ProviderConnection, head: AnswerHead) -> None:
        self._connection = connection
        self.head = head

    @property
    def status(self) -> int:
        """The status."""
        return self.head.code

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers."""
        return self.head.headers

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case; empty when the provider sent none."""
        return self.head.media_type

    @property
    def content_length(self) -> int | None:
        """The declared length in bytes, if there is one."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isdigit() else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, one item per read.

        Raises UpstreamBroken when it breaks off, UpstreamTimeout when nothing comes for too long or all takes too long.
        """
        while data := await self._connection.read():
            yield data

    async def piece(self) -> bytes:
        """What comes next, or has come meanwhile; empty at the end. Raises as ``chunks``."""
        return await self._connection.read()

    async def pour(self, take: Take) -> None:
        """The body as it comes, given to ``take`` the moment it is read, without a turn of the event loop in between.

        What ``take`` returns, if anything, is awaited before more is read. Raises as ``chunks``, ``take``, ``taken``.
        """
        await self._connection.pour(take)

    async def taken(self, pending: Awaitable[None]) -> None:
        """Wait for the caller to take what he has been given. Raises CallerLeft when he has not before the time of the
        longest answer is over."""
        await self._connection.taken(pending)

    async def read(self, max_bytes: int) -> bytes:
        """The whole body. Raises UpstreamBroken beyond ``max_bytes``."""
        parts: list[bytes] = []
        size = 0
        while chunk := await self._connection.read():
            size += len(chunk)
            if size > max_bytes:
                raise too_large()
            parts.append(chunk)
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Upstream:
    """Owns the connections. One per application, opened and closed with it."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        #: The head has to come before all is over.
        self._first_byte_timeout_s = min(settings.first_byte_timeout_s, settings.total_timeout_s)
        self._connections: Connections | None = None
        self._slots: dict[str, Slots] = {}

    async def __aenter__(self) -> Upstream:
        self._connections = Connections(
            connect_timeout_s=self._settings.connect_timeout_s,
            keepalive_s=self._settings.keepalive_timeout_s,
            max_per_origin=self._settings.max_connections_per_provider,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._connections is not None:
            await self._connections.close()
            self._connections = None

    def open(
        self, access: ProviderAccess, request: UpstreamRequest, *, on_sent: Callable[[], None] | None = None
    ) -> Exchange:
        """Send ``request`` and give the answer's head; the connection is closed or reused on leaving.

        Entering raises UpstreamUnreachable, UpstreamTimeout or UpstreamBroken. Error *statuses* are the caller's
        business.
        """
        return Exchange(self._opened(), self._settings, access, request, on_sent=on_sent, slot=self._slots_of(access))

    def begin(
        self,
        access: ProviderAccess,
        origin: Origin,
        *,
        head: bytes,
        body: bytes,
        listener: Listener,
        is_head_only: bool = False,
    ) -> ProviderConnection | None:
        """Send ``head`` and ``body`` at once, if a connection waits for them and a place at the provider is free.

        ``listener`` is told what becomes of it, never before this has returned, and has to ``finish`` the connection.
        None: it is certain that nothing has gone out, and nothing will be told; ``begin_when_free`` is the way then.
        ``is_head_only``: the answer will have no body whatever it says (HEAD).
        """
        connections = self._connections or self._opened()
        slot = self._slots_of(access) if access.max_concurrent else None
        if slot is not None and not slot.take_now():
            return None
        connection = connections.take_idle(origin)
        if connection is None:
            if slot is not None:
                slot.release()
            return None
        connection.slot = slot
        now_s = connections.loop.time()
        settings = self._settings
        if connection.begin(
            head,
            body,
            listener=listener,
            first_byte_s=now_s + self._first_byte_timeout_s,
            idle_s=settings.idle_timeout_s,
            deadline_s=now_s + settings.total_timeout_s,
            is_head_only=is_head_only,
        ):
            return connection
        connection.finish()
        return None

    async def begin_when_free(
        self,
        access: ProviderAccess,
        origin: Origin,
        *,
        head: bytes,
        body: bytes,
        listener: Listener,
        is_head_only: bool = False,
    ) -> ProviderConnection:
        """As ``begin``, after waiting for a place at the provider and for a connection: a new one, so that nothing is
        sent a third time.

        ``listener`` is not told anything before this has returned, if it is awaited where it is called. Raises
        UpstreamUnreachable, UpstreamTimeout or UpstreamBroken, and nothing will be told then.
        """
        connections = self._opened()
        slot = self._slots_of(access)
        if slot is not None:
            await slot.take()
        connection: ProviderConnection | None = None
        try:
            now_s = connections.loop.time()
            settings = self._settings
            first_byte_s = now_s + self._first_byte_timeout_s
            connection = await connections.take(origin, is_fresh=True, until_s=first_byte_s)
            if not connection.begin(
                head,
                body,
                listener=listener,
                first_byte_s=first_byte_s,
                idle_s=settings.idle_timeout_s,
                deadline_s=now_s + settings.total_timeout_s,
                is_head_only=is_head_only,
            ):
                raise UpstreamBroken("The provider closed the connection without an answer.")
        except BaseException:
            if connection is not None:
                connection.finish()
            if slot is not None:
                slot.release()
            raise
        connection.slot = slot
        return connection

    def _opened(self) -> Connections:
        if self._connections is None:
            raise RuntimeError("Upstream is used outside of its context")
        return self._connections

    def _slots_of(self, access: ProviderAccess) -> Slots | None:
        if not access.max_concurrent:
            return None
        slots = self._slots.get(access.name)
        if slots is None:
            slots = self._slots[access.name] = Slots(access.max_concurrent)
        return slots


class Exchange:
    """One request and its answer, as a context."""

    __slots__ = ("_access", "_connection", "_connections", "_on_sent", "_request", "_settings", "_slot")

    def __init__(
        self,
        connections: Connections,
        settings: UpstreamSettings,
        access: ProviderAccess,
        request: UpstreamRequest,
        *,
        on_sent: Callable[[], None] | None,
        slot: Slots | None,
    ) -> None:
        self._connections = connections
        self._settings = settings
        self._access = access
        self._request = request
        self._on_sent = on_sent
        self._slot = slot
        self._connection: ProviderConnection | None = None

    async def __aenter__(self) -> UpstreamAnswer:
        if self._slot is not None:
            await self._slot.take()
        try:
            return await self._send()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._connection is not None:
            self._connections.give_back(self._connection)
            self._connection = None
        if self._slot is not None:
            self._slot.release()
            self._slot = None

    async def _send(self) -> UpstreamAnswer:
        target, head, body = request_bytes(self._access, self._request)
        settings = self._settings
        now_s = self._connections.loop.time()
        deadline_s = now_s + settings.total_timeout_s
        first_byte_s = min(now_s + settings.first_byte_timeout_s, deadline_s)
        is_repeated = False
        while True:
            connection = None if is_repeated else self._connections.take_idle(target.origin)
            if connection is None:
                connection = await self._connections.take(target.origin, is_fresh=is_repeated, until_s=first_byte_s)
            self._connection = connection
            if self._on_sent is not None:
                self._on_sent()
            connection.send(
                head,
                body,
                is_head_only=self._request.method == "HEAD",
                first_byte_s=first_byte_s,
                idle_s=settings.idle_timeout_s,
                deadline_s=deadline_s,
            )
            try:
                answer = await connection.head()
            except UpstreamBroken:
                if is_repeated or not connection.may_repeat(is_repeatable=self._request.method in _REPEATABLE):
                    raise
                self._connections.give_back(connection)
                self._connection = None
                is_repeated = True
                continue
            return UpstreamAnswer(connection, answer)
