"""Numbered migrations, ``schema/NNNN_verb_noun.sql``: each applied once, in order, all or none; never edited.

SQLite's own ``user_version`` says how far a file has come and ``application_id`` that it is ours. A file that is newer
than the program is refused: older code would write rows that newer rules forbid. For the same reason an older one is
refused as long as a process serves it, which can only be of an older version. Before an existing file is changed, a
copy is laid beside it (``books.sqlite3.before-0002``).
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import msgspec

from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.lock_files import see_that_nobody_serves

log = logging.getLogger(__name__)

#: "BMPX" in ASCII.
APPLICATION_ID = 0x424D5058

#: STRICT tables came with 3.37, https://sqlite.org/stricttables.html.
MIN_SQLITE_VERSION = (3, 37, 0)

_FILE_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One file of ``schema/``."""

    number: int
    name: str
    sql: str


def load_migrations() -> tuple[Migration, ...]:
    """The migrations that come with the program, in order. Raises StorageError when a number is missing or doubled."""
    found = [
        Migration(number=int(match[1]), name=entry.name, sql=entry.read_text(encoding="utf-8"))
        for entry in (files("bitmesh_proxy.storage") / "schema").iterdir()
        if (match := _FILE_NAME.match(entry.name))
    ]
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise StorageError(f"the migrations are not numbered without gaps: {[each.name for each in found]}")
    return tuple(found)


def migrate(
    connection: sqlite3.Connection,
    path: Path,
    migrations: Sequence[Migration] | None = None,
    *,
    on_begin: Callable[[], object] | None = None,
) -> None:
    """Bring the database behind ``connection`` (autocommit mode) up to date.

    All that is missing is done in one transaction, so that no process ever sees a file between two versions. Safe when
    several start at once: each looks at the version under the write lock. ``on_begin`` is called before a file with
    something in it is copied and changed, which takes as long as there is much in it.
    Raises StorageError for a file that is newer, or not ours, or older and served by another process.
    """
    if sqlite3.sqlite_version_info < MIN_SQLITE_VERSION:
        raise StorageError(f"SQLite {sqlite3.sqlite_version} is too old: at least 3.37 is needed")
    known = load_migrations() if migrations is None else migrations
    connection.execute("BEGIN")  # all that is looked at is of one moment
    try:
        is_up_to_date = _check_version(connection, path, known) == len(known)
    finally:
        connection.execute("ROLLBACK")
    if is_up_to_date:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _check_version(connection, path, known)  # another process may have been faster
        if 0 < version < len(known):  # a file that is made just now needs no copy
            _leave_to_a_running_service(path, version, known)
            log.info("%s is brought up to date: from schema %d to %d", path, version, len(known))
            if on_begin is not None:
                on_begin()
            _lay_copy_beside(path, known[version])
        for migration in known[version:]:
            _apply(connection, migration)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check_version(connection: sqlite3.Connection, path: Path, known: Sequence[Migration]) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application_id = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if application_id != APPLICATION_ID:
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if application_id or version or tables:
            raise StorageError(f"{path} is a database of another program")
    if version > len(known):
        raise StorageError(
            f"{path} was written by a newer version of bitmesh-proxy (schema {version}, this program knows "
            f"{len(known)}). Install that version again, or restore the copy that was made before the migration."
        )
    return version


def _leave_to_a_running_service(path: Path, version: int, known: Sequence[Migration]) -> None:
    try:
        see_that_nobody_serves(path)
    except BlockingIOError as exc:
        raise StorageError(
            f"{path} is in use by a running service of an older version of bitmesh-proxy (schema {version}, this "
            f"program makes {len(known)} of it). Restart that service with this version, and its start brings the "
            "database up to date; until then give commands with the version that is running."
        ) from exc


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    for statement in split_statements(migration.sql):
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            raise StorageError(f"migration {migration.name}: {exc}") from exc
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {migration.number}")


def split_statements(sql: str) -> Iterator[str]:
    """The statements of a script, triggers whole. (``executescript`` would commit before it starts.)"""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if any(line.strip() and not line.lstrip().startswith("--") for line in statement.splitlines()):
        raise StorageError(f"a migration ends within a statement: {statement.strip()[:80]!r}")


def _lay_copy_beside(path: Path, migration: Migration) -> None:
    """Copy the committed state. The caller holds the write lock, so nothing changes meanwhile."""
    target = path.with_name(f"{path.name}.before-{migration.number:04d}")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source:
            with closing(sqlite3.connect(partial)) as copy:
                source.backup(copy)
    except sqlite3.Error as exc:
        partial.unlink(missing_ok=True)
        size = f"{path.stat().st_size / 2**20:,.1f} MiB"
        raise StorageError(
            f"{path} has to be brought up to date, and before that a copy of it ({size}) laid beside it: {exc}"
        ) from exc
    partial.chmod(0o600)
    partial.replace(target)
