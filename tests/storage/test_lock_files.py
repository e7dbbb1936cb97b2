from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.instances import register_instance, run_alone
from bitmesh_proxy.storage.lock_files import lock_directory, see_that_nobody_serves


async def test_who_serves_is_seen_until_it_ends(database: Database, path: Path) -> None:
    await asyncio.to_thread(see_that_nobody_serves, path)
    instance = await register_instance(database)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            await asyncio.to_thread(see_that_nobody_serves, path)
    await instance.close()
    await asyncio.to_thread(see_that_nobody_serves, path)


async def test_the_file_that_a_dead_process_left_says_nothing(database: Database, path: Path) -> None:
    never = asyncio.Event()
    at_work = asyncio.Event()

    async def work() -> None:
        at_work.set()
        await never.wait()

    task = asyncio.create_task(run_alone(database, "sums", work, look_again_s=0.01))
    await at_work.wait()
    with pytest.raises(BlockingIOError):
        await asyncio.to_thread(see_that_nobody_serves, path)
    task.cancel()
    await asyncio.wait([task])
    assert await asyncio.to_thread(os.listdir, lock_directory(path)) == ["sums.lock"]
    await asyncio.to_thread(see_that_nobody_serves, path)
