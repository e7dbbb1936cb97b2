"""Writers of several processes stand in a queue; whoever dies in it or at its head leaves it."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.turns import Turns

ROOT = Path(__file__).parents[2]

HOLD = """
import sys, time
from pathlib import Path
from bitmesh_proxy.storage.turns import Turns
with Turns(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def add(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE versions SET keys_version = keys_version + 1")


def test_one_at_a_time(tmp_path: Path) -> None:
    """Two descriptors have two locks, as in two processes."""
    first, second = Turns(tmp_path / "turns"), Turns(tmp_path / "turns")
    order: list[str] = []

    def write() -> None:
        with second:
            order.append("second")

    thread = threading.Thread(target=write)
    with first:
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    first.close()
    second.close()


def test_a_turn_ends_with_its_holder(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "turns")], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    turns = Turns(tmp_path / "turns")
    with turns:
        pass
    turns.close()


def test_a_turn_that_cannot_be_given_back_does_not_spoil_what_was_written(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns")
    with turns:
        works = turns._descriptor
        turns._descriptor = os.open("/", os.O_PATH)  # flock(2) takes none of these
    os.close(turns._descriptor)
    turns._descriptor = works
    turns.close()


async def test_a_database_waits_for_its_turn_and_later_ones_do_so_unasked(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    alone = await Database.open(path, busy_timeout_s=5, max_pending_writes=10)
    assert not await asyncio.to_thread(path.with_name("books.db.turns").exists)
    asked = await Database.open(path, busy_timeout_s=5, max_pending_writes=10, takes_turns=True)
    unasked = await Database.open(path, busy_timeout_s=5, max_pending_writes=10)
    held = await asyncio.to_thread(Turns, path.with_name("books.db.turns"))
    with held:
        waiting = [asyncio.ensure_future(database.write(add)) for database in (asked, unasked)]
        await alone.write(add)  # who came before takes no turns, and is not kept from writing
        done, _ = await asyncio.wait(waiting, timeout=0.1)
        assert done == set()
    await asyncio.gather(*waiting)
    assert alone.lookup("SELECT keys_version FROM versions") == (4,)
    held.close()
    for database in (alone, asked, unasked):
        await database.close()


async def written(database: Database) -> None:
    """Add one, however often a database of little patience gives it up on a machine with other work."""
    while True:
        with suppress(Unavailable):
            await database.write(add)
            return


async def test_a_frozen_process_at_the_head_of_the_queue_keeps_nobody_waiting_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    database = await Database.open(path, busy_timeout_s=0.5, max_pending_writes=10, takes_turns=True)
    await written(database)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(path.with_name("books.db.turns")), cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"held\n"
    process.send_signal(signal.SIGSTOP)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await database.write(add)
    by_hand = await Database.open(path, busy_timeout_s=0.5, max_pending_writes=10)
    with pytest.raises(Unavailable):
        await by_hand.write(add)
    await by_hand.close()
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    await written(database)
    assert database.lookup("SELECT keys_version FROM versions") == (3,)  # none of the refused ones came true later
    await database.close()
