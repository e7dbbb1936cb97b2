"""Which requests are a key's: an index that is made behind the ledger's rows, in runs of some thousands.

An ordinary index by key would take a page for nearly every row once many keys are in use: half as much again as all
else that a row costs. So ``requests_by_run`` gets its entries only when ``RUN_ROWS`` rows have come together, sorted by
key, in one statement that writes at the table's end. Rows never change key or beginning, so nothing is done twice.
Whoever looks for a key's requests looks into each run, one seek each, and reads what is newer than the last run as it
is.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.writer import Failed

log = logging.getLogger(__name__)

#: A run takes about 1 us a row of the writer's time, at once; and each look for a key one seek for each run.
RUN_ROWS: Final = 8192


class Runs:
    """Has runs made while openings are counted. On the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: How many openings until the next look. The first opening looks, for nobody knows how those before us ended.
        self.openings_left = 0

    def look(self) -> None:
        """Have a run made if there are rows for one, and look again ``RUN_ROWS`` openings later."""
        self.openings_left = RUN_ROWS
        try:
            self._database.submit_now(extend_runs, self._looked)
        except Unavailable:  # the books have other worries, and the rows can wait
            log.info("too busy to index requests")

    def _looked(self, result: Failed | bool) -> None:
        if result is True:
            self.look()
        elif result is not False:
            log.error("requests could not be indexed", exc_info=result.error)


def extend_runs(connection: sqlite3.Connection, run_rows: int = RUN_ROWS) -> bool:
    """Make one run, if there are rows for it. Whether it did. An operation of the writer's."""
    ((run, last),) = connection.execute(_LAST_RUN).fetchall()
    ((newest,),) = connection.execute("SELECT max(number) FROM requests").fetchall()
    if newest is None or newest - last < run_rows:
        return False
    span = {"run": run + 1, "first": last + 1, "last": last + run_rows}
    connection.execute(_ENTRIES, span)
    connection.execute(_RUN, span)
    return True


_LAST_RUN = """
SELECT coalesce(max(number), 0), coalesce((SELECT last_request FROM request_runs ORDER BY number DESC LIMIT 1), 0)
FROM request_runs
"""

_ENTRIES = """
INSERT INTO requests_by_run (run, key, request)
SELECT :run, key, number FROM requests WHERE number BETWEEN :first AND :last ORDER BY key, number
"""

_RUN = """
INSERT INTO request_runs (number, first_request, last_request, first_started_at_ms, last_started_at_ms)
SELECT :run, :first, :last, coalesce(min(started_at_ms), 0), coalesce(max(started_at_ms), 0)
FROM requests WHERE number BETWEEN :first AND :last
"""
