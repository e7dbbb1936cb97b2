"""Numbers for the names that stand in every row of the ledger: endpoints, models, providers.

On the event loop a name's number is looked up once and remembered; only committed numbers are, so a transaction that is
rolled back leaves nothing wrong behind. A name that has no number yet gets one within the operation that needs it.
"""

from __future__ import annotations

import sqlite3

from bitmesh_proxy.storage.database import Database

#: Names come from the program and its catalogue; more than this is a mistake, and is then looked up each time.
MAX_REMEMBERED = 50_000

#: A name and, if it has one already, its number.
Name = tuple[str, int | None]


class Names:
    """See the module's docstring."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers: dict[str, int] = {}

    def find(self, name: str) -> Name:
        """Called on the event loop, before the operation is submitted."""
        number = self._numbers.get(name)
        if number is None:
            row = self._database.lookup("SELECT number FROM names WHERE name = ?", (name,))
            if row is not None:
                number = row[0]
                if len(self._numbers) < MAX_REMEMBERED:
                    self._numbers[name] = row[0]
        return name, number


def number_of(connection: sqlite3.Connection, name: Name) -> int:
    """Called within the operation: the number, made if need be."""
    text, number = name
    if number is None:
        connection.execute("INSERT INTO names (name) VALUES (?) ON CONFLICT (name) DO NOTHING", (text,))
        number = int(connection.execute("SELECT number FROM names WHERE name = ?", (text,)).fetchall()[0][0])
    return number
