"""Looks after the processes that serve, and serves nobody itself.

One that ends unasked is replaced, after a pause that grows from a tenth of a second to half a minute as long as
replacements fail, while the others go on. One whose loop has stood still for as long as systemd's watchdog allows is
killed and replaced; to systemd the supervisor speaks for all. SIGTERM, SIGINT and the loss of its terminal let all
drain; the supervisor's own death does too (``worker_process.py``). One that does not come to its end, because it stands
still, is killed after a while.

It runs no event loop and no thread, because it forks, and has no database open.
"""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final

from bitmesh_proxy import service_manager
from bitmesh_proxy.cli.children import WELCOME, Child
from bitmesh_proxy.cli.options import EXIT_CONFIG
from bitmesh_proxy.cli.process import HANGUP_ANSWER, settle_memory, stop_signals

log = logging.getLogger(__name__)

#: A process that does not serve after so long, and does not say that its start goes on, is killed.
START_PATIENCE_S: Final = 60.0
#: While one is about to, it is looked at so often.
START_LOOK_S: Final = 1.0


class Supervisor:
    """``played`` is started before ``serving`` and stopped after it; of those the first before the others.

    ``sockets`` are closed at the stop; who has not ended ``stop_patience_s`` later is killed. ``on_death`` hears of
    each process that has ended. ``watchdog_interval_s``: how often the service manager wants to hear of us (None:
    never); silent for twice as long, a child is killed.
    """

    def __init__(
        self,
        played: Sequence[Child],
        serving: Sequence[Child],
        *,
        sockets: Sequence[socket.socket],
        on_death: Callable[[Child], None],
        watchdog_interval_s: float | None,
        stop_patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._played = played
        self._serving = serving
        self._children = [*played, *serving]
        self._sockets = sockets
        self._on_death = on_death
        self._watchdog_interval_s = watchdog_interval_s
        self._stop_patience_s = stop_patience_s
        self._clock = clock
        self._is_stopping = False
        self._was_hung_up = False
        #: When it was last looked what has happened, and told that we live.
        self._turned_s = self._alive_told_s = clock()
        self._selector = selectors.EpollSelector()
        self._woken, self._waker = socket.socketpair()

    def run(self) -> int:
        """From the first fork to the end of the last child; gives the exit status."""
        self._heed_signals()
        settle_memory()  # before the first fork, so that the collector does not touch, and so copy, what is shared
        try:
            status = self._start()
            if not status and not self._is_stopping:
                self._look_after_all()
        finally:
            self._stop()
        unclean = [child for child in self._serving if child.status not in (0, -signal.SIGTERM)]
        return status or int(bool(unclean))

    def _heed_signals(self) -> None:
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        ending = stop_signals()
        signal.signal(signal.SIGCHLD, _only_wake)
        signal.signal(signal.SIGHUP, self._note_hangup)
        for number in ending:
            signal.signal(number, self._note_stop)

    def _note_stop(self, number: int, frame: FrameType | None) -> None:
        self._is_stopping = True

    def _note_hangup(self, number: int, frame: FrameType | None) -> None:
        self._was_hung_up = True

    def _start(self) -> int:
        """One group after the other. Gives 0, or the exit status of a start that has failed."""
        for group in (self._played, self._serving[:1], self._serving[1:]):
            for child in group:
                self._fork(child)
            while not self._is_stopping and not all(child.is_ready for child in group):
                for child in self._turn(START_LOOK_S):
                    log.error("%s did not start: %s", child.name, child.how)
                    return EXIT_CONFIG if child.status == EXIT_CONFIG else 1
        return 0

    def _look_after_all(self) -> None:
        """Until the stop."""
        service_manager.notify(f"READY=1\nSTATUS={len(self._serving)} workers".encode())
        self._serving[0].order(WELCOME)
        while not self._is_stopping:
            for child in self._turn(self._until_next_s()):
                pause_s = max(0.0, child.due_s - self._clock())
                log.error("%s ended: %s; another one comes in %.1f s", child.name, child.how, pause_s)
            self._replace()
            self._tell_that_we_live()
            if self._was_hung_up:
                self._was_hung_up = False
                log.warning(HANGUP_ANSWER)
        log.info("draining: no new calls are taken, running ones are finished")
        service_manager.notify(b"STOPPING=1")

    def _replace(self) -> None:
        for child in self._children:
            if not (child.pid or self._is_stopping) and child.due_s <= self._clock():
                self._fork(child)

    def _stop(self) -> None:
        """Nobody is let in any more; what runs comes to its end; then the sandbox does."""
        self._is_stopping = True
        for sock in self._sockets:
            sock.close()
        for group in (self._serving, self._played):
            for child in group:
                child.signal(signal.SIGTERM)
            end_s = self._clock() + self._stop_patience_s
            while running := [child for child in group if child.pid]:
                left_s = end_s - self._clock()
                if left_s > 0:
                    self._turn(left_s)
                    continue
                for child in running:
                    if not child.is_killed:
                        patience_s = self._stop_patience_s
                        log.error("%s has not come to its end for %.1f s and is killed", child.name, patience_s)
                        child.kill()
                self._turn(None)
        signal.set_wakeup_fd(-1)
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def _fork(self, child: Child) -> None:
        ours = (self._selector.fileno(), self._woken.fileno(), self._waker.fileno())
        child.start(self._clock(), siblings=[each for each in self._children if each is not child], closed=ours)
        self._selector.register(child.reports, selectors.EVENT_READ, child)

    def _turn(self, timeout_s: float | None) -> list[Child]:
        """Wait until something happens, and take note of it. Gives the children that have ended."""
        happened = self._selector.select(timeout_s)
        # One look at the clock serves the whole turn, so that a pause, wherever it falls, lies between two of them.
        now_s, last_s = self._clock(), self._turned_s
        self._turned_s = now_s
        if timeout_s is not None:
            # Where we were not let on (a container or a machine that was paused), children were not, or were not heard.
            overslept_s = max(0.0, now_s - last_s - timeout_s)
            for child in self._children:
                child.heard_s += overslept_s
        for key, _ in happened:
            if key.data is None:
                self._woken.recv(4096)
            else:
                if key.data.listen(now_s) and not (key.data.is_ready or self._is_stopping):
                    service_manager.ask_for_time()  # (when stopping, it would put off the end of that)
        ended = [child for child in self._children if child.has_ended(now_s)]
        for child in ended:
            self._selector.unregister(child.reports)
            child.close()
            self._on_death(child)
        if not self._is_stopping:
            self._mind_the_watchdog(now_s)
        return ended

    def _mind_the_watchdog(self, now_s: float) -> None:
        interval_s = self._watchdog_interval_s
        for child in self._children:
            patience_s = START_PATIENCE_S
            if child.is_ready:
                if interval_s is None or child.beat_interval_s is None:
                    continue
                patience_s = 2 * interval_s
            if child.pid and not child.is_killed and now_s - child.heard_s > patience_s:
                log.error("%s has stood still for %.1f s and is killed", child.name, patience_s)
                child.kill()

    def _tell_that_we_live(self) -> None:
        now_s, interval_s = self._clock(), self._watchdog_interval_s
        if interval_s is not None and now_s - self._alive_told_s >= interval_s and not self._is_stopping:
            self._alive_told_s = now_s
            service_manager.notify(b"WATCHDOG=1")

    def _until_next_s(self) -> float | None:
        """Until there is something to do although nothing has happened; None: never."""
        now_s = self._clock()
        waits = [child.due_s - now_s for child in self._children if not child.pid]
        if any(child.pid and not child.is_ready for child in self._children):
            waits.append(START_LOOK_S)
        if self._watchdog_interval_s is not None:
            waits.append(self._alive_told_s + self._watchdog_interval_s - now_s)
        return max(0.0, min(waits)) if waits else None


def _only_wake(number: int, frame: FrameType | None) -> None:
    """That a handler is there makes the signal write into the wake-up descriptor."""
