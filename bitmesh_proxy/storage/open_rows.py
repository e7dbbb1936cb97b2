"""Which requests are open: those behind a mark, and those that were open when the mark passed them.

An index of open rows is written twice for every request and read when a process starts. Instead ``move_mark`` looks
once at each row, some thousands of rows after it came, and notes in ``late_requests`` those that are open still. A
closed row does not open again, so the view ``open_requests`` has every open row whenever it is asked: it looks at what
was noted and at the rows behind the mark.
"""

from __future__ import annotations

import sqlite3
from typing import Final

#: So many rows have come since, at least, when a row is looked at. Nearly all are closed by then, and need no note; and
#: so many are looked at by whoever asks for open ones, which takes a few milliseconds.
LAG_ROWS: Final = 4096


def move_mark(connection: sqlite3.Connection, step_rows: int, lag_rows: int = LAG_ROWS) -> bool:
    """Move it on if that is ``step_rows`` at least. Whether it did. An operation of the writer's."""
    ((mark, newest),) = connection.execute(_MARK_AND_NEWEST).fetchall()
    until = newest - lag_rows
    if until < mark + step_rows:
        return False
    connection.execute(_FORGET)
    connection.execute(_NOTE, (mark, until))
    connection.execute("UPDATE open_mark SET last_request = ?", (until,))
    return True


_MARK_AND_NEWEST = """
SELECT last_request, coalesce((SELECT number FROM requests ORDER BY number DESC LIMIT 1), 0) FROM open_mark
"""

_FORGET = """
DELETE FROM late_requests WHERE NOT EXISTS (
    SELECT 1 FROM requests WHERE requests.number = late_requests.number AND state = 'open'
)
"""

#: (Some are noted already where the mark went back.)
_NOTE = """
INSERT OR IGNORE INTO late_requests (number)
SELECT number FROM requests WHERE number > ? AND number <= ? AND state = 'open'
"""
