"""TLS outwards: whom we trust, sessions that are taken up again, and whether the other side has said goodbye.

A new connection costs one to one and a half milliseconds of CPU time for its handshake, and the event loop does nothing
else meanwhile; with a session of the same provider that is taken up again it is less than half, and under TLS 1.2 a
round trip less. Certificates are not looked at then: who knows the session's secret is the one who had shown a good
one. So nobody is believed for longer than ``MAX_RESUMED_S`` on the strength of one look.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

#: After this time certificate and name are checked anew, however the sessions followed each other. (RFC 8446, section
#: 4.6.1, wants such a bound; a ticket itself may live for seven days.)
MAX_RESUMED_S: Final = 3600.0


def make_tls_context() -> ssl.SSLContext:
    """For connections outwards: certificates and names are checked, HTTP/1.1 is what we speak. Reads from the disk."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def said_goodbye(transport: asyncio.BaseTransport) -> bool:
    """After the other side's end of the stream: did it mean to end there?

    Without TLS nobody can know. With it the end is said (``close_notify``), and where it is not, the connection broke,
    or someone in between has cut it (RFC 9112, section 9.8).
    """
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except (ssl.SSLError, ValueError):
        return False


class _Kept(Struct, frozen=True, eq=False):
    session: ssl.SSLSession
    #: When the certificate was looked at, by the monotonic clock.
    verified_s: float


class _Resuming(ssl.SSLObject):
    """Looks for a session before its handshake."""

    find: Callable[[str | None], _Kept | None]
    taken_up: _Kept | None = None
    has_begun = False

    def do_handshake(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            self.taken_up = kept = type(self).find(self.server_hostname)
            if kept is not None:
                self.session = kept.session
        super().do_handshake()


class TlsSessions:
    """Sessions of providers, by host. Connections of ``context`` take them up by themselves; it belongs to this alone.

    Hosts are those of the settings, so that there are few.
    """

    def __init__(self, context: ssl.SSLContext, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.context = context
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        # Made for each context, since an object knows nothing else that is ours.
        context.sslobject_class = type("Resuming", (_Resuming,), {"find": staticmethod(self._find)})

    def note(self, transport: asyncio.BaseTransport) -> None:
        """Something has been answered on a new connection: by then its ticket has mostly come.

        A session is kept until a provider takes it up no more, since Python copies it with all certificates whenever it
        is read or given to a connection, for a tenth of a millisecond each time.
        """
        tls = transport.get_extra_info("ssl_object")
        if not isinstance(tls, _Resuming) or tls.context is not self.context or tls.session_reused:
            return
        host = tls.server_hostname
        if host is None or self._find(host) not in (None, tls.taken_up):  # another one has been kept meanwhile
            return
        session = tls.session
        if session is not None and session.has_ticket:
            self._kept[host] = _Kept(session, self._clock())

    def forget(self, host: str) -> None:
        """A handshake has failed; should the session be to blame, the next one is a full one."""
        self._kept.pop(host, None)

    def _find(self, host: str | None) -> _Kept | None:
        kept = self._kept.get(host or "")
        if kept is None or self._clock() - kept.verified_s > MAX_RESUMED_S:
            return None
        return kept
