"""A connection of the server: aiohttp's own, which takes plain chat calls out of its queue and into the lane.

What a caller sends is read by aiohttp's parser, whichever way its request goes. A request that is complete and plain
(see ``Lane.takes``) is answered by the lane, without a handler's task, a ``Request`` or a ``Response``; any other wakes
aiohttp's handler, which serves it as if there were no lane. One request of a connection is served at a time, in their
order, so that pipelined ones may go either way.

The parser need not say the same twice: where it stands between two messages (``_left_bytes``) and there comes, with
nothing in front of it and nothing behind its body, a head that it has read before (``Lane.recall``), it is not asked.

Many clients send a head, and then its body in a packet of its own. The lane waits a moment for that (``_coming``).

While the lane is at work aiohttp's handler sleeps, or has not begun yet, and its sleep is hidden from aiohttp
(``_sleeper``), so that neither a further request nor the clock of idle connections wakes it. That clock is one for all
connections (``upstream/watch.py``), as long as a connection's handler has not begun, which sets its own. This leans on
private names of ``RequestHandler``, as there is no public way: ``tests/web/lane/test_protocol.py`` lists them, and
``pyproject.toml`` bounds the version.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any, Final

from aiohttp.http_parser import RawRequestMessage
from aiohttp.tcp_helpers import tcp_keepalive
from aiohttp.web_protocol import RequestHandler

from bitmesh_proxy.upstream.watch import Watch
from bitmesh_proxy.web.lane.call import LaneCall
from bitmesh_proxy.web.lane.entry import Entry
from bitmesh_proxy.web.lane.handler import Handler
from bitmesh_proxy.web.lane.heads import left_of
from bitmesh_proxy.web.lane.lane import Lane
from bitmesh_proxy.web.lane.reply import LaneReply

#: A body is mostly right behind its head. One that takes longer is waited for by aiohttp's handler.
BODY_PATIENCE_S: Final = 0.5


class LaneProtocol(Handler):
    """See the module's docstring."""

    __slots__ = ("_call", "_coming", "_held", "_lane", "_left_bytes", "_peer", "_sleeper", "_watch", "watched_s")

    def __init__(self, like: RequestHandler, auto_decompress: bool, lane: Lane, watch: Watch) -> None:
        Handler.__init__(self, like, auto_decompress, max_head_bytes=lane.max_head_bytes)
        self._lane = lane
        self._watch = watch
        #: See Watched.
        self.watched_s = inf
        #: What the lane is at work on.
        self._call: LaneCall | None = None
        #: Where aiohttp's handler sleeps meanwhile, and until the caller has read the answer.
        self._sleeper: asyncio.Future[None] | None = None
        #: The lane's next request, whose body is not all there yet, and when that will have taken too long.
        self._coming: tuple[Entry, asyncio.TimerHandle] | None = None
        #: Requests that came while aiohttp's handler was about to go to sleep. While there are any, its queue is empty.
        self._held: list[Any] = []
        #: How much is still to come of the message that the parser is in: 0 between two messages, -1 if nobody knows.
        self._left_bytes = 0
        #: The address of the other end; ``""`` for a unix socket.
        self._peer = ""

    # ------------------------------------------------------------ the connection's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio. As aiohttp's, which is not called because it starts its handler at once (see ``_wake``)."""
        assert self._manager is not None, "it made the connection"
        tcp: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's are none by descent
        self.transport = tcp
        if self._tcp_keepalive:  # TCP_NODELAY has been set by the event loop
            tcp_keepalive(tcp)
        self._manager.connection_made(self, tcp)
        if self._keepalive_timeout > 0:
            self._next_keepalive_close_time = close_time_s = self._loop.time() + self._keepalive_timeout
            self._watch.add(self, close_time_s)
        self._waiter = self._loop.create_future()
        peername = transport.get_extra_info("peername")
        self._peer = peername[0] if isinstance(peername, tuple) else ""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """As aiohttp's, which is called at the end of each body too, where mostly nothing was paused."""
        if resume_parser or self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def data_received(self, data: bytes) -> None:
        """See asyncio. Called by aiohttp too, without data, when it reads again after a pause."""
        waiter = self._waiter
        if waiter is None or waiter.done():  # aiohttp's handler is at work, or the lane is: this waits its turn
            self._read(data)
            if self._coming is not None:
                self._body_came()
                return
            # (Without data it is aiohttp's handler that asks, which is awake, and is about to serve a request.)
            if data and waiter is None and self._call is None and self._messages and not self._request_in_progress:
                self._hold()
            return
        is_between = not self._left_bytes and not self._messages and not self._held
        if is_between and (recalled := self._lane.heads.recall(data, self._peer)) is not None:
            # As if it had been through the parser and the queue.
            self._request_count += 1
            self._serve(waiter, recalled[0], recalled[1], recalled[2])
            return
        self._waiter = None
        self._read(data)
        self._waiter = waiter
        if self._held:
            self._hold()  # behind those
        elif self._messages:
            self._next(data if is_between and not self._left_bytes else b"")

    def _read(self, data: bytes) -> None:
        """Have the parser read, and count."""
        queued, left_bytes = len(self._messages), self._left_bytes
        super().data_received(data)
        if left_bytes < 0 or not data:
            return
        if left_bytes:
            self._left_bytes = max(left_bytes - len(data), -1)
        elif len(self._messages) == queued + 1 and isinstance(message := self._messages[-1][0], RawRequestMessage):
            self._left_bytes = left_of(message, data)
        else:
            self._left_bytes = -1

    def _hold(self) -> None:
        """The handler is about to wait for the next request. If it found this one in the queue it would serve it, and
        a caller who is quick would never come to the lane."""
        if not self._held:
            self._loop.call_soon(self._release)
        self._held += self._messages
        self._messages.clear()

    def _release(self) -> None:
        # In front of what has come since: aiohttp's handler may have been at work after all (it takes a request some
        # time before ``_request_in_progress`` says so), and then it reads on while these are held.
        self._messages.extendleft(reversed(self._held))
        self._held.clear()
        self._next()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio. A caller who leaves ends the call at once."""
        super().connection_lost(exc)
        self._watch.forget(self)
        if self._coming is not None:
            self._coming[1].cancel()
            self._coming = None
        if self._call is not None:
            self._call.caller_left()
        elif self._sleeper is not None:
            self.call_ended(is_reusable=False)

    def pause_writing(self) -> None:
        """See asyncio. The caller reads slowly."""
        super().pause_writing()
        if self._call is not None:
            self._call.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        if self._call is not None:
            self._call.resume_writing()
        elif self._sleeper is not None:
            self.call_ended(is_reusable=True)

    def cut_call(self) -> None:
        """The server has ended the connection, and the lane's call, if one is still at work, ends with it."""
        if self._call is not None:
            self._call.caller_left()

    # ------------------------------------------------------------ the lane's side

    async def drained(self) -> None:
        """Wait until the caller has read what was written. Raises ConnectionError."""
        await self._drain_helper()

    def _next(self, data: bytes = b"") -> None:
        """Whoever is to serve the next request gets it. Nobody is at work.

        ``data`` is the request as it came, if it is the only one and came in one piece.
        """
        waiter = self._waiter
        if waiter is None or waiter.done() or not self._messages:
            return
        message, payload = self._messages[0]
        if self.transport is None or not isinstance(message, RawRequestMessage):
            self._wake(waiter)
            return
        entry = self._lane.takes(message, payload, self._peer)
        if entry is None:
            self._wake(waiter)
        elif payload.is_eof():
            if data:
                self._lane.heads.remember(entry, message, data, payload.total_bytes, peer=self._peer)
            self._take(waiter, entry)
        else:
            self._sleeper, self._waiter = waiter, None
            self._coming = entry, self._loop.call_later(BODY_PATIENCE_S, self._give_up)

    def _body_came(self) -> None:
        """Some of it, or all."""
        assert self._coming is not None
        if not self._messages[0][1].is_eof():
            return
        (entry, timer), waiter = self._coming, self._sleeper
        assert waiter is not None, "it sleeps while a body is waited for"
        timer.cancel()
        self._coming = None
        self._take(waiter, entry)

    def _give_up(self) -> None:
        """The body takes its time, and whoever serves the plain way has patience, and its bounds."""
        self._coming = None
        waiter, self._sleeper = self._sleeper, None
        if waiter is not None and not waiter.done():
            self._waiter = waiter
            self._wake(waiter)

    def _take(self, waiter: asyncio.Future[None], entry: Entry) -> None:
        """The next request is all there, and the lane's."""
        _, payload = self._messages.popleft()
        # Not ``read_nowait``: it would have the parser look for more, which costs as much as the request.
        body = b"".join(payload._buffer)
        assert self._parser is not None, "the connection is open"
        # First of all: what follows may read on, and must find that somebody is at work.
        self._sleeper, self._waiter = waiter, None
        self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        self._serve(waiter, entry, body)

    def _wake(self, waiter: asyncio.Future[None]) -> None:
        """The next request is for aiohttp's handler. Its task begins with the first one, for many connections have none
        but for the lane; until then ``waiter`` is a future of ours, and aiohttp takes the handler for one that sleeps.
        """
        if self._task_handler is not None:
            waiter.set_result(None)
        elif self.transport is not None:
            self._waiter = None
            self._task_handler = self._loop.create_task(self.start())

    def _serve(self, waiter: asyncio.Future[None], entry: Entry, body: bytes, newcomer: bytes = b"") -> None:
        """The lane is at work, and aiohttp's handler sleeps at ``waiter``. ``newcomer``: see ``LaneCall.begin``."""
        self._sleeper, self._waiter = waiter, None
        self._request_in_progress = True
        assert self._manager is not None, "the connection is open"
        self._manager.requests_count += 1
        lane = self._lane
        context = lane.context_of(entry)
        self._call = call = LaneCall(lane, self, entry, context, LaneReply(self, context.request_id))
        call.begin(body, newcomer)

    def call_ended(self, *, is_reusable: bool) -> None:
        """The lane's answer is out, or will never be. Called once for each call, by the call; and once more, when the
        caller has read it, for one who was slow. On to the next request, or to the connection's end."""
        self._call = None
        if is_reusable and self._paused:
            return  # no further answer is written for a caller who does not read: ``resume_writing`` goes on
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        waiter, self._sleeper = self._sleeper, None
        if waiter is None or waiter.done():
            return
        self._waiter = waiter
        if self._close or self._force_close or not is_reusable:
            if self.transport is not None:
                self.transport.close()
            waiter.cancel()
            return
        self._next_keepalive_close_time = close_time_s = self._loop.time() + self._keepalive_timeout
        if self.watched_s == inf and self._keepalive_handle is None:
            self._watch.add(self, close_time_s)
        if self._messages:
            self._loop.call_soon(self._next)  # not at once: a long pipeline of refusals would nest

    def look(self, now_s: float) -> float:
        """See Watched. As aiohttp's ``_process_keepalive``, which goes on by itself once there is a handler's timer."""
        if self._force_close or not self._keepalive or self._keepalive_handle is not None:
            return inf
        if now_s < self._next_keepalive_close_time:
            return self._next_keepalive_close_time
        if self._waiter is not None and not self._waiter.done():
            self.force_close()
        return inf
