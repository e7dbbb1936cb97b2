"""``kill -9`` under load: is every answer whose last byte arrived in the ledger?"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import aiohttp


async def answered_until_killed(
    url: str, *, headers: dict[str, str], body: bytes, callers: int, after_s: float, kill: Callable[[], None]
) -> list[str]:
    """Call from many sides, kill the server in the middle, and give the ids of the requests answered to the end."""
    answered: list[str] = []

    async def call_again_and_again(session: aiohttp.ClientSession) -> None:
        with suppress(aiohttp.ClientError, ConnectionError):
            while True:
                async with session.post(url, data=body, headers=headers) as answer:
                    await answer.read()
                    if answer.status != 200:
                        raise RuntimeError(f"answered {answer.status}")
                    answered.append(answer.headers["X-Request-Id"])

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        calls = [asyncio.create_task(call_again_and_again(session)) for _ in range(callers)]
        await asyncio.sleep(after_s)
        kill()
        await asyncio.gather(*calls)
    return answered


def settled_requests(database: Path) -> set[str]:
    """The ids of all settled requests. Reads only; the log of the killed process is taken into account."""
    with closing(sqlite3.connect(database)) as connection:
        return {row[0] for row in connection.execute("SELECT id FROM requests WHERE state = 'settled'")}
