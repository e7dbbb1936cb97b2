"""Copying the write-ahead log back into the database's file, beside the writer and not within its commits.

SQLite would do it at the end of the commit that makes the log longer than 1,000 pages: with busy books that was one
commit in fifty, which took twenty times as long as the others, for it forces two files to the disk. Here a thread of
its own looks once in ``INTERVAL_S`` and copies what there is (``PASSIVE``: nobody waits for it).

While writing goes on there is always a little more in the log than was copied, and the log starts over only once
nothing is. So when it has grown to ``MAX_LOG_PAGES``, the writer copies the last few pages itself, between two batches
and after it has delivered. A long report holds the log as it was when the report began; then it grows until that ends.
https://sqlite.org/wal.html#avoiding_excessively_large_wal_files, read 2026-11-22.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable

from bitmesh_proxy.storage.writer import Writer

logger = logging.getLogger(__name__)

#: So much may be left to copy at a sudden end; the next start does it.
INTERVAL_S = 0.5
#: 4 KiB each. As a file the log keeps its greatest length. (A thousand calls a second write 5,000 pages. The writer's
#: own copying waits for the disk for some 4 ms, and calls with it: every six seconds is seldom enough.)
MAX_LOG_PAGES = 32_000

#: Gives whether it was hindered, the log's pages, and how many of them have been copied by now.
CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"


class Checkpoints:
    """See the module's docstring. ``connect`` runs in the thread; ``start`` and ``close`` at most once each."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        writer: Writer,
        *,
        interval_s: float = INTERVAL_S,
        max_log_pages: int = MAX_LOG_PAGES,
    ) -> None:
        self._connect = connect
        self._writer = writer
        self._interval_s = interval_s
        self._max_log_pages = max_log_pages
        self._commits_seen = 0
        self._in_trouble = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="database-checkpoints", daemon=True)

    def start(self) -> None:
        """Begin to look now and then."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, after the copying that is under way. Blocks: not for the event loop."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while not self._ending.wait(self._interval_s):
            commits = self._writer.commits
            if commits == self._commits_seen:
                continue
            try:
                connection = connection or self._connect()
                self.look(connection)
                self._commits_seen = commits
                self._in_trouble = False
            except sqlite3.Error as exc:
                # The books are written all the same, into the log: what stands still is only its end.
                if not self._in_trouble:
                    logger.warning("the write-ahead log cannot be copied: %s", exc)
                self._in_trouble = True
                if connection is not None:
                    connection.close()
                    connection = None
        if connection is not None:
            connection.close()

    def look(self, connection: sqlite3.Connection) -> None:
        """Copy what there is; ask the writer for the rest if the log has become long. In the thread."""
        _, log_pages, _ = connection.execute(CHECKPOINT).fetchall()[0]
        if log_pages >= self._max_log_pages:
            # What was written during the first pass, so that little is left for the writer to wait for.
            connection.execute(CHECKPOINT).fetchall()
            self._writer.checkpoint_soon()
