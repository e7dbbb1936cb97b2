"""The one writer of the database: a thread with a connection, and *group commit*.

Operations that wait at the same moment share one ``BEGIN IMMEDIATE … COMMIT``. The event loop collects what comes in
during one of its turns and hands it over as a batch while the thread is free; what comes in meanwhile is the next
batch. So there is one wake-up and one commit per batch, in both directions, and nothing waits longer than the batch
before it.

- An operation is a function of the connection. It may run twice (see ``_run_batch``), so it has no other effects.
- An operation that raises undoes what it did and nothing else, and only its caller hears of it.
- Trouble with the disk or the lock fails the whole batch with ``Unavailable``, is logged once per episode, and the
  next batch tries again.
- The order of operations is the order of ``submit``.
- A cancelled waiter changes nothing: what was submitted is written.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.failures import StorageError, as_unavailable, is_busy, is_trouble

logger = logging.getLogger(__name__)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

#: More would make the first of a batch wait for the last of it without saving anything further per operation.
MAX_BATCH = 512
#: The free space is looked up this often at most.
SPACE_CHECK_INTERVAL_S = 1.0


@dataclass(slots=True, eq=False)
class _Pending:
    operation: Operation[Any]
    future: asyncio.Future[Any]
    is_new_work: bool


@dataclass(frozen=True, slots=True)
class _Failed:
    """Stands in a batch's results where an operation raised."""

    error: BaseException


class Writer:
    """See the module's docstring. Made and used on the event loop; ``connect`` runs in the thread."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        path: Path,
        *,
        max_pending: int,
        min_free_bytes: int,
    ) -> None:
        self._connect = connect
        self._directory = path.parent
        self._max_pending = max_pending
        self._min_free_bytes = min_free_bytes
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Pending] = deque()
        self._is_busy = False
        self._is_scheduled = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False
        self._batches: SimpleQueue[Sequence[_Pending] | None] = SimpleQueue()
        self._in_trouble = False
        self._space_checked_s = float("-inf")
        self._space_is_short = False
        # A daemon, so that a program that dies without closing is not held up; whoever is orderly calls close().
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ on the event loop

    def submit(self, operation: Operation[T], *, is_new_work: bool = False) -> asyncio.Future[T]:
        """Queue an operation; the future ends with its result once it is committed.

        ``is_new_work`` is refused when the disk is nearly full, so that what has begun can still be settled.
        Raises Unavailable when the queue is full or the writer closed.
        """
        if self._is_closed:
            raise Unavailable("The service is stopping.")
        if len(self._waiting) >= self._max_pending:
            raise Unavailable("Too many requests are waiting for the books. Please try again.")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(_Pending(operation, future, is_new_work))
        if not (self._is_busy or self._is_scheduled):
            self._is_scheduled = True
            self._idle.clear()
            self._loop.call_soon(self._hand_over)
        return future

    async def close(self) -> None:
        """Write what is waiting, then end the thread. May be called twice."""
        self._is_closed = True
        await self._idle.wait()
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        self._is_scheduled = False
        waiting = self._waiting
        if not waiting:
            self._idle.set()
            return
        if len(waiting) <= MAX_BATCH:
            batch = list(waiting)
            waiting.clear()
        else:
            batch = [waiting.popleft() for _ in range(MAX_BATCH)]
        self._is_busy = True
        self._batches.put(batch)

    def _deliver(self, batch: Sequence[_Pending], results: Sequence[Any]) -> None:
        self._is_busy = False
        for pending, result in zip(batch, results, strict=True):
            future = pending.future
            if future.done():  # its waiter was cancelled
                continue
            if result.__class__ is _Failed:
                future.set_exception(result.error)
            else:
                future.set_result(result)
        self._hand_over()

    # ------------------------------------------------------------ in the thread

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (batch := self._batches.get()) is not None:
            results: Sequence[Any]
            try:
                connection = connection or self._connect()
                self._check_space()
                results = self._run_batch(connection, batch)
                self._note_recovery()
            except Exception as exc:  # noqa: BLE001 - top of a thread: whatever it is, the waiters must hear of it
                self._note_trouble(exc)
                results = [_Failed(_foreign_to_ours(exc)) for _ in batch]
                if connection is not None and not is_busy(exc):
                    # After an I/O error the connection's own view may be wrong; a fresh one starts from the file.
                    connection.close()
                    connection = None
            try:
                self._loop.call_soon_threadsafe(self._deliver, batch, results)
            except RuntimeError:  # the loop is closed: nobody waits any more
                break
        if connection is not None:
            connection.close()

    def _run_batch(self, connection: sqlite3.Connection, batch: Sequence[_Pending]) -> Sequence[Any]:
        """One transaction. Savepoints cost a statement or two per operation, so they are used only once needed: when
        an operation failed after it had changed something, all is rolled back and run again with savepoints."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = self._attempt(connection, batch)
            if results is None:
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                results = self._attempt_with_savepoints(connection, batch)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise
        return results

    def _attempt(self, connection: sqlite3.Connection, batch: Sequence[_Pending]) -> Sequence[Any] | None:
        results: list[Any] = []
        for pending in batch:
            if pending.is_new_work and self._space_is_short:
                results.append(_Failed(Unavailable("The service is out of disk space.")))
                continue
            changes_before = connection.total_changes
            try:
                results.append(pending.operation(connection))
            except Exception as exc:
                if is_trouble(exc):
                    raise
                # A failed statement has undone itself and is not counted; earlier ones of the operation are.
                if connection.total_changes != changes_before:
                    return None
                results.append(_Failed(_foreign_to_ours(exc)))
        return results

    def _attempt_with_savepoints(self, connection: sqlite3.Connection, batch: Sequence[_Pending]) -> Sequence[Any]:
        results: list[Any] = []
        for pending in batch:
            if pending.is_new_work and self._space_is_short:
                results.append(_Failed(Unavailable("The service is out of disk space.")))
                continue
            connection.execute("SAVEPOINT operation")
            try:
                results.append(pending.operation(connection))
            except Exception as exc:
                if is_trouble(exc):
                    raise
                connection.execute("ROLLBACK TO operation")
                results.append(_Failed(_foreign_to_ours(exc)))
            connection.execute("RELEASE operation")
        return results

    def _check_space(self) -> None:
        now_s = time.monotonic()
        if not self._min_free_bytes or now_s - self._space_checked_s < SPACE_CHECK_INTERVAL_S:
            return
        self._space_checked_s = now_s
        status = os.statvfs(self._directory)
        is_short = status.f_bavail * status.f_frsize < self._min_free_bytes
        if is_short and not self._space_is_short:
            logger.error("less than %d bytes free in %s: no new work is taken", self._min_free_bytes, self._directory)
        elif self._space_is_short and not is_short:
            logger.info("enough free space in %s again", self._directory)
        self._space_is_short = is_short

    def _note_trouble(self, exc: Exception) -> None:
        if not self._in_trouble:
            logger.error("the database cannot be written: %s", exc, exc_info=exc)
        self._in_trouble = True

    def _note_recovery(self) -> None:
        if self._in_trouble:
            logger.info("the database can be written again")
            self._in_trouble = False


def _foreign_to_ours(exc: Exception) -> Exception:
    """A driver error that no store foresaw: trouble that passes, or a bug of ours. Never an answer to a caller."""
    if is_trouble(exc) or isinstance(exc, OSError):
        return as_unavailable(exc)
    if isinstance(exc, sqlite3.Error):
        error = StorageError(f"{type(exc).__name__}: {exc}")
        error.__cause__ = exc
        return error
    return exc
