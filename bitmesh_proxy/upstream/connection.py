"""One connection to a provider, and the exchange that is under way on it: a request out, an answer in.

All that happens is told to a ``Listener`` the moment it is read, with plain calls; ``send``, ``head``, ``read`` and
``pour`` are the same for those who would rather wait (``inbox.py``). Heads are read by ``heads.py``; bodies are only
framed (``framing.py``). Nothing is collected here: a piece is what one read of the socket returned. Whoever is slower
than the provider makes it wait (reading is paused), and whoever leaves before the end closes the connection at once.

No piece moves a timer (``watch.py``) or asks for the time: now and then it is looked whether any has come since.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import Final, Protocol, cast

from bitmesh_proxy.errors import CallerLeft, UpstreamBroken, UpstreamTimeout
from bitmesh_proxy.upstream.acknowledging import acknowledge_in_pairs
from bitmesh_proxy.upstream.framing import BETWEEN_CHUNKS, CHUNK_END, CHUNKS, Framing, FramingError
from bitmesh_proxy.upstream.heads import MAX_HEAD_BYTES, MAX_INTERIM_ANSWERS, AnswerHead, HeadReader
from bitmesh_proxy.upstream.inbox import Inbox, Take
from bitmesh_proxy.upstream.listener import Listener
from bitmesh_proxy.upstream.slots import Slots
from bitmesh_proxy.upstream.tls import said_goodbye
from bitmesh_proxy.upstream.watch import Patience, Watch

#: A request's body above this size goes out in pieces of it, no faster than they are taken.
WRITE_BYTES: Final = 256 * 1024

#: How often it is looked for silence within ``idle_s``, so that one of 100 s is noticed after 100 to 125 s.
LOOKS: Final = 4

# Where an exchange stands. FAILED and COMPLETE wait for their listener to finish it.
_IDLE, _HEAD, _BODY, _COMPLETE, _FAILED = range(5)


class Home(Protocol):
    """The pool that a connection belongs to."""

    heads: HeadReader
    watch: Watch

    def note_answer(self, transport: asyncio.BaseTransport) -> None:
        """The connection's first answer has begun."""

    def give_back(self, connection: ProviderConnection) -> None:
        """The exchange is over."""

    def forget(self, connection: ProviderConnection) -> None:
        """The connection is lost."""


class ProviderConnection(asyncio.Protocol):
    """Made by the pool, which hands it out to one exchange after the other."""

    __slots__ = (
        "_ask",
        "_chunk_listener",
        "_deadline_s",
        "_due_s",
        "_framing",
        "_head",
        "_idle_s",
        "_inbox",
        "_interim",
        "_is_head_only",
        "_is_paused",
        "_is_write_paused",
        "_last_s",
        "_listener",
        "_loop",
        "_may_follow",
        "_phase",
        "_transport",
        "_unsent",
        "_was_heard",
        "home",
        "idle_since_s",
        "is_held",
        "is_reused",
        "is_silent",
        "slot",
        "was_refused",
        "watched_s",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, home: Home) -> None:
        self._loop = loop
        self.home = home
        self._transport: asyncio.Transport | None = None
        self._ask: Callable[[int], list[tuple[int, int]]] | None = None
        self._phase = _IDLE
        self._listener: Listener | None = None
        #: The same, while what comes next is a chunk, if the framing has such.
        self._chunk_listener: Listener | None = None
        self._inbox: Inbox | None = None
        self._framing: Framing | None = None
        self._head = b""
        self._interim = 0
        self._unsent: memoryview | None = None
        self._is_head_only = False
        self._is_paused = False
        self._is_write_paused = False
        self._may_follow = False
        self._was_heard = False
        self._due_s = self._idle_s = self._deadline_s = self._last_s = 0.0
        #: Pieces lie with the listener that nobody has taken yet, so that silence is not the provider's.
        self.is_held = False
        #: An exchange has been made on it before.
        self.is_reused = False
        #: The provider has not said a single byte in this exchange.
        self.is_silent = True
        #: It is certain that not a byte of this exchange's request has gone out.
        self.was_refused = False
        self.idle_since_s = 0.0
        #: The place at the provider that goes with this exchange.
        self.slot: Slots | None = None
        self.watched_s = inf

    # ------------------------------------------------------------ an exchange

    @property
    def is_lost(self) -> bool:
        """Is there no connection any more (or not yet)?"""
        return self._transport is None

    @property
    def is_busy(self) -> bool:
        """Is there an exchange that has not been finished?"""
        return self._phase != _IDLE

    @property
    def is_complete(self) -> bool:
        """Has the exchange's answer come to its end?"""
        return self._phase == _COMPLETE

    def begin(
        self,
        head: bytes,
        body: bytes,
        *,
        listener: Listener,
        first_byte_s: float,
        idle_s: float,
        deadline_s: float,
        is_head_only: bool = False,
    ) -> bool:
        """Send a request; ``listener`` is told the rest, never before this has returned.

        ``first_byte_s`` and ``deadline_s`` (not the earlier one) are moments of the loop's clock, ``idle_s`` a span.
        ``is_head_only``: the answer will have no body whatever it says (HEAD).

        False: it is certain that nothing has gone out (``was_refused``); nothing will be told, and the connection is to
        be finished.
        """
        transport = self._transport
        assert self._phase == _IDLE, "one exchange at a time"
        self._phase = _HEAD
        self._listener = listener
        self._is_head_only = is_head_only
        self._due_s = first_byte_s
        self._idle_s = idle_s
        self._deadline_s = deadline_s
        self.is_silent = True
        if transport is None:
            return self._refuse()
        if len(body) <= WRITE_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            self._unsent = memoryview(body)
        # The one case where it is certain that not a byte has gone out: the socket refused the very first one.
        if transport.is_closing():
            return self._refuse()
        if self._due_s < self.watched_s:
            self.home.watch.add(self, self._due_s)
        if self._unsent is not None:
            self._send_more()
        return True

    def finish(self) -> None:
        """The exchange is over, however far it has come; nothing more is told. Does nothing when there is none."""
        if self._phase != _IDLE:
            self.home.give_back(self)

    def may_repeat(self, *, is_repeatable: bool) -> bool:
        """After a failure: may the request be sent again, on a new connection? Once, and only if it can do no harm.

        ``is_repeatable``: it would do none even if the provider had got it (GET, HEAD; RFC 9110, section 9.2.2).
        """
        return self.is_reused and (self.was_refused or (is_repeatable and self.is_silent))

    def pause(self) -> None:
        """Make the provider wait. Silence is not counted against it meanwhile."""
        transport = self._transport
        if not self._is_paused and self._phase in (_HEAD, _BODY) and transport is not None:
            self._is_paused = True
            transport.pause_reading()

    def resume(self) -> None:
        """Let it go on; what was held is taken."""
        self.is_held = False
        self._was_heard = True  # the silence was ours
        if self._is_paused:
            self._is_paused = False
            if self._transport is not None:
                self._transport.resume_reading()

    def end(self) -> bool:
        """Finish, as the pool does it. Gives whether another exchange may follow; if not, the connection is closed."""
        transport = self._transport
        may_follow = (
            self._phase == _COMPLETE
            and self._may_follow
            and self._unsent is None
            and transport is not None
            and not transport.is_closing()
        )
        self._phase = _IDLE
        self._listener = self._chunk_listener = self._inbox = self._framing = self._unsent = None
        self.is_held = False
        if not may_follow:
            self.close()
            return False
        self.is_reused = True
        if self._is_paused:
            self.resume()
        return True

    def close(self) -> None:
        """At once: what is still to be written is dropped. A provider learns so that nobody listens any more."""
        if self._transport is not None:
            self._transport.abort()

    def is_alive(self) -> bool:
        """Could a request be sent on it? Not if there is anything to be read where nothing was asked: an end that the
        event loop has not seen yet."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        ask = self._ask
        if ask is None:  # made once: that costs as much again as to ask
            sock = transport.get_extra_info("socket")
            if sock is None or sock.fileno() < 0:
                return False
            poll = select.poll()
            poll.register(sock.fileno(), select.POLLIN)
            self._ask = ask = poll.poll
        return not ask(0)

    # ------------------------------------------------------------ the same for those who wait

    def send(
        self, head: bytes, body: bytes, *, is_head_only: bool, first_byte_s: float, idle_s: float, deadline_s: float
    ) -> None:
        """As ``begin``, without a listener: the answer waits for ``head``, and then ``read`` or ``pour``."""
        inbox = Inbox(self, self._loop)
        has_begun = self.begin(
            head,
            body,
            listener=inbox,
            first_byte_s=first_byte_s,
            idle_s=idle_s,
            deadline_s=deadline_s,
            is_head_only=is_head_only,
        )
        self._inbox = inbox
        if not has_begun:
            inbox.on_error(_broken_before())

    def head(self) -> Coroutine[None, None, AnswerHead]:
        """The answer's head. Raises UpstreamBroken or UpstreamTimeout."""
        return self._waiting_inbox().head()

    def read(self) -> Coroutine[None, None, bytes]:
        """The next piece of the body, or all that has come meanwhile; empty at the end.

        Raises UpstreamBroken when it breaks off, UpstreamTimeout when nothing comes for too long or all takes too long.
        """
        return self._waiting_inbox().read()

    def pour(self, take: Take) -> Coroutine[None, None, None]:
        """Give each piece to ``take`` the moment it is read, until the end. Raises as ``read``, and what it raises, and
        CallerLeft when what it has given is not taken before all is over."""
        return self._waiting_inbox().pour(take)

    async def taken(self, pending: Awaitable[None]) -> None:
        """Wait for a caller to take what he has been given. Raises CallerLeft when he has not before all is over."""
        patience = Patience(self.home.watch, self._deadline_s)
        try:
            with patience:
                await pending
        except TimeoutError as exc:
            if not patience.is_over:  # whoever is waited for had less of it
                raise
            raise CallerLeft from exc

    def _waiting_inbox(self) -> Inbox:
        assert self._inbox is not None, "send comes first"
        return self._inbox

    # ------------------------------------------------------------ the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by descent

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        # What happens with every piece of every stream: no call but those that have to be, and no clock. It mostly is
        # one chunk, whole (what is left of it is as long as its body only if it had such a beginning, and that end).
        listener = self._chunk_listener
        if listener is not None and (chunk := CHUNKS.get(len(data))) is not None:
            beginning, size = chunk
            piece = data.removeprefix(beginning).removesuffix(CHUNK_END)
            if len(piece) == size:
                self._was_heard = True
                try:
                    listener.on_piece(piece, data)
                except Exception as exc:  # noqa: BLE001 - it belongs to the listener, not to the event loop
                    self._fail_for(listener, exc)
                return
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        """Whatever may come: about a body its framing is asked."""
        framing = self._framing
        if framing is None:
            self._read_head(data)
            return
        try:
            piece, framed = framing.feed(data)
        except FramingError as exc:
            self._fail(_not_http(), exc)
            return
        if framing.is_done:
            self._complete(framing, piece)
            return
        self._was_heard = True
        if piece:
            listener = self._listener
            assert listener is not None
            try:
                listener.on_piece(piece, framed)
            except Exception as exc:  # noqa: BLE001 - it belongs to the listener, not to the event loop
                self._fail_for(listener, exc)
        if self._framing is framing:
            self._chunk_listener = self._listener if framing.state == BETWEEN_CHUNKS else None

    def pause_writing(self) -> None:
        """See asyncio."""
        self._is_write_paused = True

    def resume_writing(self) -> None:
        """See asyncio."""
        self._is_write_paused = False
        if self._unsent is not None:
            self._send_more()

    def eof_received(self) -> bool:
        """See asyncio. The connection is closed then."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        transport = self._transport
        self._transport = self._ask = None
        self.home.forget(self)
        if self._phase == _HEAD:
            self._fail(_broken_before(), exc)
        elif self._phase == _BODY:
            framing = self._framing
            assert framing is not None
            if exc is None and framing.ends_here() and transport is not None and said_goodbye(transport):
                self._complete(framing, b"")
            else:
                self._fail(UpstreamBroken("The provider's answer broke off."), exc)

    def _refuse(self) -> bool:
        self._phase = _FAILED
        self.was_refused = True
        return False

    def _send_more(self) -> None:
        """A large body, in pieces, until the transport has enough. Once there is an answer nobody wants the rest."""
        unsent, transport = self._unsent, self._transport
        assert unsent is not None
        while unsent and self._phase == _HEAD and not self._is_write_paused:
            if transport is None or transport.is_closing():
                return
            transport.write(unsent[:WRITE_BYTES])
            self._unsent = unsent = unsent[WRITE_BYTES:]
        if not unsent:
            self._unsent = None

    def _read_head(self, data: bytes) -> None:
        """Add to the head; when it is whole, say so, and what came behind it."""
        if self._phase != _HEAD:
            # Nobody asked: whatever it is, it must not be taken for the next answer.
            self._may_follow = False
            if self._phase == _IDLE:
                self.close()
            return
        self.is_silent = False
        kept, end = None, 0
        if not self._head and not self._is_head_only:
            end = data.find(b"\r\n\r\n") + 4
            kept = self.home.heads.kept.get(data[:end])
        if kept is not None:
            (head, make_framing), rest = kept, data[end:]
            self._interim = 0
            framing = make_framing() if head.length_bytes != len(rest) else None
        else:
            try:
                found = self._find_head(data)
            except FramingError as exc:
                self._fail(_not_http(), exc)
                return
            if found is None:
                return
            head, framing, rest = found
        self._may_follow = not head.should_close
        if not self.is_reused and self._transport is not None:
            self.home.note_answer(self._transport)
        if framing is None or head.length_bytes == len(rest):
            self._take_whole(head, rest)
            return
        self._phase = _BODY
        self._framing = framing
        listener = self._listener
        assert listener is not None
        try:
            listener.on_head(head)
        except Exception as exc:  # noqa: BLE001 - it belongs to the listener, not to the event loop
            self._fail_for(listener, exc)
            return
        if self._framing is not framing:
            return  # finished
        if rest:
            self._receive(rest)
        elif framing.is_done:
            self._complete(framing, b"")
        elif framing.state == BETWEEN_CHUNKS:
            self._chunk_listener = listener
        if self._framing is framing:  # from now on it is silence that is timed
            self._last_s = now_s = self._loop.time()
            self.home.watch.add(self, min(now_s + self._idle_s / LOOKS, self._deadline_s))
            if head.media_type == "text/event-stream" and self._transport is not None:
                acknowledge_in_pairs(self._transport)

    def _take_whole(self, head: AnswerHead, body: bytes) -> None:
        """An answer that came with a single read, as most do that are no streams: nothing is left to be framed."""
        self._phase = _BODY
        listener = self._listener
        assert listener is not None
        try:
            listener.on_head(head)
            if self._listener is listener and self._phase == _BODY:  # else it is finished
                self._phase = _COMPLETE
                if body:
                    listener.on_piece(body, None)
                if self._listener is listener and self._phase == _COMPLETE:
                    listener.on_end()
        except Exception as exc:  # noqa: BLE001 - it belongs to the listener, not to the event loop
            self._fail_for(listener, exc)

    def _find_head(self, data: bytes) -> tuple[AnswerHead, Framing, bytes] | None:
        """The head, the framing behind it, and what came there already. Raises FramingError."""
        searched = len(self._head)
        data = self._head + data if searched else data
        start = max(0, searched - 3)
        while True:
            end = data.find(b"\r\n\r\n", start) + 4
            if end < 4 or end - 4 > MAX_HEAD_BYTES:
                if len(data) > MAX_HEAD_BYTES:
                    raise FramingError("the head is too long")
                self._head = data
                return None
            head, framing = self.home.heads.read(data[:end], is_head_only=self._is_head_only)
            data = data[end:]
            if framing is not None:
                self._head, self._interim = b"", 0
                return head, framing, data
            self._interim += 1
            if head.code == 101 or self._interim > MAX_INTERIM_ANSWERS:
                raise FramingError("an interim answer that nobody asked for")
            start = 0

    def _complete(self, framing: Framing, piece: bytes) -> None:
        self._phase = _COMPLETE
        self._framing = self._chunk_listener = None
        if framing.rest:
            self._may_follow = False
        listener = self._listener
        assert listener is not None
        try:
            if piece:
                listener.on_piece(piece, None)
                if self._phase != _COMPLETE or self._listener is not listener:
                    return  # finished
            listener.on_end()
        except Exception as exc:  # noqa: BLE001 - it belongs to the listener, not to the event loop
            self._fail_for(listener, exc)

    def _fail_for(self, listener: Listener, error: Exception) -> None:
        """The listener itself has failed. Raises when it has already finished, for then nobody is left to be told."""
        if self._listener is not listener:
            raise error
        self._fail(error)

    def _fail(self, error: Exception, cause: BaseException | None = None) -> None:
        """End the exchange, and with it the connection."""
        if cause is not None:
            error.__cause__ = cause
        self._phase = _FAILED
        self._framing = self._chunk_listener = None
        self.close()
        listener = self._listener
        assert listener is not None
        listener.on_error(error)

    # ------------------------------------------------------------ time

    def look(self, now_s: float) -> float:
        """See Watched."""
        if self._phase == _HEAD:
            if now_s < self._due_s:
                return self._due_s
            self._fail(UpstreamTimeout("The provider did not answer in time."))
        elif self._phase == _BODY:
            # What was held back by us, or has not been taken yet, is no silence of the provider's.
            if self._was_heard or self._is_paused or self.is_held:
                self._was_heard = False
                self._last_s = now_s
            silent_s = self._last_s + self._idle_s
            limit_s = min(silent_s, self._deadline_s)
            if now_s < limit_s:
                return min(now_s + self._idle_s / LOOKS, limit_s)
            is_silent = now_s >= silent_s
            words = "The provider fell silent." if is_silent else "The provider's answer was not complete in time."
            self._fail(UpstreamTimeout(words))
        return inf


def _broken_before() -> UpstreamBroken:
    return UpstreamBroken("The provider closed the connection without an answer.")


def _not_http() -> UpstreamBroken:
    return UpstreamBroken("The provider's answer was not valid HTTP.")
