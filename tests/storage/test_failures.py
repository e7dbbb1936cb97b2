from __future__ import annotations

import sqlite3

import pytest

from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.failures import as_unavailable, is_busy, is_trouble


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


def test_cause_is_kept_and_not_told() -> None:
    cause = reported(sqlite3.SQLITE_FULL)
    error = as_unavailable(cause)
    assert isinstance(error, Unavailable)
    assert error.__cause__ is cause
    assert "made up" not in error.message
