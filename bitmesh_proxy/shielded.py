"""Waiting for work that goes on when whoever waits for it is cancelled, and whose failure somebody hears of anyway."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def shielded(work: asyncio.Future[T]) -> T:
    """What ``asyncio.shield`` gives, without its word in the log.

    From Python 3.14 on, ``shield`` reports a failure that comes after its waiter has left, for nobody else might. For
    those who look at ``work`` themselves, each such failure would be reported twice.
    """
    await asyncio.wait((work,))
    return work.result()
