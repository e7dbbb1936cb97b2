"""The one writer of the database: a thread with a connection, and *group commit*.

Operations that wait at the same moment share one ``BEGIN IMMEDIATE … COMMIT``. The event loop collects what comes in
during one of its turns and hands it over as a batch while the thread is free; what comes in until the thread may write
joins it, and what comes in then is the next batch. So there is one wake-up and one commit per batch, in both
directions, and nothing waits longer than the batch before it. Where much is to be written, batches are gathered
(``BUSY_SIZE``).

- An operation is a function of the connection. It may run twice (see ``_run_batch``), so it has no other effects.
- An operation that raises undoes what it did and nothing else, and only its caller hears of it.
- What happens with every request is a *bulk* operation: its items of one batch are handed to it together, so that a
  statement serves many. (A statement of its own for each costs more than the work it does.)
- Trouble with the disk or the lock fails the whole batch with ``Unavailable``, is logged once per episode, and the
  next batch tries again.
- Another process that has the lock, or the turn to take it, is waited for ``patience_s``, also by what waits behind a
  batch that does. Then the event loop gives the writes up, wherever the thread is, and they are never made.
- Operations of one batch have no order that anyone may rely on. Whoever needs one waits for the first to end.
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
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import msgspec

from bitmesh_proxy.errors import MUCH_LATER_S, SOON_S, Unavailable
from bitmesh_proxy.metrics import WriteWaits
from bitmesh_proxy.storage.failures import StorageError, as_unavailable, is_busy, is_trouble

logger = logging.getLogger(__name__)

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

#: More would make the first of a batch wait for the last of it without saving anything further per operation.
MAX_BATCH = 512
#: The queue takes so many times ``max_pending`` for work that is not new: each open request has one closing to write.
LENIENCE = 4
#: A transaction logs each page it has changed once, however many rows of it have changed: with a thousand accounts that
#: is a tenth of the writer's work. So after a batch of ``BUSY_SIZE`` or more, the next one is gathered until
#: ``QUIET_TURNS`` turns of the event loop bring nothing more, or it has ``GATHERED_SIZE``. Nobody waits for that, as
#: the loop has work to do. (A thousand calls a second make batches of three or four, which are handed over at once.)
#: Where that work is another, as that of a thousand streams, whose turns take 20 ms, the first one would wait for long:
#: so for ``GATHERED_S`` at most.
BUSY_SIZE = 6
GATHERED_SIZE = 32
GATHERED_S = 0.005
QUIET_TURNS = 2
#: How long a write waits for other processes.
PATIENCE_S = 5.0
#: The free space is looked up this often at most.
SPACE_CHECK_INTERVAL_S = 1.0


class Failed(msgspec.Struct, frozen=True):
    """Stands in a list of results where an operation, or an item of a bulk, failed and left no trace."""

    error: Exception


class Bulk(Protocol):
    """Does the same for many items: one result per item, in their order, ``Failed`` for those that were refused.

    An item is done whole or not at all. Raises what is the trouble of all (``failures.is_trouble``). Whatever else it
    raises has all undone, and each item is then done by itself.
    """

    def __call__(self, connection: sqlite3.Connection, items: Sequence[Any]) -> Sequence[Any]: ...


#: Hears once, on the event loop, what became of an operation or an item: its result, or ``Failed``.
Done = Callable[[Any], None]


class _Batch(msgspec.Struct, eq=False):
    """What shares a transaction. Items lie together as their bulk will get them, beside who waits for each."""

    operations: list[tuple[Operation[Any], Done, bool]] = msgspec.field(default_factory=list)
    items: dict[Bulk, tuple[list[Any], list[Done]]] = msgspec.field(default_factory=dict)
    new_items: dict[Bulk, tuple[list[Any], list[Done]]] = msgspec.field(default_factory=dict)
    size: int = 0
    #: When its first write was queued.
    began_s: float = msgspec.field(default_factory=time.monotonic)

    def waiters(self) -> list[Done]:
        """All who wait, in the order in which ``Writer._attempt`` gives results."""
        waiters = [on_done for _, on_done, _ in self.operations]
        for group in (self.new_items, self.items):
            for _, on_done in group.values():
                waiters += on_done
        return waiters

    def join(self, other: _Batch) -> None:
        """Take over all that is in another one, which is younger."""
        self.operations += other.operations
        for ours, theirs in ((self.items, other.items), (self.new_items, other.new_items)):
            for bulk, (items, waiters) in theirs.items():
                known = ours.setdefault(bulk, ([], []))
                known[0].extend(items)
                known[1].extend(waiters)
        self.size += other.size


class Watch(Protocol):
    """Looks at what operations change, in the writer's thread."""

    def begin(self, connection: sqlite3.Connection) -> None:
        """Before the first of a transaction's operations; again, if the transaction is run again."""

    def end(self, connection: sqlite3.Connection) -> Callable[[], None] | None:
        """After the last. What it gives is called when they are committed, before anybody hears of it."""


def _yield_to_the_loop() -> None:
    """Let this thread wait until the core is free, instead of taking it from the event loop the moment it is woken.

    The loop holds Python's lock then: where both share a core, the thread could only go back to sleep, to be woken once
    more (sched(7), SCHED_BATCH). Called in the thread. A service manager may forbid it: then so be it.
    """
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class Writer:
    """See the module's docstring. Made and used on the event loop; ``connect`` runs in the thread."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        path: Path,
        *,
        max_pending: int,
        min_free_bytes: int,
        turns: AbstractContextManager[None] | None = None,
        watch: Watch | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """``turns`` is entered for each transaction, in the thread: see ``turns.py``. ``watch`` is for operations, not
        for items."""
        self._connect = connect
        self._turns = turns or nullcontext()
        self._watch = watch
        self._directory = path.parent
        self._max_pending = max_pending
        self._min_free_bytes = min_free_bytes
        self._loop = asyncio.get_running_loop()
        #: Whoever adds to what is waiting, or takes from it, on the loop or in the thread.
        self._queue = threading.Lock()
        self._waiting: deque[_Batch] = deque()
        self._waiting_size = 0
        self._is_busy = False
        self._is_scheduled = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False
        self._patience_s = patience_s
        self._in_hand: _Batch | None = None
        #: Who takes this decides about the batch in hand: the thread writes it, or the event loop gives it up.
        self._fate = threading.Lock()
        #: It was given up, and the thread is not back from it.
        self._is_stuck = False
        #: When the last batch was written.
        self._written_s = time.monotonic()
        #: Set when it is not and a batch is handed over, which is once in ``patience_s``.
        self._next_look: asyncio.TimerHandle | None = None
        self._batches: SimpleQueue[_Batch | None] = SimpleQueue()
        self.waits = WriteWaits()
        #: How many batches have been committed. (Read by other threads, which may see the number before.)
        self.commits = 0
        self._is_checkpoint_wanted = False
        self._in_trouble = False
        self._space_checked_s = float("-inf")
        self._space_is_short = False
        # A daemon, so that a program that dies without closing is not held up; whoever is orderly calls close().
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ on the event loop

    def submit(self, operation: Operation[T], *, is_new_work: bool = False) -> asyncio.Future[T]:
        """Queue an operation; the future ends with its result once it is committed.

        ``is_new_work`` is refused first, when the queue is long or the disk nearly full, so that what has begun can
        still be settled. Raises Unavailable when the queue is full or the writer closed.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self.submit_now(operation, partial(end_future, future), is_new_work=is_new_work)
        return future

    def submit_now(self, operation: Operation[Any], on_done: Done, *, is_new_work: bool = False) -> None:
        """As ``submit``, with a function for a future; see ``submit_item_now``."""
        with self._queue:
            self._batch_with_room(is_new_work).operations.append((operation, on_done, is_new_work))

    def submit_item_now(self, bulk: Bulk, item: Any, on_done: Done, *, is_new_work: bool = False) -> None:
        """Queue an item for a bulk operation, with a function for a future: the hot path's form.

        ``on_done(result)`` is called once, on the event loop and never before this returns: with the item's result when
        it is committed, or with ``Failed``. It may submit again. What it raises is logged and goes no further. Raises
        Unavailable as ``submit`` does; then ``on_done`` is not called.
        """
        queue = self._queue
        queue.acquire()  # without `with`, which takes twice as long
        try:
            batch = self._batch_with_room(is_new_work)
            group = batch.new_items if is_new_work else batch.items
            lists = group.get(bulk)
            if lists is None:
                group[bulk] = lists = [], []
            lists[0].append(item)
            lists[1].append(on_done)
        finally:
            queue.release()

    def _batch_with_room(self, is_new_work: bool) -> _Batch:
        """The batch that one more may join; it is counted already. With ``_queue`` taken."""
        if self._is_closed:
            raise Unavailable("The service is stopping.")
        # What has begun may still be ended when no new work is taken any more, but not without a bound either.
        bound = self._max_pending if is_new_work else self._max_pending * LENIENCE
        if self._waiting_size >= bound:
            raise Unavailable("Too many requests are waiting for the books. Please try again.", retry_after_s=SOON_S)
        waiting = self._waiting
        if not waiting or waiting[-1].size >= MAX_BATCH:
            waiting.append(_Batch())
        batch = waiting[-1]
        batch.size += 1
        self._waiting_size += 1
        if not (self._is_busy or self._is_scheduled):
            self._is_scheduled = True
            self._idle.clear()
            self._loop.call_soon(self._hand_over)
        return batch

    @property
    def is_in_trouble(self) -> bool:
        """Did the last write fail for the disk's or a lock's sake? (What changed nothing does not count.)"""
        return self._in_trouble

    def checkpoint_soon(self) -> None:
        """Have the end of the write-ahead log copied after the next batch; see ``checkpoints.py``. From any thread."""
        self._is_checkpoint_wanted = True

    async def close(self) -> None:
        """Write what is waiting, then end the thread. May be called twice.

        One that waits for another process when all is given up ends when it is let in, or with the program.
        """
        self._is_closed = True
        if self._is_stuck and not self._waiting:
            self._idle.set()
        await self._idle.wait()
        if self._next_look is not None:
            self._next_look.cancel()
        self._batches.put(None)
        if not self._is_stuck:
            await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        self._is_scheduled = False
        if not self._waiting:
            self._is_busy = False
            self._idle.set()
            return
        batch = self._waiting.popleft()
        self._waiting_size -= batch.size
        self._is_busy = True
        self._in_hand = batch
        if self._next_look is None:
            self._look_again(self._due_s(batch), time.monotonic())
        self._batches.put(batch)

    def _deliver(self, batch: _Batch, results: Sequence[Any]) -> None:
        self._in_hand = None
        now_s = time.monotonic()
        if self._fate.locked():
            self._fate.release()
            if self._is_stuck:  # who waited for it has been told
                self._is_stuck = False
                self._hand_over()
                return
            self._written_s = now_s
        # Still busy meanwhile: what the waiters submit joins what has been waiting, and goes with it.
        self._tell(batch, results, now_s)
        if batch.size < BUSY_SIZE:
            self._hand_over()
        else:
            self._gather(-1, QUIET_TURNS)

    def _tell(self, batch: _Batch, results: Sequence[Any], now_s: float) -> None:
        self.waits.note(now_s - batch.began_s, writes=batch.size)
        for on_done, result in zip(batch.waiters(), results, strict=True):
            try:
                on_done(result)
            except Exception:
                logger.exception("who waited for a write failed to hear of it")

    def _due_s(self, batch: _Batch) -> float:
        """When it will have waited for others long enough. (What was before it here does not count.)"""
        return max(batch.began_s, self._written_s) + self._patience_s

    def _look(self) -> None:
        """Give up what has waited for others too long, in hand and behind it."""
        self._next_look = None
        batch, now_s = self._in_hand, time.monotonic()
        if batch is None:
            return
        if not self._is_stuck and self._due_s(batch) <= now_s and self._fate.acquire(blocking=False):
            self._is_stuck = True
            self._give_up(batch, now_s)
        while self._is_stuck and self._waiting and self._due_s(self._waiting[0]) <= now_s:
            late = self._waiting.popleft()
            self._waiting_size -= late.size
            self._give_up(late, now_s)
        if not self._is_stuck:
            self._look_again(self._due_s(batch), now_s)
        elif self._waiting:
            self._look_again(self._due_s(self._waiting[0]), now_s)
        else:
            self._look_again(0.0, now_s)
            if self._is_closed:
                self._idle.set()

    def _look_again(self, due_s: float, now_s: float) -> None:
        """At that moment; if it has passed, the batch is being written, and the next cannot be due before this."""
        wait_s = due_s - now_s if due_s > now_s else self._patience_s
        self._next_look = self._loop.call_later(wait_s, self._look)

    def _give_up(self, batch: _Batch, now_s: float) -> None:
        exc = TimeoutError(f"other processes have kept it locked for {self._patience_s:g} s")
        self._note_trouble(exc)
        self._tell(batch, [Failed(as_unavailable(exc)) for _ in range(batch.size)], now_s)

    def _gather(self, size_before: int, quiet_turns: int) -> None:
        """Hand over when there is enough, when ``quiet_turns`` more turns bring nothing, or when it takes too long."""
        size = self._waiting_size
        quiet_turns = QUIET_TURNS if size > size_before else quiet_turns - 1
        is_enough = size >= GATHERED_SIZE or not quiet_turns or self._is_closed
        if is_enough or (size and time.monotonic() - self._waiting[0].began_s > GATHERED_S):
            self._hand_over()
        else:
            self._loop.call_soon(self._gather, size, quiet_turns)

    # ------------------------------------------------------------ in the thread

    def _run(self) -> None:
        _yield_to_the_loop()
        connection: sqlite3.Connection | None = None
        while (batch := self._batches.get()) is not None:
            results: Sequence[Any]
            try:
                connection = connection or self._connect()
                self._check_space()
                with self._turns:
                    results = self._run_batch(connection, batch)
                self._note_recovery(connection)
            except Exception as exc:  # noqa: BLE001 - top of a thread: whatever it is, the waiters must hear of it
                self._note_trouble(exc)
                results = [Failed(_foreign_to_ours(exc)) for _ in range(batch.size)]
                if connection is not None and not is_busy(exc):
                    # After an I/O error the connection's own view may be wrong; a fresh one starts from the file.
                    connection.close()
                    connection = None
            try:
                self._loop.call_soon_threadsafe(self._deliver, batch, results)
            except RuntimeError:  # the loop is closed: nobody waits any more
                break
            # Or they would live until the next batch, and those who waited would be taken apart in this thread.
            del batch, results
            if self._is_checkpoint_wanted and connection is not None:
                self._is_checkpoint_wanted = False
                self._checkpoint(connection)
        if connection is not None:
            connection.close()

    def _run_batch(self, connection: sqlite3.Connection, batch: _Batch) -> Sequence[Any]:
        """One transaction; none if the batch has been given up meanwhile. Savepoints cost two statements per operation,
        so they are used only once needed: when an operation failed after it had changed something, all is rolled back
        and run again with savepoints."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not self._fate.acquire(blocking=False):
                connection.execute("ROLLBACK")
                return ()
            self._take_late(batch)
            results = self._attempt(connection, batch, with_savepoints=False)
            if results is None:
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                results = self._attempt(connection, batch, with_savepoints=True)
                assert results is not None
            tell = self._watch.end(connection) if self._watch is not None and batch.operations else None
            connection.execute("COMMIT")
            self.commits += 1
            if tell is not None:
                tell()
        except BaseException:
            if connection.in_transaction:
                connection.rollback()
            raise
        return results

    def _take_late(self, batch: _Batch) -> None:
        """What has come while this batch was waiting for the core, the turn or the lock is written with it."""
        waiting = self._waiting
        with self._queue:
            while waiting and batch.size + waiting[0].size <= MAX_BATCH:
                late = waiting.popleft()
                self._waiting_size -= late.size
                batch.join(late)

    def _attempt(self, connection: sqlite3.Connection, batch: _Batch, *, with_savepoints: bool) -> Sequence[Any] | None:
        """The results, or None when an operation has to be undone and there is no savepoint to go back to."""
        results: list[Any] = []
        if self._watch is not None and batch.operations:
            self._watch.begin(connection)
        run = _run_with_savepoint if with_savepoints else _run_plainly
        for operation, _, is_new_work in batch.operations:
            if is_new_work and self._space_is_short:
                results.append(_no_space())
                continue
            result = run(connection, operation)
            if result is _UNDO:
                return None
            results.append(result)
        run_items = _run_one_by_one if with_savepoints else _run_together
        for group in (batch.new_items, batch.items):
            is_refused = group is batch.new_items and self._space_is_short
            for bulk, (items, _) in group.items():
                found = [_no_space() for _ in items] if is_refused else run_items(connection, bulk, items)
                if found is None:
                    return None
                results += found
        if len(results) != batch.size:
            raise StorageError(f"{batch.size} writes gave {len(results)} results")
        return results

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Copy what is left of the write-ahead log, so that the next batch may start it over."""
        try:
            with self._turns:  # or another process would write more meanwhile, and the end would never be reached
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except (sqlite3.Error, OSError) as exc:  # the next batch meets it too, and has waiters to tell
            logger.warning("the write-ahead log cannot be copied: %s", exc)

    def _check_space(self) -> None:
        now_s = time.monotonic()
        if not self._min_free_bytes or now_s - self._space_checked_s < SPACE_CHECK_INTERVAL_S:
            return
        self._space_checked_s = now_s
        try:
            status = os.statvfs(self._directory)
        except OSError:  # what was last known goes on: a write that fails says so itself
            return
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

    def _note_recovery(self, connection: sqlite3.Connection) -> None:
        # A new one, unless it only waited for a lock. What changes nothing goes well on a full disk too.
        if self._in_trouble and connection.total_changes:
            logger.info("the database can be written again")
            self._in_trouble = False


def end_future(future: asyncio.Future[Any], result: Any) -> None:
    """Give a future what ``on_done`` got."""
    if future.done():  # its waiter was cancelled
        return
    if result.__class__ is Failed:
        future.set_exception(result.error)
    else:
        future.set_result(result)


def _no_space() -> Failed:
    return Failed(Unavailable("The service is out of disk space.", retry_after_s=MUCH_LATER_S))


#: What ``_run_plainly`` answers when an operation failed and has left something behind.
_UNDO: Any = object()


def _run_plainly(connection: sqlite3.Connection, operation: Operation[Any]) -> Any:
    changes_before = connection.total_changes
    try:
        return operation(connection)
    except Exception as exc:
        if is_trouble(exc):
            raise
        # A failed statement has undone itself and is not counted; earlier ones of the operation are.
        return Failed(_foreign_to_ours(exc)) if connection.total_changes == changes_before else _UNDO


def _run_together(connection: sqlite3.Connection, bulk: Bulk, items: list[Any]) -> Sequence[Any] | None:
    """None when one of them is not as the others, or more than the books can take, so that all have to be undone."""
    try:
        return bulk(connection, items)
    except Exception as exc:
        if is_trouble(exc) or isinstance(exc, OSError):
            raise
        return None


def _run_one_by_one(connection: sqlite3.Connection, bulk: Bulk, items: list[Any]) -> Sequence[Any]:
    """One that cannot be entered must not take down those that happen to be written with it."""
    return [_run_with_savepoint(connection, partial(_run_single, bulk, item)) for item in items]


def _run_single(bulk: Bulk, item: Any, connection: sqlite3.Connection) -> Any:
    (result,) = bulk(connection, [item])
    return result


def _run_with_savepoint(connection: sqlite3.Connection, operation: Operation[Any]) -> Any:
    connection.execute("SAVEPOINT operation")
    try:
        result = operation(connection)
    except Exception as exc:
        if is_trouble(exc):
            raise
        connection.execute("ROLLBACK TO operation")
        result = Failed(_foreign_to_ours(exc))
    connection.execute("RELEASE operation")
    return result


def _foreign_to_ours(exc: Exception) -> Exception:
    """A driver error that no store foresaw: trouble that passes, or a bug of ours. Never an answer to a caller."""
    if is_trouble(exc) or isinstance(exc, OSError):
        return as_unavailable(exc)
    if isinstance(exc, sqlite3.Error):
        error = StorageError(f"{type(exc).__name__}: {exc}")
        error.__cause__ = exc
        return error
    return exc
