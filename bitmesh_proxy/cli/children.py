"""A supervisor's children: forked, listened to, and found dead. No thread and no event loop may be there yet.

Forked and not started anew: a child has all modules, the catalogue and the settings as the supervisor has them, in the
same memory, and serves within a tenth of the time.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

#: What a child says: it serves, and its loop turns; before it serves, that its start takes long and goes on.
READY: Final = b"R"
BEAT: Final = b"."
#: An order: say where the service is.
WELCOME: Final = b"W"

#: A replacement comes after ever longer pauses, from the first to the last of these.
FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 30.0
#: Whoever has served for so long is replaced as if it were the first time.
PROVEN_AFTER_S: Final = 60.0

#: Signals that the supervisor handles, and its children each in their own way.
HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Lines(msgspec.Struct, frozen=True, kw_only=True):
    """A child's ends of its pipes. ``beat_interval_s`` is None where nobody listens for it.

    ``is_replacement``: another process was here before, and others may be serving.
    """

    orders: int
    reports: int
    beat_interval_s: float | None
    is_replacement: bool


class Child(msgspec.Struct, eq=False, kw_only=True):
    """A place in which a process runs, or is to run again at ``due_s``. Times are of the supervisor's clock.

    Whoever starts a process closes its pipes (``close``) when it has ended. ``run`` is what the process does, and gives
    its exit status. ``seat`` is None for the sandbox.
    """

    name: str
    run: Callable[[Lines], int]
    seat: int | None = None
    beat_interval_s: float | None = None
    #: 0: there is no process.
    pid: int = 0
    is_ready: bool = False
    #: By us. It may take a while to be dead: its memory has to go, or a disk to answer.
    is_killed: bool = False
    #: When the process was started, or heard of last.
    heard_s: float = 0.0
    ready_s: float = 0.0
    due_s: float = 0.0
    failures: int = 0
    starts: int = 0
    #: The supervisor's ends of its pipes.
    orders: int = -1
    reports: int = -1
    #: How the process ended: its exit status, or a signal's number with a minus.
    status: int = 0

    @property
    def how(self) -> str:
        """The same in words."""
        if self.status >= 0:
            return f"exit status {self.status}"
        return f"killed by {signal.Signals(-self.status).name}"

    def start(self, now_s: float, *, siblings: Iterable[Child], closed: Iterable[int]) -> None:
        """Fork. ``closed``: descriptors that are nobody's but the supervisor's. Raises OSError."""
        orders, self.orders = os.pipe()
        self.reports, reports = os.pipe()
        for descriptor in (self.reports, reports):
            os.set_blocking(descriptor, False)
        lines = Lines(
            orders=orders,
            reports=reports,
            beat_interval_s=self.beat_interval_s,
            is_replacement=self.starts > 0,
        )
        # If a child held the supervisor's end of another's pipe, that one would never read its end.
        ends = [end for each in (self, *siblings) for end in (each.orders, each.reports) if end >= 0]
        sys.stdout.flush()
        # A signal that came now would be handled in the child by the supervisor's function, and be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            pid = os.fork()
            if pid == 0:
                _live(self.run, lines, {*ends, *closed})
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        os.close(orders)
        os.close(reports)
        self.pid, self.is_ready, self.is_killed, self.heard_s, self.status = pid, False, False, now_s, 0
        self.starts += 1

    def listen(self, now_s: float) -> bool:
        """Take what it has said; whether that was anything."""
        said = b""
        with suppress(BlockingIOError):
            said = os.read(self.reports, 4096)
        if said:
            self.heard_s = now_s
        if READY in said:
            self.is_ready, self.ready_s = True, now_s
        return bool(said)

    def has_ended(self, now_s: float) -> bool:
        """Has its process ended since this was last asked? ``status`` says how, ``due_s`` when the next is due."""
        if not self.pid:
            return False
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return False
        self.listen(now_s)
        if self.is_ready and now_s - self.ready_s >= PROVEN_AFTER_S:
            self.failures = 0
        self.failures += 1
        self.status = os.waitstatus_to_exitcode(status)
        self.due_s = now_s + min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (self.failures - 1))
        self.pid = 0
        self.is_ready = False
        return True

    def order(self, word: bytes) -> None:
        """Tell it something. What is told to one that has just ended is lost."""
        with suppress(BrokenPipeError):
            os.write(self.orders, word)

    def signal(self, number: signal.Signals) -> None:
        """To its process, if there is one. (One that has ended keeps its id until ``has_ended`` has said so.)"""
        if self.pid:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End its process without asking."""
        self.is_killed = True
        self.signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of its pipes. May be called twice."""
        for descriptor in (self.orders, self.reports):
            if descriptor >= 0:
                os.close(descriptor)
        self.orders = self.reports = -1


def _live(run: Callable[[Lines], int], lines: Lines, closed: Iterable[int]) -> NoReturn:
    """All that a child ever does. It must not come back into what its parent was doing."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a lost terminal tells all of its processes
        for descriptor in closed:
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        status = run(lines)
    except KeyboardInterrupt:
        status = 130
    except BaseException:  # noqa: BLE001 - whatever it is, it ends here
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
