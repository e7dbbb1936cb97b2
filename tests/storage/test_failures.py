from __future__ import annotations

import errno
import sqlite3

import pytest

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.failures import StorageError, as_unavailable, is_busy, is_trouble, may_pass


def reported(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("made up")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "trouble", "busy"),
    [
        (sqlite3.SQLITE_BUSY, True, True),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, True, True),
        (sqlite3.SQLITE_LOCKED, True, True),
        (sqlite3.SQLITE_FULL, True, False),
        (sqlite3.SQLITE_IOERR_FSYNC, True, False),
        (sqlite3.SQLITE_READONLY, True, False),
        (sqlite3.SQLITE_CANTOPEN, True, False),
        (sqlite3.SQLITE_ERROR, False, False),
        (sqlite3.SQLITE_CONSTRAINT_CHECK, False, False),
        (sqlite3.SQLITE_CONSTRAINT_TRIGGER, False, False),
        (sqlite3.SQLITE_MISUSE, False, False),
    ],
)
def test_trouble_is_told_from_bugs_by_the_code(code: int, trouble: bool, busy: bool) -> None:
    assert is_trouble(reported(code)) is trouble
    assert is_busy(reported(code)) is busy


def test_errors_without_a_code_are_no_trouble() -> None:
    assert not is_trouble(sqlite3.ProgrammingError("Cannot operate on a closed database."))
    assert not is_trouble(OSError())


@pytest.mark.parametrize(
    ("cause", "passes"),
    [
        (reported(sqlite3.SQLITE_BUSY), True),
        (reported(sqlite3.SQLITE_FULL), True),
        (reported(sqlite3.SQLITE_IOERR_SHMSIZE), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (Unavailable("The books cannot be written at the moment."), True),
        (reported(sqlite3.SQLITE_NOTADB), False),
        (reported(sqlite3.SQLITE_READONLY), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (ValueError(), False),
        (None, False),
    ],
)
def test_what_another_try_may_mend_is_told_from_what_somebody_has_to(cause: Exception | None, passes: bool) -> None:
    error = StorageError("x.db")
    error.__cause__ = cause
    assert may_pass(cause) is may_pass(error) is passes


def test_cause_is_kept_and_not_told() -> None:
    cause = reported(sqlite3.SQLITE_FULL)
    error = as_unavailable(cause)
    assert isinstance(error, Unavailable)
    assert error.__cause__ is cause
    assert "made up" not in error.message
