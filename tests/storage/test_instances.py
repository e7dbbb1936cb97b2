from __future__ import annotations

import asyncio
import errno
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.instances import Instance, census, register_instance, run_alone

ROOT = Path(__file__).parents[2]

LIVE_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.instances import register_instance

async def main():
    database = await Database.open(Path(sys.argv[1]), busy_timeout_s=5, max_pending_writes=10)
    instance = await register_instance(database)
    print(instance.number, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def locks(path: Path) -> list[str]:
    directory = path.with_name(path.name + ".instances")
    return sorted(entry.name for entry in directory.iterdir()) if directory.exists() else []


async def test_numbers_never_come_back(database: Database, path: Path) -> None:
    first = await register_instance(database)
    await first.close()
    second = await register_instance(database)
    assert second.number > first.number
    assert len(locks(path)) == 1
    await second.close()
    assert locks(path) == []
    assert await database.read("SELECT * FROM instances") == []


async def test_who_lives_is_not_called_dead(database: Database) -> None:
    mine, other = await register_instance(database), await register_instance(database)
    async with census(database) as found:
        assert (found.alive, found.dead) == ((mine.number, other.number), ())
    assert len(await database.read("SELECT * FROM instances")) == 2
    await other.close()
    await mine.close()


async def test_killed_process_is_found_dead_once(database: Database, path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LIVE_UNTIL_KILLED, str(path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    number = int(await process.stdout.readline())
    mine = await register_instance(database)
    async with census(database) as found:
        assert (found.alive, found.dead) == ((number, mine.number), ())
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with census(database) as found:
        assert (found.alive, found.dead) == ((mine.number,), (number,))
        # Whoever starts at the same moment leaves the cleaning up to the first.
        async with census(database) as second:
            assert second.dead == ()
    async with census(database) as found:
        assert (found.alive, found.dead) == ((mine.number,), ())
    assert len(locks(path)) == 1
    await mine.close()


async def test_dead_stay_when_cleaning_up_fails(database: Database) -> None:
    await die(await register_instance(database))

    async def fail() -> None:
        async with census(database):
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    async with census(database) as found:
        assert len(found.dead) == 1


async def test_whoever_only_looks_keeps_nobody_from_cleaning_up(database: Database, path: Path) -> None:
    dead, mine = await register_instance(database), await register_instance(database)
    await die(dead)
    async with census(database, forget=False) as looking:
        async with census(database, forget=False) as found:
            assert (found.alive, found.dead) == ((mine.number,), (dead.number,))
        async with census(database) as found:
            assert (found.alive, found.dead) == ((mine.number,), (dead.number,))
    assert looking.dead == (dead.number,)
    async with census(database) as found:
        assert (found.alive, found.dead) == ((mine.number,), ())
    assert len(locks(path)) == 1
    await mine.close()


async def test_row_without_its_file_is_dead(database: Database, path: Path) -> None:
    instance = await register_instance(database)
    for name in locks(path):
        await asyncio.to_thread((path.with_name(path.name + ".instances") / name).unlink)
    async with census(database) as found:
        assert found.dead == (instance.number,)
    await instance.close()


async def die(instance: Instance) -> None:
    """What the kernel does for a killed process."""
    os.close(instance._descriptor)


async def test_who_comes_after_the_counting_is_above_the_newest(database: Database) -> None:
    first = await register_instance(database)
    await first.close()
    async with census(database) as found:
        assert (found.alive, found.newest) == ((), first.number)
        later = await register_instance(database)
        assert later.number > found.newest
    await later.close()


async def test_work_runs_in_one_process_at_a_time_and_is_taken_up_by_the_next(database: Database) -> None:
    running: list[str] = []
    changed = asyncio.Event()

    async def work(name: str) -> None:
        running.append(name)
        changed.set()
        try:
            await asyncio.sleep(60)
        finally:
            running.remove(name)

    def start(name: str, work_name: str = "work") -> asyncio.Task[None]:
        changed.clear()
        return asyncio.create_task(run_alone(database, work_name, lambda: work(name), look_again_s=0.01))

    first = start("first")
    await changed.wait()
    # A descriptor of its own has a lock of its own, as in another process.
    second = start("second")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(changed.wait(), 0.05)
    other = start("other", "other work")
    await changed.wait()
    assert running == ["first", "other"]
    changed.clear()
    first.cancel()
    await changed.wait()
    assert running == ["other", "second"]
    for task in (second, other):
        task.cancel()
    await asyncio.gather(first, second, other, return_exceptions=True)
    assert running == []


@pytest.mark.parametrize("call", ["os.open", "fcntl.flock"])
async def test_work_begins_once_there_is_a_lock_to_be_had(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    """It waits for files or locks of the system, and says so once: who gave up would never sum up or poll again."""
    module, name = call.split(".")
    real, failures = getattr(importlib.import_module(module), name), iter([OSError(errno.ENOLCK, "no locks")] * 3)

    def fail_at_first(*arguments: Any) -> Any:
        if ".lock" in str(arguments[0]) or call == "fcntl.flock":
            for failure in failures:
                raise failure
        return real(*arguments)

    begun = asyncio.Event()

    async def work() -> None:
        begun.set()

    monkeypatch.setattr(call, fail_at_first)
    await run_alone(database, "work", work, look_again_s=0.01)
    assert begun.is_set()
    assert [record.getMessage() for record in caplog.records] == [
        f"the work cannot be started now: [Errno {errno.ENOLCK}] no locks"
    ]
