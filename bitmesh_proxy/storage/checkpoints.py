"""Copying the write-ahead log back into the database's file, beside the writer and not within its commits.

SQLite would do it at the end of the commit that makes the log longer than 1,000 pages: with busy books that was one
commit in fifty, which took twenty times as long as the others, for it forces two files to the disk. Here a thread of
its own looks once in ``INTERVAL_S`` and copies what there is (``PASSIVE``: nobody waits for it).

While writing goes on there is always a little more in the log than was copied, and the log starts over only once
nothing is. So when it has grown to ``MAX_LOG_PAGES``, the writer copies the last few pages itself, between two batches
and after it has delivered. A long report holds the log as it was when the report began; then it grows until that ends.
https://sqlite.org/wal.html#avoiding_excessively_large_wal_files, read 2026-11-22.

A long log is written over from its beginning, and what is no longer in the system's page cache has to be read from the
disk for that (a frame does not end where a block ends). So a log that nobody has written to for ``IDLE_S`` is cut to
nothing: the next calls append, which reads nothing, and the disk has its space back.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bitmesh_proxy.storage.writer import Writer

logger = logging.getLogger(__name__)

#: So much may be left to copy at a sudden end; the next start does it.
INTERVAL_S = 0.5
#: 4 KiB each. As a file the log keeps its greatest length, until it is idle. (A thousand calls a second write 6,000
#: pages. The writer's own copying waits for the disk for some 4 ms, and calls with it: every second or two is seldom
#: enough. With four times as many, more of them had left the page cache when they were written over.)
MAX_LOG_PAGES = 8_000
#: A log this old is idle, and is cut when it is longer than this.
IDLE_S = 5.0
LONG_LOG_BYTES = 4 * 1024 * 1024

#: Gives whether it was hindered, the log's pages, and how many of them have been copied by now.
CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
#: Copies what is left and cuts the log, if nobody reads or writes.
CUT = "PRAGMA wal_checkpoint(TRUNCATE)"


class Checkpoints:
    """See the module's docstring. ``connect`` runs in the thread; ``start`` and ``close`` at most once each.

    ``path`` is the database's. ``connect`` gives connections that do not wait for locks: what is hindered now is tried
    again, and nobody waits for it meanwhile.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        path: Path,
        writer: Writer,
        *,
        interval_s: float = INTERVAL_S,
        max_log_pages: int = MAX_LOG_PAGES,
        idle_s: float = IDLE_S,
    ) -> None:
        self._connect = connect
        self._log = path.with_name(path.name + "-wal")
        self._writer = writer
        self._interval_s = interval_s
        self._max_log_pages = max_log_pages
        self._idle_s = idle_s
        self._next_cut_s = 0.0
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
            if commits == self._commits_seen and not self._is_cut_due():
                continue
            try:
                connection = connection or self._connect()
                if commits == self._commits_seen:
                    connection.execute(CUT).fetchall()
                else:
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

    def _is_cut_due(self) -> bool:
        """Is the log long, and has no process written to it for a while? Asked for seldom."""
        now_s = time.monotonic()
        if now_s < self._next_cut_s:
            return False
        self._next_cut_s = now_s + self._idle_s
        with contextlib.suppress(OSError):
            log = self._log.stat()
            return log.st_size > LONG_LOG_BYTES and time.time() - log.st_mtime >= self._idle_s
        return False
