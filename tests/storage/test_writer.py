from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest

from bitmesh_proxy.errors import InsufficientBalance, NotFound, Unavailable
from bitmesh_proxy.metrics import WRITE_BOUNDS_MS
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.writer import (
    BUSY_SIZE,
    GATHERED_SIZE,
    LENIENCE,
    MAX_BATCH,
    QUIET_TURNS,
    Bulk,
    Failed,
    Writer,
    end_future,
)

MakeWriter = Callable[..., Writer]


def connect(path: Path, timeout_s: float = 0.05) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=timeout_s, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS things (name TEXT UNIQUE CHECK (name <> 'forbidden'))")
    return connection


def add(*names: str) -> Callable[[sqlite3.Connection], str]:
    def operation(connection: sqlite3.Connection) -> str:
        for name in names:
            connection.execute("INSERT INTO things VALUES (?)", (name,))
        return names[-1]

    return operation


def submit_item(writer: Writer, bulk: Bulk, item: Any, *, is_new_work: bool = False) -> asyncio.Future[Any]:
    """An item for a bulk operation, and a future as ``submit`` has."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    writer.submit_item_now(bulk, item, partial(end_future, future), is_new_work=is_new_work)
    return future


def names_in(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        found = {name for (name,) in connection.execute("SELECT name FROM things")}
    connection.close()
    return found


class AddMany:
    """A bulk that remembers how many items came at once, and refuses those called ``refused``."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, connection: sqlite3.Connection, items: Sequence[Any]) -> Sequence[Any]:
        self.sizes.append(len(items))
        results: list[Any] = []
        for name in items:
            if name == "refused":
                results.append(Failed(InsufficientBalance("no")))
            else:
                connection.execute("INSERT INTO things VALUES (?)", (name,))
                results.append(name)
        return results


@pytest.fixture
async def make_writer(path: Path) -> AsyncIterator[MakeWriter]:
    writers: list[Writer] = []
    connect(path).close()

    def make(**changes: Any) -> Writer:
        options: dict[str, Any] = {"max_pending": 100, "min_free_bytes": 0, **changes}
        writer = Writer(options.pop("connect", lambda: connect(path)), path, **options)
        writers.append(writer)
        return writer

    yield make
    for writer in writers:
        await writer.close()


async def test_result_comes_when_it_is_committed(make_writer: MakeWriter, path: Path) -> None:
    assert await make_writer().submit(add("a", "b")) == "b"
    assert names_in(path) == {"a", "b"}


async def test_waiting_operations_share_a_transaction(make_writer: MakeWriter) -> None:
    writer = make_writer()
    begun: list[str] = []

    def trace(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)

    await writer.submit(trace)
    await asyncio.gather(*(writer.submit(add(f"n{number}")) for number in range(100)))
    assert len(begun) == 1


async def test_batches_are_bounded(make_writer: MakeWriter) -> None:
    writer = make_writer(max_pending=2000)
    bulk = AddMany()
    count = MAX_BATCH + 10
    names = [f"n{number}" for number in range(count)]
    assert list(await asyncio.gather(*(submit_item(writer, bulk, name) for name in names))) == names
    assert bulk.sizes == [MAX_BATCH, 10]


class Turn:
    """For ``turns``: the thread that comes in says so, and is kept until it may go on."""

    def __init__(self) -> None:
        self.has_come = threading.Event()
        self.may_go_on = threading.Event()

    def __enter__(self) -> None:
        self.has_come.set()
        assert self.may_go_on.wait(30)

    def __exit__(self, *exc_info: object) -> None:
        pass


async def test_what_comes_while_a_batch_waits_for_its_turn_is_written_with_it(
    make_writer: MakeWriter, path: Path
) -> None:
    turn = Turn()
    writer, bulk, others = make_writer(turns=turn), AddMany(), AddMany()
    first = [submit_item(writer, bulk, "a"), writer.submit(add("b"))]
    await asyncio.to_thread(turn.has_come.wait)
    late = [
        submit_item(writer, bulk, "c"),
        submit_item(writer, bulk, "refused"),
        submit_item(writer, bulk, "new", is_new_work=True),
        submit_item(writer, others, "d"),
        writer.submit(add("e")),
    ]
    turn.may_go_on.set()
    assert await asyncio.gather(*first) == ["a", "b"]
    assert await asyncio.gather(*late[:1], *late[2:]) == ["c", "new", "d", "e"]
    with pytest.raises(InsufficientBalance):
        await late[1]
    assert writer.commits == 1
    assert sorted(bulk.sizes) == [1, 3]  # new work is done apart from the rest
    assert others.sizes == [1]
    assert names_in(path) == {"a", "b", "c", "d", "e", "new"}
    assert await writer.submit(add("f")) == "f"
    assert writer.commits == 2


async def test_what_comes_late_joins_as_long_as_the_batch_keeps_its_bound(
    make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitmesh_proxy.storage.writer.MAX_BATCH", 3)
    turn = Turn()
    writer, bulk = make_writer(turns=turn), AddMany()
    first = submit_item(writer, bulk, "first")
    await asyncio.to_thread(turn.has_come.wait)
    late = [submit_item(writer, bulk, name) for name in ("a", "b", "c", "d", "e")]
    turn.may_go_on.set()
    assert await asyncio.gather(first, *late) == ["first", "a", "b", "c", "d", "e"]
    assert bulk.sizes == [1, 3, 2]


@pytest.mark.parametrize("fails_late", [False, True])
async def test_what_fails_is_undone_alone_also_beside_what_comes_late(
    make_writer: MakeWriter, path: Path, fails_late: bool
) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO things VALUES ('half')")
        raise NotFound("after a change")

    turn = Turn()
    writer, bulk = make_writer(turns=turn), AddMany()

    def fail() -> list[asyncio.Future[Any]]:
        return [writer.submit(half), submit_item(writer, bulk, 2**63)]

    first = [writer.submit(add("first")), submit_item(writer, bulk, "a"), *([] if fails_late else fail())]
    await asyncio.to_thread(turn.has_come.wait)
    late = [*(fail() if fails_late else []), writer.submit(add("late")), submit_item(writer, bulk, "b")]
    turn.may_go_on.set()
    told = {
        type(each) if isinstance(each, Exception) else each
        for each in await asyncio.gather(*first, *late, return_exceptions=True)
    }
    assert told == {"first", "a", "late", "b", NotFound, OverflowError}
    assert names_in(path) == {"first", "a", "late", "b"}
    assert writer.commits == 1


async def test_what_is_given_up_is_not_written_with_what_comes_after_it(make_writer: MakeWriter, path: Path) -> None:
    """The thread, once it is let in, leaves alone what waits behind a batch that has been given up."""
    turn = Turn()
    writer = make_writer(turns=turn, patience_s=0.3)
    with pytest.raises(Unavailable):
        await writer.submit(add("given up"))
    late = asyncio.create_task(written(writer, "late"))
    await asyncio.sleep(0)  # it is queued, behind the batch that the thread still has
    turn.may_go_on.set()
    await late
    assert names_in(path) == {"late"}
    assert writer.commits == 1


async def test_waits_are_counted_for_every_write_and_never_too_short(make_writer: MakeWriter) -> None:
    writer = make_writer()

    def hold_up(connection: sqlite3.Connection) -> None:
        time.sleep(0.03)

    bulk = AddMany()
    await asyncio.gather(
        writer.submit(hold_up),
        *(submit_item(writer, bulk, name) for name in ("a", "b", "refused")),
        return_exceptions=True,
    )
    assert sum(writer.waits.counts) == 4
    quick = sum(n for bound_ms, n in zip(WRITE_BOUNDS_MS, writer.waits.counts, strict=False) if bound_ms < 30)
    assert quick == 0
    assert writer.waits.sum_s >= 4 * 0.03


async def test_error_reaches_its_caller_alone(make_writer: MakeWriter, path: Path) -> None:
    writer = make_writer()

    def refuse(connection: sqlite3.Connection) -> None:
        raise NotFound("no such thing")

    results = await asyncio.gather(
        writer.submit(add("a")), writer.submit(refuse), writer.submit(add("b")), return_exceptions=True
    )
    assert results[0] == "a"
    assert isinstance(results[1], NotFound)
    assert results[2] == "b"
    assert names_in(path) == {"a", "b"}


async def test_failed_operation_is_undone_whole_and_alone(make_writer: MakeWriter, path: Path) -> None:
    writer = make_writer()
    bulk = AddMany()

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO things VALUES ('half')")
        raise NotFound("after a change")

    results = await asyncio.gather(
        writer.submit(add("before")),
        writer.submit(half),
        writer.submit(add("after")),
        submit_item(writer, bulk, "bulk"),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [str, NotFound, str, str]
    assert names_in(path) == {"before", "after", "bulk"}


async def test_bulk_gets_its_items_together_and_answers_each(make_writer: MakeWriter, path: Path) -> None:
    writer = make_writer()
    bulk = AddMany()
    results = await asyncio.gather(
        submit_item(writer, bulk, "a"),
        writer.submit(add("between")),
        submit_item(writer, bulk, "refused"),
        submit_item(writer, bulk, "b"),
        return_exceptions=True,
    )
    assert (results[0], results[3]) == ("a", "b")
    assert isinstance(results[2], InsufficientBalance)
    assert bulk.sizes == [3]
    assert names_in(path) == {"a", "b", "between"}


@pytest.mark.parametrize("is_new_work", [False, True])
async def test_an_item_that_no_database_holds_takes_down_nobody(
    make_writer: MakeWriter, path: Path, is_new_work: bool
) -> None:
    writer = make_writer()
    bulk = AddMany()
    operation = writer.submit(add("an operation"))
    items = [submit_item(writer, bulk, each, is_new_work=is_new_work) for each in ("a", 2**63, "refused", "b")]
    a, poison, refused, b = await asyncio.gather(*items, return_exceptions=True)
    assert (a, b, await operation) == ("a", "b", "an operation")
    assert isinstance(poison, OverflowError)
    assert isinstance(refused, InsufficientBalance)
    assert names_in(path) == {"a", "b", "an operation"}
    assert await submit_item(writer, bulk, "later") == "later"
    assert bulk.sizes == [4, 1, 1, 1, 1, 1]


async def test_unforeseen_driver_error_is_ours(make_writer: MakeWriter) -> None:
    writer = make_writer()
    with pytest.raises(StorageError, match="CHECK constraint failed") as caught:
        await writer.submit(add("forbidden"))
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
    with pytest.raises(StorageError, match="no such table"):
        await writer.submit(lambda connection: connection.execute("SELECT * FROM nowhere"))


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="of Linux")
async def test_writing_thread_alone_does_not_push_others_aside(make_writer: MakeWriter) -> None:
    before = os.sched_getscheduler(0)
    assert await make_writer().submit(lambda connection: os.sched_getscheduler(0)) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == before


async def test_writing_goes_on_where_a_service_manager_forbids_that(
    make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", forbid, raising=False)
    assert await make_writer().submit(add("a")) == "a"


async def test_cancelled_waiter_loses_the_news_and_not_the_write(make_writer: MakeWriter, path: Path) -> None:
    writer = make_writer()

    async def wait_for(name: str) -> str:
        return await writer.submit(add(name))

    leaving, staying = asyncio.create_task(wait_for("leaving")), asyncio.create_task(wait_for("staying"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == "staying"
    assert leaving.cancelled()
    assert names_in(path) == {"leaving", "staying"}


async def test_queue_is_bounded_for_new_work_first(make_writer: MakeWriter, path: Path) -> None:
    writer = make_writer(max_pending=3, connect=lambda: connect(path, timeout_s=5.0))
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    running = writer.submit(add("running"), is_new_work=True)
    await asyncio.sleep(0)  # handed over, and now it waits for the lock
    waiting = [writer.submit(add(f"new{number}"), is_new_work=True) for number in range(3)]
    with pytest.raises(Unavailable) as refusal:
        writer.submit(add("one too many"), is_new_work=True)
    assert refusal.value.retry_after_s == 1.0  # the queue is short-lived
    waiting += [writer.submit(add(f"end{number}")) for number in range(3 * LENIENCE - 3)]
    with pytest.raises(Unavailable):
        writer.submit(add("far too many"))
    other.execute("ROLLBACK")
    other.close()
    assert len(await asyncio.gather(running, *waiting)) == 1 + 3 * LENIENCE
    assert len(names_in(path)) == 1 + 3 * LENIENCE


async def test_lock_held_elsewhere_passes(
    make_writer: MakeWriter, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            with pytest.raises(Unavailable) as caught:
                await writer.submit(add("locked out"))
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        other.execute("ROLLBACK")
        other.close()
        assert await writer.submit(add("in again")) == "in again"
    assert names_in(path) == {"in again"}
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["the database cannot be written: database is locked", "the database can be written again"]


async def written(writer: Writer, name: str) -> None:
    """Enter it, however often a writer of little patience gives it up on a machine with other work."""
    while True:
        with suppress(Unavailable):
            assert await writer.submit(add(name)) == name
            return


async def test_nobody_waits_longer_for_others_than_he_is_said_to(
    make_writer: MakeWriter, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither for the lock nor for the turn, nor behind one who waits already; and what was given up is not written."""
    gate = threading.Lock()
    for kept in ("lock", "turn"):
        writer = make_writer(patience_s=0.4, connect=lambda: connect(path, timeout_s=30.0), turns=gate)
        await written(writer, f"before {kept}")
        other = connect(path)
        if kept == "lock":
            other.execute("BEGIN IMMEDIATE")
        else:
            await asyncio.to_thread(gate.acquire)
        waiting = [writer.submit(add("in hand"))]
        await asyncio.sleep(0)
        waiting += [writer.submit(add(f"behind {number}")) for number in range(3)]
        for refused in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(refused, Unavailable)
            assert isinstance(refused.__cause__, TimeoutError)
        with pytest.raises(Unavailable):
            await writer.submit(add("later"))
        if kept == "lock":
            other.execute("ROLLBACK")
        else:
            gate.release()
        other.close()
        await written(writer, f"after {kept}")
        assert names_in(path) >= {f"before {kept}", f"after {kept}"}
        await writer.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "database-writer"]
    assert len(names_in(path)) == 4
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(said) >= 2
    assert set(said) == {"the database cannot be written: other processes have kept it locked for 0.4 s"}


async def test_what_is_being_written_is_never_given_up(make_writer: MakeWriter, path: Path) -> None:
    """However long it takes, and what waits behind it waits for nobody else."""
    writer = make_writer(patience_s=1.0)
    begun, go_on, looked = threading.Event(), threading.Event(), asyncio.Event()

    def take_long(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO things VALUES ('long')")
        begun.set()
        go_on.wait()
        return "long"

    await written(writer, "before")
    long = writer.submit(take_long)
    await asyncio.to_thread(begun.wait)
    behind = writer.submit(add("behind"))
    asyncio.get_running_loop().call_later(2.2, looked.set)
    await looked.wait()
    assert not long.done()
    go_on.set()
    assert [await long, await behind] == ["long", "behind"]
    assert names_in(path) == {"before", "long", "behind"}


async def test_close_does_not_wait_for_a_turn_that_never_comes(make_writer: MakeWriter, path: Path) -> None:
    turn = threading.Lock()
    writer = make_writer(patience_s=0.3, turns=turn)
    await written(writer, "before")
    with turn:
        waiting = [writer.submit(add("in hand"))]
        await asyncio.sleep(0)
        waiting.append(writer.submit(add("behind")))
        await writer.close()
        assert {type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)} == {Unavailable}
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "database-writer"]
    await asyncio.to_thread(thread.join)
    assert names_in(path) == {"before"}


async def test_full_disk_passes(make_writer: MakeWriter, path: Path) -> None:
    writer = make_writer()

    def fill_the_disk(connection: sqlite3.Connection) -> None:
        pages = connection.execute("PRAGMA page_count").fetchall()[0][0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    await writer.submit(fill_the_disk)
    results = await asyncio.gather(
        writer.submit(add("small")), writer.submit(add("x" * 100_000)), return_exceptions=True
    )
    # What fails is the transaction, so it fails for all who share it.
    assert [type(result) for result in results] == [Unavailable, Unavailable]
    assert results[0] is not results[1]
    assert names_in(path) == set()
    # The limit was the connection's, and a connection that met trouble is replaced.
    assert await writer.submit(add("x" * 100_000)) == "x" * 100_000


async def test_trouble_is_over_with_the_next_change_that_is_written(make_writer: MakeWriter, path: Path) -> None:
    """Not with what changes nothing: that would go well on a full disk too."""
    is_full = True

    def connect_to_what_may_be_full() -> sqlite3.Connection:
        connection = connect(path)
        if is_full:
            pages = connection.execute("PRAGMA page_count").fetchall()[0][0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    writer = make_writer(connect=connect_to_what_may_be_full)
    seen = [writer.is_in_trouble]
    with pytest.raises(Unavailable):
        await writer.submit(add("x" * 100_000))
    await writer.submit(lambda connection: None)
    seen.append(writer.is_in_trouble)
    is_full = False
    with pytest.raises(Unavailable):
        await writer.submit(add("y" * 100_000))
    await writer.submit(add("y" * 100_000))
    assert [*seen, writer.is_in_trouble] == [False, True, False]


async def test_database_that_becomes_unwritable_and_comes_back(make_writer: MakeWriter, path: Path) -> None:
    is_there = True

    def connect_if_there() -> sqlite3.Connection:
        if not is_there:
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path)

    writer = make_writer(connect=connect_if_there)

    def become_read_only(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA query_only = ON")

    await writer.submit(become_read_only)
    is_there = False
    with pytest.raises(Unavailable):
        await writer.submit(add("read only"))
    with pytest.raises((Unavailable, StorageError)):
        await writer.submit(add("gone"))
    is_there = True
    assert await writer.submit(add("back")) == "back"
    assert names_in(path) == {"back"}


async def test_little_free_space_stops_new_work_only(
    make_writer: MakeWriter, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer(min_free_bytes=2**62)
    bulk = AddMany()
    with pytest.raises(Unavailable, match="disk space"):
        await writer.submit(add("new"), is_new_work=True)
    with pytest.raises(Unavailable, match="disk space"):
        await submit_item(writer, bulk, "new", is_new_work=True)
    assert await writer.submit(add("begun before")) == "begun before"
    assert names_in(path) == {"begun before"}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("is_short", [False, True])
async def test_free_space_that_cannot_be_looked_up_is_as_it_was(
    make_writer: MakeWriter, path: Path, monkeypatch: pytest.MonkeyPatch, is_short: bool
) -> None:
    monkeypatch.setattr("bitmesh_proxy.storage.writer.SPACE_CHECK_INTERVAL_S", 0.0)
    writer = make_writer(min_free_bytes=2**62 if is_short else 1)
    await writer.submit(add("before"))

    def fail(directory: Path) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "statvfs", fail)
    assert await writer.submit(add("begun before")) == "begun before"
    if is_short:
        with pytest.raises(Unavailable, match="disk space"):
            await writer.submit(add("new"), is_new_work=True)
    else:
        assert await writer.submit(add("new"), is_new_work=True) == "new"


async def test_a_turn_that_cannot_be_had_for_copying_the_log_ends_nothing(
    make_writer: MakeWriter, caplog: pytest.LogCaptureFixture
) -> None:
    class Turns:
        """The second one is refused."""

        entered = 0

        def __enter__(self) -> None:
            self.entered += 1
            if self.entered == 2:
                raise OSError(errno.ENOLCK, "No locks available")

        def __exit__(self, *exc_info: object) -> None:
            pass

    turns = Turns()
    writer = make_writer(turns=turns)
    writer.checkpoint_soon()
    assert await writer.submit(add("before")) == "before"
    assert await writer.submit(add("after")) == "after"
    assert turns.entered == 3
    (said,) = caplog.messages
    assert said == f"the write-ahead log cannot be copied: [Errno {errno.ENOLCK}] No locks available"


async def test_close_writes_what_waits_and_ends_the_thread(make_writer: MakeWriter, path: Path) -> None:
    writer = make_writer()
    waiting = [writer.submit(add(f"n{number}")) for number in range(20)]
    await writer.close()
    assert all(future.done() for future in waiting)
    assert len(names_in(path)) == 20
    assert not [thread for thread in threading.enumerate() if thread.name == "database-writer"]
    with pytest.raises(Unavailable):
        writer.submit(add("late"))
    await writer.close()


async def test_function_hears_after_the_call_and_once(make_writer: MakeWriter, path: Path) -> None:
    writer = make_writer()
    bulk = AddMany()
    heard: list[Any] = []
    is_done = asyncio.Event()

    def hear(result: Any) -> None:
        heard.append(result)
        if len(heard) == 3:
            is_done.set()

    writer.submit_item_now(bulk, "a", hear)
    writer.submit_item_now(bulk, "refused", hear, is_new_work=True)
    writer.submit_now(add("b"), hear)
    assert heard == []
    await is_done.wait()
    assert names_in(path) == {"a", "b"}
    assert sorted(each for each in heard if isinstance(each, str)) == ["a", "b"]
    (failed,) = (each for each in heard if isinstance(each, Failed))
    assert isinstance(failed.error, InsufficientBalance)


async def test_what_is_submitted_by_those_who_hear_goes_together(make_writer: MakeWriter) -> None:
    writer = make_writer()
    bulk = AddMany()
    heard: list[str] = []
    is_done = asyncio.Event()

    def hear_second(name: str) -> None:
        heard.append(name)
        if len(heard) == 10:
            is_done.set()

    def hear_first(name: str) -> None:
        writer.submit_item_now(bulk, name + " again", hear_second)

    for number in range(10):
        writer.submit_item_now(bulk, f"n{number}", hear_first)
    await is_done.wait()
    assert heard == [f"n{number} again" for number in range(10)]
    assert bulk.sizes == [10, 10]


@pytest.mark.parametrize(
    ("before", "count", "each", "sizes"),
    [
        (BUSY_SIZE - 1, 4, 1, [2]),  # handed over in the next turn, as ever
        (BUSY_SIZE, 4, 1, [4]),
        (BUSY_SIZE, 4, QUIET_TURNS, [4]),
        (BUSY_SIZE, 2, QUIET_TURNS + 2, [1, 1]),
        (BUSY_SIZE, 2 * GATHERED_SIZE, 1, [GATHERED_SIZE]),
    ],
)
async def test_after_a_large_batch_the_next_is_gathered_while_the_loop_brings_more(
    make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch, before: int, count: int, each: int, sizes: list[int]
) -> None:
    monkeypatch.setattr("bitmesh_proxy.storage.writer.GATHERED_S", inf)
    found = await _sizes_after_a_batch(make_writer(max_pending=1000), monkeypatch, before, count, each)
    assert found[: len(sizes)] == sizes


async def test_what_is_gathered_does_not_wait_for_long(
    make_writer: MakeWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the loop's turns take long, and each of them brings a little."""
    monkeypatch.setattr("bitmesh_proxy.storage.writer.GATHERED_S", 0.0)
    found = await _sizes_after_a_batch(make_writer(max_pending=1000), monkeypatch, BUSY_SIZE, 10, 1)
    assert found[0] <= 2


async def _sizes_after_a_batch(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, before: int, count: int, each: int
) -> list[int]:
    """``before`` writes together, and then ``count`` items, one in each so many turns of the loop: what these were
    written in."""
    monkeypatch.setattr(Writer, "_take_late", lambda writer, batch: None)  # what joins in the thread is another matter
    bulk = AddMany()
    heard: list[str] = []
    is_done = asyncio.Event()

    def hear(name: str) -> None:
        heard.append(name)
        if len(heard) == count:
            is_done.set()

    def come(turn: int) -> None:
        """The next turn's is first."""
        number, rest = divmod(turn, each)
        if number + 1 < count:
            loop.call_soon(come, turn + 1)
        if not rest:
            writer.submit_item_now(bulk, f"n{number}", hear)

    loop = asyncio.get_running_loop()
    large = [writer.submit(add(f"before-{number}")) for number in range(before)]
    large[-1].add_done_callback(lambda _: come(0))
    await is_done.wait()
    return bulk.sizes


async def test_function_that_fails_is_said_and_harms_nobody(
    make_writer: MakeWriter, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()

    def fail(_: Any) -> None:
        raise LookupError("a fault of ours")

    writer.submit_now(add("first"), fail)
    assert await writer.submit(add("second")) == "second"
    assert await writer.submit(add("third")) == "third"
    assert names_in(path) == {"first", "second", "third"}
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [LookupError]


async def test_function_is_not_called_for_what_was_never_queued(make_writer: MakeWriter) -> None:
    writer = make_writer(max_pending=1)
    bulk = AddMany()
    heard: list[Any] = []
    first = writer.submit(add("first"), is_new_work=True)
    with pytest.raises(Unavailable):
        writer.submit_item_now(bulk, "one too many", heard.append, is_new_work=True)
    await first
    await writer.close()
    with pytest.raises(Unavailable):
        writer.submit_item_now(bulk, "late", heard.append)
    assert heard == []
    assert bulk.sizes == []


async def test_functions_hear_of_trouble(make_writer: MakeWriter, path: Path) -> None:
    writer = make_writer()
    other = connect(path)
    other.execute("BEGIN IMMEDIATE")
    heard: asyncio.Queue[Any] = asyncio.Queue()
    writer.submit_item_now(AddMany(), "locked out", heard.put_nowait)
    failed = await heard.get()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, Unavailable)
    other.execute("ROLLBACK")
    other.close()


async def test_bulk_that_loses_a_result_is_a_fault_of_ours(make_writer: MakeWriter, path: Path) -> None:
    def lose(connection: sqlite3.Connection, items: Sequence[Any]) -> Sequence[Any]:
        connection.execute("INSERT INTO things VALUES ('lost')")
        return items[1:]

    writer = make_writer()
    with pytest.raises(StorageError, match="2 writes gave 1 results"):
        await asyncio.gather(submit_item(writer, lose, "a"), submit_item(writer, lose, "b"))
    assert names_in(path) == set()


async def test_nothing_of_what_is_done_is_kept(make_writer: MakeWriter) -> None:
    class Waiter:
        def hear(self, _: Any) -> None:
            is_done.set()

    writer = make_writer()
    is_done = asyncio.Event()
    waiter = Waiter()
    left = weakref.ref(waiter)
    writer.submit_item_now(AddMany(), "a", waiter.hear)
    del waiter
    await is_done.wait()
    while left() is not None:  # the thread lets go a moment later; the test's own time limit is the bound
        await asyncio.to_thread(threading.Event().wait, 0.001)
