"""What a first start makes in its data directory: made once in each process that tests, then laid out again as bytes.

To make the tables and to read the catalogue anew takes longer than most tests that need them. Both files are the
package's own work, and both are asked on opening whether they fit: a database is migrated as far as it lacks, and a
catalogue kept from other files, providers or code is read anew.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from functools import cache
from pathlib import Path

from bitmesh_proxy.catalogue.kept import KEPT_NAME, load_kept_catalogue
from bitmesh_proxy.catalogue.loader import catalogue_dirs
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.storage.database import DATABASE_NAME
from bitmesh_proxy.storage.migrations import load_migrations, migrate
from bitmesh_proxy.upstream.access import provider_names


@cache
def empty_database() -> bytes:
    """The file of a database that has all tables, and nothing in them."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / DATABASE_NAME
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection, path)
        finally:
            connection.close()
        return path.read_bytes()


@cache
def kept_catalogue() -> bytes:
    """The file in which the shipped catalogue is kept."""
    settings = load_settings(environ={})
    with tempfile.TemporaryDirectory() as directory:
        load_kept_catalogue(catalogue_dirs(settings), providers=provider_names(settings), directory=Path(directory))
        return (Path(directory) / KEPT_NAME).read_bytes()


def lay_database(path: Path) -> None:
    """An empty database at ``path``, unless there is something already. It is for us only, as one that is made there.

    Reads and writes files: not for the event loop, as ``furnish``.
    """
    _lay(path, empty_database())


def make_older_database(path: Path) -> None:
    """One of the schema before the last, as an older version left it. In time as ``lay_database``."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        migrate(connection, path, load_migrations()[:-1])
    finally:
        connection.close()


def furnish(data_dir: Path, settings: Settings) -> None:
    """Make ``data_dir`` as the first start of a gateway with ``settings`` leaves it, without the secret."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lay_database(data_dir / DATABASE_NAME)
    if not settings.catalogue.dir:
        _lay(data_dir / KEPT_NAME, kept_catalogue())


def _lay(path: Path, content: bytes) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "wb") as file:
        file.write(content)
