"""Making the database's file smaller.

What was deleted leaves free pages, and later rows take those: the file does not grow while there are any. It shrinks
only when it is written anew as a whole, and meanwhile nobody else can write.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.instances import census


async def is_served(database: Database) -> bool:
    """Does a process that serves have this database open?"""
    async with census(database, forget=False) as found:
        return bool(found.alive)


def vacuum(path: Path, *, timeout_s: float = 5.0) -> tuple[int, int]:
    """Write the file anew, without free pages; its size before and after, in bytes. Whole or not at all.

    Takes a while, and twice the room of what is kept: for a copy among temporary files, and for the write-ahead log.
    Raises StorageError when there is not so much room, or somebody else has the file in use.
    """
    before = path.stat().st_size
    address = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=timeout_s, isolation_level=None)
    try:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as exc:
        raise StorageError(f"{path} cannot be written anew: {exc}") from exc
    finally:
        connection.close()
    return before, path.stat().st_size
