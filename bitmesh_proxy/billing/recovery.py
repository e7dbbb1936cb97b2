"""What a dead process left open is closed at the next start, before the first call is taken.

A request with an open job stays open: the job goes on. Any other is charged what had been noted as delivered, and no
more; the figure is an estimate and its outcome says ``interrupted``. Requests of processes that live are left alone, so
that a second process, or the command line beside a running server, does no harm.
"""

from __future__ import annotations

import logging

from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.idempotency import IdempotencyStore
from bitmesh_proxy.storage.instances import census
from bitmesh_proxy.storage.ledger import LedgerStore

log = logging.getLogger(__name__)


async def recover(database: Database, ledger: LedgerStore, idempotency: IdempotencyStore) -> int:
    """Resolve what dead processes left; gives how many requests were closed. May be run at any time."""
    async with census(database) as found:
        closed = await ledger.resolve_interrupted(alive=found.alive, newest=found.newest)
        await idempotency.resolve_interrupted(alive=found.alive, newest=found.newest)
    if closed:
        log.warning("%d requests of an earlier process were interrupted and have been closed", closed)
    return closed
