"""Which requests are a key's: an index that is made behind the ledger's rows, in runs of some thousands.

An ordinary index by key would take a page for nearly every row once many keys are in use: half as much again as all
else that a row costs. So ``requests_by_run`` gets its entries when ``RUN_ROWS`` rows have come together, a *run*: they
are read, sorted by key, and entered in that order, which writes to the table's end alone. All this is done a *slice* at
a time, for calls wait meanwhile. Whoever looks for a key's requests looks into each run, one seek each, and reads what
is newer than the last whole run as it is.

Rows never change key or beginning, so it does no harm when two processes make the same run, and a run that was left
half made is made again.

Old rows go one day, the first numbers first (``months.py``). Their entries lead nowhere then, and go when all rows of
their run have gone, run by run. The last run stays, which says how far the index has come.
"""

from __future__ import annotations

import logging
import sqlite3
from functools import partial
from typing import Final

import msgspec

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.open_rows import move_mark
from bitmesh_proxy.storage.writer import Failed

log = logging.getLogger(__name__)

#: Each look for a key takes one seek for each run.
RUN_ROWS: Final = 8192
#: So many rows are read, or entered, in one go, which takes the writer half a millisecond.
SLICE_ROWS: Final = 512


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One that is being made, between two steps."""

    number: int
    first: int
    last: int
    #: Up to which request it has been read.
    read: int
    #: Of each row its key, and in the lowest ``place_bits`` how far it is from the first. Sorted when all are read.
    places: list[int]
    #: The earliest and the latest beginning of each slice.
    started_at_ms: list[int]
    #: How many of the places have been entered.
    entered: int = 0

    @property
    def place_bits(self) -> int:
        """How many bits a row's distance from the first takes."""
        return (self.last - self.first).bit_length()


class Runs:
    """Has runs made while openings are counted. On the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: How many openings until the next look. The first opening looks, for nobody knows how those before us ended.
        self.openings_left = 0
        self._run: Run | None = None

    def look(self) -> None:
        """Have a run made if there are rows for one, step by step, and look again ``SLICE_ROWS`` openings later.

        The mark behind which open rows are looked for (``open_rows.py``) moves at the same times.
        """
        self.openings_left = SLICE_ROWS
        try:
            self._database.submit_now(partial(_look, self._run), self._looked)
        except Unavailable:  # the books have other worries, and the rows can wait
            log.info("too busy to index requests")

    def _looked(self, result: Failed | Run | None) -> None:
        if isinstance(result, Failed):
            log.error("requests could not be indexed", exc_info=result.error)
            return
        self._run = result
        if result is not None:
            self.look()


def _look(run: Run | None, connection: sqlite3.Connection) -> Run | None:
    move_mark(connection, SLICE_ROWS)
    return extend_runs(connection, run)


def extend_runs(
    connection: sqlite3.Connection, run: Run | None = None, *, run_rows: int = RUN_ROWS, slice_rows: int = SLICE_ROWS
) -> Run | None:
    """Go one step on with ``run``, or begin the next one if its rows are there. The run after that step, or None.

    An operation of the writer's. A run of a single slice takes a single step.
    """
    ((last_run, last, newest),) = connection.execute(_LAST_RUN).fetchall()
    if run is None or run.number != last_run + 1:  # made, by us or by another process
        if newest < last + run_rows:
            return None
        run = Run(number=last_run + 1, first=last + 1, last=last + run_rows, read=last, places=[], started_at_ms=[])
    if run.read < run.last:
        run = _read(connection, run, slice_rows)
        if run.read < run.last or len(run.places) > slice_rows:
            return run
    return _enter(connection, run, slice_rows)


def _read(connection: sqlite3.Connection, run: Run, rows: int) -> Run:
    until = min(run.read + rows, run.last)
    given = {"bits": run.place_bits, "first": run.first, "above": run.read, "until": until}
    # One row for all: between two rows the driver lets other threads go on, and waits for its turn.
    ((found, earliest_ms, latest_ms),) = connection.execute(_READ, given).fetchall()
    places = run.places + msgspec.json.decode(found, type=list[int])
    if until == run.last:
        places.sort()
    started_at_ms = run.started_at_ms if earliest_ms is None else [*run.started_at_ms, earliest_ms, latest_ms]
    return msgspec.structs.replace(run, read=until, places=places, started_at_ms=started_at_ms)


def _enter(connection: sqlite3.Connection, run: Run, rows: int) -> Run:
    bits = run.place_bits
    entered = min(run.entered + rows, len(run.places))
    places = msgspec.json.encode(run.places[run.entered : entered]).decode()
    given = {"run": run.number, "first": run.first, "bits": bits, "mask": (1 << bits) - 1, "places": places}
    connection.execute(_ENTER, given)
    if entered == len(run.places):
        began = min(run.started_at_ms, default=0), max(run.started_at_ms, default=0)
        connection.execute("INSERT INTO request_runs VALUES (?, ?, ?, ?, ?)", (run.number, run.first, run.last, *began))
    return msgspec.structs.replace(run, entered=entered)


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
       coalesce((SELECT number FROM requests ORDER BY number DESC LIMIT 1), 0)
FROM request_runs
"""

#: (Rows that have gone are not missed: nobody finds them any more.)
_READ = """
SELECT json_group_array(key << :bits | number - :first), min(started_at_ms), max(started_at_ms)
FROM requests WHERE number > :above AND number <= :until
"""

#: (Some are there already where another process makes the run too, or where it was left half made.)
_ENTER = """
INSERT OR IGNORE INTO requests_by_run (run, key, request)
SELECT :run, value >> :bits, :first + (value & :mask) FROM json_each(:places)
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
