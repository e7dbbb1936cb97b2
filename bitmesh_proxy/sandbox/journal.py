"""Clips that are being made, in a file beside the database, so that a restart does not make the sandbox forget them.

A provider goes on with its work while we restart; one that is played in our own process has to remember it. There is a
line of JSON for each clip's job and file. Links name the origin of the sandbox, which may be another one at the next
start, so that it is put in anew. What cannot be written or read is left out: this is play.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from bitmesh_proxy.sandbox.jobs import Job
from bitmesh_proxy.sandbox.movies import Movie
from bitmesh_proxy.sandbox.shelf import ShelvedFile
from bitmesh_proxy.sandbox.stage import Stage

#: The newest of so many lines are kept; the file is written whole.
MAX_LINES: Final = 400
#: A job can be asked about for so long after its end.
KEEP_S: Final = 86_400.0


class _KeptJob(msgspec.Struct, frozen=True, kw_only=True):
    owner: str
    job_id: str
    created_at: float
    duration_s: float
    will_fail: bool
    recipe: Movie
    facts: dict[str, Any]


class _KeptFile(msgspec.Struct, frozen=True, kw_only=True):
    file_id: str
    recipe: Movie
    expires_at: float
    huge: int | None


class _Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    origin: str
    job: _KeptJob | None = None
    file: _KeptFile | None = None


class Journal:
    """The file at ``path``. ``open`` puts what it holds back on a stage, and keeps what comes there from then on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._origin = ""
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._is_written = True
        self._writing: asyncio.Task[None] | None = None

    async def open(self, stage: Stage, origin: str) -> None:
        """``origin``: the scheme, host and port that links of this sandbox begin with."""
        self._origin = origin
        for line in self._decoded(await asyncio.to_thread(self._read)):
            self._restore(line, stage)
        stage.jobs.on_add = self._note_job
        stage.shelf.on_put = self._note_file

    async def close(self) -> None:
        """Wait until everything is written."""
        if self._writing is not None:
            await self._writing

    def _read(self) -> list[bytes]:
        try:
            return self._path.read_bytes().splitlines()
        except OSError:
            return []

    def _decoded(self, lines: list[bytes]) -> Iterator[_Line]:
        for data in lines:
            with suppress(msgspec.MsgspecError):
                earlier = msgspec.json.decode(data, type=_Line).origin
                yield msgspec.json.decode(data.replace(earlier.encode(), self._origin.encode()), type=_Line)

    def _restore(self, line: _Line, stage: Stage) -> None:
        now_s = stage.clock()
        if (job := line.job) is not None and job.created_at + job.duration_s + KEEP_S > now_s:
            stage.jobs.add(Job(**msgspec.structs.asdict(job)))
        elif (file := line.file) is not None and file.expires_at > now_s:
            shelved = ShelvedFile(recipe=file.recipe, expires_at=file.expires_at, huge=file.huge)
            stage.shelf.put(file.file_id, shelved)
        else:
            return
        self._lines.append(msgspec.json.encode(line))

    def _note_job(self, job: Job) -> None:
        if isinstance(job.recipe, Movie):
            fields = {name: getattr(job, name) for name in _KeptJob.__struct_fields__}
            self._note(_Line(origin=self._origin, job=_KeptJob(**fields)))

    def _note_file(self, file_id: str, file: ShelvedFile) -> None:
        if isinstance(file.recipe, Movie):
            kept = _KeptFile(file_id=file_id, recipe=file.recipe, expires_at=file.expires_at, huge=file.huge)
            self._note(_Line(origin=self._origin, file=kept))

    def _note(self, line: _Line) -> None:
        self._lines.append(msgspec.json.encode(line))
        self._is_written = False
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while not self._is_written:
            self._is_written = True
            with suppress(OSError):
                await asyncio.to_thread(self._replace, b"\n".join(self._lines))

    def _replace(self, data: bytes) -> None:
        draft = self._path.with_name(f"{self._path.name}.new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        draft.replace(self._path)
