"""Who is told what becomes of a request: plain calls, made the moment something is read.

``ProviderConnection`` makes them from within the event loop's own callbacks (``data_received``, ``connection_lost``, a
timer), so that a piece costs no future, no task and no turn of the loop. An exchange's calls are

    on_head (on_piece)* on_end        a whole answer
    on_head (on_piece)* on_error      one that broke off, fell silent, or was not HTTP
    on_error                          none at all

and after ``on_end``, ``on_error``, or ``finish`` nothing more is said. An answer that came with a single read is told
within a single turn: head, piece and end one after the other.

From within each of them, and at any other time, the listener may call the connection's ``finish`` (the exchange is
over: the connection goes back to its pool if it may serve again, and is closed at once if not), ``pause`` and
``resume``. Every exchange has to be finished by its listener, also after ``on_end`` and ``on_error``.
"""

from __future__ import annotations

from typing import Protocol

from bitmesh_proxy.upstream.heads import AnswerHead


class Listener(Protocol):
    """What a connection calls. Whatever a method raises ends the exchange and is handed to ``on_error``."""

    def on_head(self, head: AnswerHead) -> None:
        """The head is complete. Interim answers (1xx) have been passed over."""

    def on_piece(self, data: bytes, framed: bytes | None) -> None:
        """More of the body, as it was read, without its framing; never empty. A piece that was under way may still
        come after ``pause``.

        ``framed``: the same in the framing it came in, if that is whole chunks and nothing else (no extensions, not the
        last chunk), so that it may be passed on in it.
        """

    def on_end(self) -> None:
        """The body has ended as its framing says."""

    def on_error(self, error: Exception) -> None:
        """No more will come: UpstreamBroken, UpstreamTimeout, or what a method of this listener has raised."""
