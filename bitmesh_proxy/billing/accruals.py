"""What running calls have delivered so far, noted in the books now and then for the case of a crash.

Each call is noted once in an interval, and not all of them at the same moment: a thousand streams at once keep the
event loop for 5 to 10 ms, and the writer for as long, so that at such a load p99 of the chunks' lateness was the noting
of each second. So those that were looked at longest ago are noted, a few dozen at a time, evenly through the interval.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from itertools import islice
from typing import Final

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.bulk import MAX_ROWS
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.ledger import Accrued, LedgerStore

log = logging.getLogger(__name__)

#: Calls that are looked at together, at least: as many as one statement notes.
PART_CALLS: Final = MAX_ROWS
#: Parts of an interval at most; with more calls than they hold, each part has more.
MOST_PARTS: Final = 50


class Accruals:
    """Who is watched, and what was noted of them. On the event loop."""

    def __init__(self, ledger: LedgerStore) -> None:
        self._ledger = ledger
        #: By request id, what tells how far the call is (None: nothing yet). Who was looked at last stands last.
        self.watched: dict[str, Callable[[], Accrued | None]] = {}
        self._noted: dict[str, Accrued] = {}

    def forget(self, request_id: str) -> Callable[[], Accrued | None] | None:
        """It is not watched any more. Gives what told how far it is, if it was."""
        self._noted.pop(request_id, None)
        return self.watched.pop(request_id, None)

    async def note_forever(self, interval_s: float) -> None:
        """``note`` all in each interval, bit by bit. Where writing takes long, others have their turn in between."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            pause_s = interval_s / min(MOST_PARTS, max(1, -(-len(self.watched) // PART_CALLS)))
            due_s = max(due_s + pause_s, loop.time() + pause_s / 2)
            await asyncio.sleep(due_s - loop.time())
            await self.note(max(PART_CALLS, -(-len(self.watched) // MOST_PARTS)))

    async def note(self, most: int | None = None) -> None:
        """Write what has changed of so many calls, or of all: those that were looked at longest ago."""
        watched, changed = self.watched, dict[str, Accrued]()
        for request_id in list(islice(watched, most)):
            accrued = watched.pop(request_id)
            try:
                now = accrued()
            except Exception:  # one call's fault must not be that of all others
                log.exception("what a call delivered cannot be told", extra={"request_id": request_id})
                continue
            watched[request_id] = accrued
            if now is not None and self._noted.get(request_id) != now:
                changed[request_id] = now
        if not changed:
            return
        try:
            await self._ledger.checkpoint(changed)
        except (Unavailable, StorageError) as exc:
            log.warning("what running calls delivered could not be noted: %s", exc)
        else:
            self._noted.update((each, now) for each, now in changed.items() if each in watched)
