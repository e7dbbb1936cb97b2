"""Places at a provider: never more than there are, first come, first served, and none is lost."""

from __future__ import annotations

import asyncio

import pytest

from bitmesh_proxy.upstream.slots import Slots


async def test_there_are_no_more_than_there_are() -> None:
    slots = Slots(2)
    assert slots.take_now()
    await slots.take()
    assert not slots.take_now()
    slots.release()
    assert slots.take_now()


async def test_who_waits_comes_before_who_cannot() -> None:
    slots = Slots(1)
    assert slots.take_now()
    waiting = [asyncio.create_task(slots.take()) for _ in range(2)]
    await asyncio.sleep(0)
    slots.release()
    assert not slots.take_now()
    await waiting[0]
    assert not waiting[1].done()
    slots.release()
    await waiting[1]
    slots.release()
    assert slots.take_now()


@pytest.mark.parametrize("released", ["before", "at the same moment", "afterwards"])
async def test_who_is_cancelled_takes_none_along(released: str) -> None:
    slots = Slots(1)
    assert slots.take_now()
    waiting = asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    if released == "before":
        slots.release()
    waiting.cancel()
    if released == "at the same moment":
        slots.release()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if released == "afterwards":
        slots.release()
    assert slots.take_now()
    assert not slots.take_now()
