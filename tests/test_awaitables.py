"""Work that begins when it is awaited, and leaves no trace when it is not."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from bitmesh_proxy.awaitables import Deferred

seen: list[str] = []


async def work() -> None:
    seen.append("begun")
    await asyncio.sleep(0)
    seen.append("done")


async def fail() -> None:
    raise ConnectionResetError


async def test_it_is_done_when_it_is_awaited() -> None:
    seen.clear()
    deferred = Deferred(work)
    assert seen == []
    await deferred
    assert seen == ["begun", "done"]


async def test_what_it_raises_is_raised() -> None:
    with pytest.raises(ConnectionResetError):
        await Deferred(fail)


def test_nobody_need_await_it() -> None:
    seen.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Deferred(work)
        gc.collect()
    assert seen == []
