"""The service manager's side of a running process: readiness, watchdog, and sockets handed over by it.

The protocols are those of sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3) (systemd 252): datagrams to the
socket named in ``$NOTIFY_SOCKET``, and open file descriptors from 3 on. Nothing here needs systemd to be there: without
its variables every function says so and does nothing. Only the standard library is used, and no other module of ours.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

_FIRST_FD = 3
#: How much more time a start asks for, each time that it does.
EXTENSION_S = 60


def notify(message: bytes, *, environ: MutableMapping[str, str] | None = None) -> bool:
    """Tell the service manager: ``READY=1``, ``STOPPING=1``, ``WATCHDOG=1``, ``STATUS=…``; several lines in one go.

    Returns whether it was told; False without a manager, and when its socket takes nothing more: it must never stop the
    service that nobody listens. Does not block.
    """
    address = _environ(environ).get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(message, address)
        except OSError:
            return False
    return True


def ask_for_time(*, environ: MutableMapping[str, str] | None = None) -> bool:
    """Have a start that goes on not be taken for one that hangs, for ``EXTENSION_S`` from now; see ``notify``."""
    return notify(b"EXTEND_TIMEOUT_USEC=%d" % (EXTENSION_S * 1_000_000), environ=environ)


def listen_sockets(*, environ: MutableMapping[str, str] | None = None) -> list[socket.socket]:
    """The listening sockets handed over to this very process, in the manager's order; none without socket activation.

    Like sd_listen_fds with ``unset_environment``: the variables go, so that a child process cannot take them for its
    own, and a second call finds nothing. The sockets are not inherited by children and do not block.
    """
    env = _environ(environ)
    handed_over = env.get("LISTEN_PID") == str(os.getpid())
    count = env.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        env.pop(name, None)
    if not handed_over or not count.isdecimal():
        return []
    sockets = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        handed = socket.socket(fileno=fd)
        handed.setblocking(False)
        sockets.append(handed)
    return sockets


def watchdog_interval_s(*, environ: MutableMapping[str, str] | None = None) -> float | None:
    """How often to send ``WATCHDOG=1``, in seconds: half of what the manager allows. None when it does not watch us.

    Send it from a task on the event loop itself, so that a blocked loop is noticed.
    """
    env = _environ(environ)
    if env.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with suppress(ValueError):
        allowed_us = int(env.get("WATCHDOG_USEC", ""))
        if allowed_us > 0:
            return allowed_us / 2_000_000
    return None


def _environ(environ: MutableMapping[str, str] | None) -> MutableMapping[str, str]:
    return os.environ if environ is None else environ
