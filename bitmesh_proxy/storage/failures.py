"""What goes wrong below us: ``StorageError`` (no start is possible, or a bug of ours) or ``Unavailable`` (try later).

The driver's exceptions end here: nothing outside this room catches ``sqlite3.Error``.
"""

from __future__ import annotations

import errno
import sqlite3

from bitmesh_proxy.errors import Unavailable


class StorageError(Exception):
    """The database cannot be used as it is: newer than the program, not ours, damaged, or used wrongly by our code."""


#: Primary result codes that speak of the disk, the lock or the file, not of the statement that met them. Every
#: operation of the batch is hit alike. https://sqlite.org/rescode.html, read 2026-08-20.
_TROUBLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
    }
)


#: Of these, what may be over at another try: others' locks, and want of room, memory or files.
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_PASSING_ERRNOS = frozenset(
    {errno.EAGAIN, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ESTALE}
)


def _primary_code(exc: sqlite3.Error) -> int | None:
    # Only errors that SQLite itself reported carry a code; extended codes keep the primary one in the low byte.
    code: int | None = getattr(exc, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def is_trouble(exc: BaseException) -> bool:
    """Is the database itself unusable at this moment, whatever was asked of it?"""
    return isinstance(exc, sqlite3.Error) and _primary_code(exc) in _TROUBLE


def is_busy(exc: BaseException) -> bool:
    """Did another process hold the lock for longer than the busy timeout?"""
    return isinstance(exc, sqlite3.Error) and _primary_code(exc) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def may_pass(exc: BaseException | None) -> bool:
    """May it be over at another try? Or is it, or what it came from, such that somebody has to mend something."""
    while exc is not None:
        if isinstance(exc, sqlite3.Error) and _primary_code(exc) in _PASSING:
            return True
        if isinstance(exc, Unavailable) or (isinstance(exc, OSError) and exc.errno in _PASSING_ERRNOS):
            return True
        exc = exc.__cause__
    return False


def is_double(exc: sqlite3.IntegrityError) -> bool:
    """Was a value refused because it is in use already?"""
    return exc.sqlite_errorcode in (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)


def as_unavailable(exc: BaseException) -> Unavailable:
    """What a caller gets for trouble. The cause hangs on it for the log; the message tells nothing of it."""
    unavailable = Unavailable("The books cannot be written at the moment. Please try again.")
    unavailable.__cause__ = exc
    return unavailable


def said_to_operators(exc: BaseException) -> str:
    """An error in words for who may know what the database said, and can do something about it."""
    if isinstance(exc, Unavailable) and isinstance(exc.__cause__, sqlite3.Error):
        return f"the database cannot be used: {exc.__cause__}"
    return str(exc)
