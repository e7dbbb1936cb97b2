"""Numbers for the names that stand in every row of the ledger: endpoints, models, providers.

On the event loop a name's number is looked up once and remembered; only committed numbers are, so a transaction that is
rolled back leaves nothing wrong behind. A name without a number gets one within the operation that needs it first.
"""

from __future__ import annotations

import sqlite3

from bitmesh_proxy.storage.database import Database

#: A name as it is, or its number in the books for whoever has that already.
NameOrNumber = str | int

#: Names come from the program and its catalogue; more than this is a mistake, and is then looked up each time.
MAX_REMEMBERED = 50_000


class Names:
    """See the module's docstring."""

    def __init__(self, database: Database) -> None:
        self._database = database
        #: The numbers that are remembered; each is above 0.
        self.known: dict[str, int] = {}

    def find(self, name: str) -> int | None:
        """The name's number, None when it has none yet. On the event loop."""
        number = self.known.get(name)
        if number is None:
            row = self._database.lookup("SELECT number FROM names WHERE name = ?", (name,))
            if row is None:
                return None
            number = int(row[0])
            if len(self.known) < MAX_REMEMBERED:
                self.known[name] = number
        return number


def make_number(connection: sqlite3.Connection, name: NameOrNumber) -> int:
    """The name's number, made if need be. Within an operation."""
    if isinstance(name, int):
        return name
    connection.execute("INSERT INTO names (name) VALUES (?) ON CONFLICT (name) DO NOTHING", (name,))
    return int(connection.execute("SELECT number FROM names WHERE name = ?", (name,)).fetchall()[0][0])
