"""Which requests are a key's: an index that is made behind the ledger's rows, in runs of some thousands.

An ordinary index by key would take a page for nearly every row once many keys are in use: half as much again as all
else that a row costs. So ``requests_by_run`` gets its entries a *slice* at a time, when ``SLICE_ROWS`` rows have come
together, sorted by key, in one statement that writes into the few pages at the table's end. ``RUN_ROWS`` rows are a
run. Rows never change key or beginning, so nothing is done twice. Whoever looks for a key's requests looks into each
run, one seek each, and reads what is newer than the last whole run as it is.

Old rows go one day, the first numbers first (``months.py``). Their entries lead nowhere then, and go when all rows of
their run have gone, run by run. The last run stays, which says how far the index has come.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.open_rows import move_mark
from bitmesh_proxy.storage.writer import Failed

log = logging.getLogger(__name__)

#: Each look for a key takes one seek for each run.
RUN_ROWS: Final = 8192
#: An entry takes about 1 us of the writer's time, and calls wait meanwhile: a run at once held up a dozen of them, at a
#: thousand a second, for 10 ms.
SLICE_ROWS: Final = 512


class Runs:
    """Has runs made while openings are counted. On the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: How many openings until the next look. The first opening looks, for nobody knows how those before us ended.
        self.openings_left = 0

    def look(self) -> None:
        """Have a slice entered if there are rows for one, and look again ``SLICE_ROWS`` openings later.

        The mark behind which open rows are looked for (``open_rows.py``) moves at the same times.
        """
        self.openings_left = SLICE_ROWS
        try:
            self._database.submit_now(_look, self._looked)
        except Unavailable:  # the books have other worries, and the rows can wait
            log.info("too busy to index requests")

    def _looked(self, result: Failed | bool) -> None:
        if result is True:
            self.look()
        elif result is not False:
            log.error("requests could not be indexed", exc_info=result.error)


def _look(connection: sqlite3.Connection) -> bool:
    move_mark(connection, SLICE_ROWS)
    return extend_runs(connection)


def extend_runs(connection: sqlite3.Connection, run_rows: int = RUN_ROWS, slice_rows: int = SLICE_ROWS) -> bool:
    """Enter one slice, if there are rows for it; the last makes its run whole. Whether it did.

    An operation of the writer's. How far the run has come is read from its entries, because others make it too.
    """
    ((last_run, last, summed_up),) = connection.execute(_LAST_RUN).fetchall()
    ((newest,),) = connection.execute("SELECT max(number) FROM requests").fetchall()
    run, end = last_run + 1, last + run_rows
    ((entered,),) = connection.execute(_ENTERED, {"run": run, "last": last, "end": end, "rows": slice_rows}).fetchall()
    entered += max(0, summed_up - entered) // slice_rows * slice_rows  # those rows have gone, entered or not
    until = min(entered + slice_rows, end)
    if newest is None or newest < until:
        return False
    made = connection.execute(_ENTRIES, {"run": run, "first": entered + 1, "last": until}).rowcount
    if until == end:
        made += connection.execute(_RUN, {"run": run, "first": last + 1, "last": end}).rowcount
    return made > 0


def shrink_runs(connection: sqlite3.Connection, entries: int) -> bool:
    """Take so many entries out of the oldest run, if all its rows have gone. The run goes with the last. Was there one?

    An operation of the writer's.
    """
    found = connection.execute(_EMPTY_RUN).fetchall()
    if not found:
        return False
    ((run,),) = found
    if connection.execute(_TAKE_OUT, {"run": run, "entries": entries}).rowcount < entries:
        connection.execute("DELETE FROM request_runs WHERE number = ?", (run,))
    return True


_LAST_RUN = """
SELECT coalesce(max(number), 0), coalesce((SELECT last_request FROM request_runs ORDER BY number DESC LIMIT 1), 0),
       (SELECT last_request FROM summed_up)
FROM request_runs
"""

#: The last row of the last slice that is there. Two seeks for each slice: the greatest of the run's entries would take
#: reading them all, which is as much work as making a slice.
_ENTERED = """
WITH RECURSIVE slices (last) AS (
    SELECT :last + :rows UNION ALL SELECT last + :rows FROM slices WHERE last + :rows < :end
)
SELECT coalesce(max(number), :last)
FROM slices
CROSS JOIN requests ON number = slices.last
CROSS JOIN requests_by_run AS entry ON entry.run = :run AND entry.key = requests.key AND entry.request = number
"""

#: (Some are there already where slices had another size.)
_ENTRIES = """
INSERT OR IGNORE INTO requests_by_run (run, key, request)
SELECT :run, key, number FROM requests WHERE number BETWEEN :first AND :last ORDER BY key, number
"""

_RUN = """
INSERT INTO request_runs (number, first_request, last_request, first_started_at_ms, last_started_at_ms)
SELECT :run, :first, :last, coalesce(min(started_at_ms), 0), coalesce(max(started_at_ms), 0)
FROM requests WHERE number BETWEEN :first AND :last
"""

_EMPTY_RUN = """
SELECT number FROM request_runs
WHERE number = (SELECT min(number) FROM request_runs) AND number < (SELECT max(number) FROM request_runs)
  AND last_request <= (SELECT last_request FROM summed_up)
"""

_TAKE_OUT = """
DELETE FROM requests_by_run WHERE run = :run AND (key, request) IN (
    SELECT key, request FROM requests_by_run WHERE run = :run ORDER BY key, request LIMIT :entries
)
"""
