"""Where log lines go, without waiting for whoever reads them.

A pipe or socket whose reader sleeps (a journald that hangs, a pager) is full after some hundred lines, and so is a
terminal that was halted (Ctrl-S). A plain write would then stand still, and with it the event loop and all callers. So
what is not taken at once is kept, up to ``KEPT_BYTES``, and a thread hands it over when the reader goes on. What comes
beyond that is lost, and a line says how much was. Where the reader has gone for good, lines are dropped.

The file behind a descriptor is shared with other programs, and is left as it is: sockets are told with each send not to
wait, pipes and terminals are opened anew for it (by way of /proc, Linux).
"""

from __future__ import annotations

import logging
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TextIO

#: Some four thousand lines.
KEPT_BYTES: Final = 1024 * 1024
#: So long the end of the program waits for a reader.
END_PATIENCE_S: Final = 1.0

#: Gives how many bytes were taken; raises BlockingIOError where none is now, OSError where none ever will be.
Write = Callable[[bytes], int]


def handler_for(stream: TextIO) -> logging.Handler:
    """A handler that does not wait; the usual one for a file, and for what cannot be written to without waiting."""
    try:
        descriptor = stream.fileno()
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            sock = socket.socket(fileno=os.dup(descriptor))
            return Outlet(sock.fileno(), lambda line: sock.send(line, socket.MSG_DONTWAIT), sock.close)
        if stat.S_ISFIFO(mode) or os.isatty(descriptor):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            opened = os.open(f"/proc/self/fd/{descriptor}", flags)
            return Outlet(opened, partial(os.write, opened), partial(os.close, opened))
    except (OSError, ValueError):  # no file at all, no /proc, or another user's pipe
        pass
    return logging.StreamHandler(stream)


class Outlet(logging.Handler):
    """See the module's docstring. ``descriptor`` is what ``write`` writes to; ``close`` lets go of it."""

    def __init__(
        self, descriptor: int, write: Write, close: Callable[[], None], *, kept_bytes: int = KEPT_BYTES
    ) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._write = write
        self._close = close
        self._max_kept_bytes = kept_bytes
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._lost = 0
        self._thread: threading.Thread | None = None
        #: Whose lines are kept: a forked child has a copy of them, but not the thread.
        self._pid = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, or keep it."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 - as all handlers do: what cannot be put in words must not end a call
            self.handleError(record)
            return
        if self._kept and self._are_kept_by_us():
            self._keep(line)
            return
        try:
            taken = self._write(line)
        except BlockingIOError:
            taken = 0
        except OSError:  # nobody reads any more
            return
        if taken < len(line):
            self._keep(line[taken:], is_begun=taken > 0)

    def flush(self) -> None:
        """At the end of the program: give the reader a last chance."""
        self.acquire()
        try:
            end_s = time.monotonic() + END_PATIENCE_S
            while self._kept and (left_s := end_s - time.monotonic()) > 0 and self._are_kept_by_us():
                self._wait(left_s)
                self._hand_over()
        finally:
            self.release()

    def close(self) -> None:
        """Let go of where lines went. May be called twice."""
        self.acquire()
        try:
            self._forget()
            if self._descriptor >= 0:
                self._descriptor = -1
                self._close()
        finally:
            self.release()
        super().close()

    def _are_kept_by_us(self) -> bool:
        if self._pid != os.getpid():
            self._pid, self._thread = os.getpid(), None
            self._forget()
        return bool(self._kept)

    def _forget(self) -> None:
        self._kept.clear()
        self._kept_bytes = self._lost = 0

    def _keep(self, line: bytes, *, is_begun: bool = False) -> None:
        if self._kept_bytes + len(line) > self._max_kept_bytes and not is_begun:
            self._lost += 1
        else:
            self._kept.append(line)
            self._kept_bytes += len(line)
        if self._thread is None:
            thread = threading.Thread(target=self._drain, name="log-lines", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread to be had: the next line asks again
                return
            self._thread = thread

    def _drain(self) -> None:
        """The thread, from the first line that is kept until none is."""
        while True:
            self._wait(None)
            self.acquire()
            try:
                if not self._hand_over():
                    self._thread = None
                    return
            finally:
                self.release()

    def _wait(self, timeout_s: float | None) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        poll.poll(None if timeout_s is None else timeout_s * 1000)

    def _hand_over(self) -> bool:
        """What is taken now; whether something is left."""
        while self._kept or self._lost:
            if not self._kept:
                self._note_lost()
            line = self._kept[0]
            try:
                taken = self._write(line)
            except BlockingIOError:
                return True
            except OSError:
                self._forget()
                return False
            self._kept_bytes -= taken
            if taken < len(line):
                self._kept[0] = line[taken:]
            else:
                self._kept.popleft()
        return False

    def _note_lost(self) -> None:
        text = "%d log lines are lost: they were not read for too long"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (self._lost,), None)
        line = f"{self.format(record)}\n".encode()
        self._lost = 0
        self._kept.append(line)
        self._kept_bytes += len(line)
