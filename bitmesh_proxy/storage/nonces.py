"""Nonces that survive a restart and hold across processes: ``auth.nonces.NonceStore`` on the database."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from bitmesh_proxy.auth.nonces import Burnt
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.sweeps import NowAndThen, Step
from bitmesh_proxy.storage.writer import Done, Failed, end_future

logger = logging.getLogger(__name__)

#: Expired rows are looked for this often.
SWEEP_INTERVAL_S = 10.0
#: So many go with one statement.
SWEEP_ROWS = 100

#: Consumer key, nonce and timestamp.
_Nonce: TypeAlias = tuple[str, str, int]

_FORGET = """
DELETE FROM nonces WHERE (consumer_key, nonce) IN
    (SELECT consumer_key, nonce FROM nonces WHERE timestamp_s < ? LIMIT ?)
"""
_COUNT_LIVE = "SELECT count(*) FROM (SELECT 1 FROM nonces WHERE timestamp_s >= ? LIMIT ?)"
_INSERT = "INSERT INTO nonces (consumer_key, nonce, timestamp_s) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"


class SqliteNonces:
    """See the module's docstring. ``clock`` is Unix time; ``max_nonces`` bounds those that count still (0: not)."""

    def __init__(
        self,
        database: Database,
        *,
        window_s: float,
        max_nonces: int = 1_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._window_s = window_s
        self._max_nonces = max_nonces
        self._clock = clock
        self._sweeps = NowAndThen(SWEEP_INTERVAL_S)
        self._is_full = False
        #: The last sweep was broken off.
        self._is_sweeping = False

    async def burn(self, consumer_key: str, nonce: str, timestamp_s: int) -> bool:
        """Insert if absent, durably. Raises Unavailable when it cannot be remembered: the request is then refused."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue((consumer_key, nonce, timestamp_s), partial(end_future, future))
        return await future

    def burn_soon(self, consumer_key: str, nonce: str, timestamp_s: int, on_done: Burnt) -> None:
        """The same with a function for a coroutine; see ``auth.nonces.NonceStore``."""

        def heard(result: bool | Failed) -> None:
            on_done(result.error if isinstance(result, Failed) else result)

        self._queue((consumer_key, nonce, timestamp_s), heard)

    def _queue(self, item: _Nonce, on_done: Done) -> None:
        now_s = self._clock()
        if not self._sweeps.is_due(now_s):
            self._insert(item, on_done)
            return

        is_to_count = not self._is_sweeping and self._max_nonces > 0

        def swept(result: bool | Failed) -> None:
            if isinstance(result, Failed):
                on_done(result)
                return
            self._is_sweeping = not result
            if not result:
                self._sweeps.go_on(now_s)
            if is_to_count:
                counting = asyncio.ensure_future(self._count(now_s))
                counting.add_done_callback(counted)
            else:
                insert()

        def counted(counting: asyncio.Future[bool]) -> None:
            # What cannot be counted now is taken for what it was.
            if not counting.cancelled() and (error := counting.exception()) is not None:
                logger.warning("nonces cannot be counted now: %s", error)
            elif not counting.cancelled():
                self._is_full = counting.result()
            insert()

        def insert() -> None:
            try:
                self._insert(item, on_done)
            except Unavailable as exc:
                on_done(Failed(exc))

        self._database.submit_now(lambda connection: self._sweep(connection, now_s), swept)

    def _insert(self, item: _Nonce, on_done: Done) -> None:
        if self._is_full:
            raise Unavailable("Too many signed requests at the moment.", retry_after_s=SWEEP_INTERVAL_S)
        self._database.submit_item_now(_insert, item, on_done, is_new_work=True)

    def _sweep(self, connection: sqlite3.Connection, now_s: float) -> bool:
        """Forget what can no longer be accepted. Is it all forgotten?"""
        step, is_swept = Step(least=0), False
        while not is_swept:
            gone = connection.execute(_FORGET, (self._oldest_s(now_s), SWEEP_ROWS)).rowcount
            is_swept = gone < SWEEP_ROWS
            if step.is_over():
                break
        return is_swept

    async def _count(self, now_s: float) -> bool:
        """Is there no room for more? What waits to be forgotten takes nobody's room. Beside the writer, and no other
        call waits: a million take 70 ms."""
        ((live,),) = await self._database.read(_COUNT_LIVE, (self._oldest_s(now_s), self._max_nonces))
        return bool(live >= self._max_nonces)

    def _oldest_s(self, now_s: float) -> int:
        return int(now_s - self._window_s) - 1


def _insert(connection: sqlite3.Connection, items: Sequence[_Nonce]) -> Sequence[bool]:
    """A bulk operation: which of them are new? A statement each, since one for several does not say which those are."""
    return [connection.execute(_INSERT, item).rowcount == 1 for item in items]
