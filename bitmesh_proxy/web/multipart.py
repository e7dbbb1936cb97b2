"""Multipart forms in: fields in memory, files on disk once they are large, everything bounded.

Fields keep their order and come as text, because a payload signature is made over them. Files are taken in as they
arrive, a block at a time; one above ``memory_file_bytes`` goes to a temporary file without a name, which the system
removes even when the process is killed. Whoever asked for a form closes it.

Aiohttp's reader does the parsing; what it raises for a malformed body becomes an InvalidRequest here. The type of a
file is only what the caller says of it: what it is, is found out where it is used.
"""

from __future__ import annotations

import asyncio
import io
import re
import tempfile
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import IO, Final

import msgspec
from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.multipart import (
    BadContentDispositionHeader,
    BadContentDispositionParam,
    BodyPartReader,
    MultipartReader,
)

from bitmesh_proxy.errors import (
    MUCH_LATER_S,
    BodyTooLarge,
    CallerLeft,
    InvalidRequest,
    Unavailable,
    UnsupportedMediaType,
)
from bitmesh_proxy.web.bodies import check_encoding, too_large, too_slow

CHUNK_BYTES: Final = 64 * 1024
#: Blocks written to disk at once; each write is a hop into a thread.
BLOCK_BYTES: Final = 1024 * 1024
#: An upload has the time limit of any body, and more for what has arrived at this rate at least.
MIN_BYTES_PER_S: Final = 64 * 1024

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN_TRANSFER: Final = frozenset(("", "binary", "8bit", "7bit"))


class FormLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a form beside its size as a whole. A header line of a part may have 8190 bytes, a part 128 of them."""

    max_parts: int = 128
    max_name_characters: int = 256
    max_field_bytes: int = 8 * 1024 * 1024
    max_fields_bytes: int = 16 * 1024 * 1024
    memory_file_bytes: int = 256 * 1024


class UploadedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a form. ``filename`` is its last path element as the caller names it; ``media_type`` is a claim.

    ``file`` is at its start; reading it may block on the disk, which ``read`` and ``chunks`` do in a thread.
    """

    name: str
    filename: str
    media_type: str
    size_bytes: int
    file: IO[bytes]

    async def read(self) -> bytes:
        """All of it. For files that have to be in memory anyway."""
        self.file.seek(0)
        return await asyncio.to_thread(self.file.read)

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it, from its start, a block at a time."""
        self.file.seek(0)
        while block := await asyncio.to_thread(self.file.read, BLOCK_BYTES):
            yield block


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """A form as it came: ``fields`` and ``files`` in their order, names as often as they were sent."""

    fields: tuple[tuple[str, str], ...]
    files: tuple[UploadedFile, ...]

    async def close(self) -> None:
        """Let the files go. May be called twice."""
        for each in self.files:
            each.file.close()

    async def __aenter__(self) -> Form:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def read_form(
    request: web.Request, *, max_bytes: int, timeout_s: float, spool_dir: Path, limits: FormLimits | None = None
) -> Form:
    """Read a ``multipart/form-data`` body. The caller closes what it gets; on an error nothing is left.

    Raises UnsupportedMediaType, BodyTooLarge, BodyTimeout, InvalidRequest, Unavailable (no room on disk), CallerLeft.
    """
    check_encoding(request)
    if request.content_type != "multipart/form-data":
        raise UnsupportedMediaType("The Content-Type must be multipart/form-data.")
    declared = request.content_length
    if declared is not None and declared > max_bytes:
        raise too_large(max_bytes)
    intake = _Intake(
        request, max_bytes=max_bytes, timeout_s=timeout_s, spool_dir=spool_dir, limits=limits or FormLimits()
    )
    try:
        return await intake.run()
    except TimeoutError as exc:
        raise too_slow(timeout_s) from exc
    except (ClientPayloadError, ConnectionError) as exc:
        raise CallerLeft from exc
    except (ValueError, AssertionError, RuntimeError, HttpProcessingError) as exc:  # what aiohttp's reader raises
        raise InvalidRequest("The multipart body is malformed.") from exc
    finally:
        intake.close()


def pass_over_odd_dispositions() -> None:
    """Once, at start: no warnings of what callers write into Content-Disposition.

    Python would print each, with what the caller wrote, and remember it for ever; a form may have a hundred of them.
    """
    for category in (BadContentDispositionHeader, BadContentDispositionParam):
        warnings.filterwarnings("ignore", category=category)


class _Intake:
    """One form on its way in. Owns the files until the form is complete."""

    def __init__(
        self, request: web.Request, *, max_bytes: int, timeout_s: float, spool_dir: Path, limits: FormLimits
    ) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._spool_dir = spool_dir
        self._limits = limits
        self._fields: list[tuple[str, str]] = []
        self._fields_bytes = 0
        self._files: list[UploadedFile] = []
        self._open: IO[bytes] | None = None

    def close(self) -> None:
        """Close what has not been handed over."""
        if self._open is not None:
            self._open.close()
        for each in self._files:
            each.file.close()

    async def run(self) -> Form:
        async with asyncio.timeout(None) as self._timer:
            self._started_s = asyncio.get_running_loop().time()
            self._count()
            reader = await self._request.multipart()
            parts = 0
            while (part := await reader.next()) is not None:
                parts += 1
                if parts > self._limits.max_parts:
                    raise InvalidRequest(f"The form has more than {self._limits.max_parts} parts.")
                await self._take(part)
        form = Form(fields=tuple(self._fields), files=tuple(self._files))
        self._files = []
        return form

    def _count(self) -> None:
        """Hold what has arrived so far against the limits of size and time. Raises BodyTooLarge."""
        received = self._request.content.total_bytes
        if received > self._max_bytes:
            raise too_large(self._max_bytes)
        self._timer.reschedule(self._started_s + self._timeout_s + received / MIN_BYTES_PER_S)

    async def _take(self, part: MultipartReader | BodyPartReader) -> None:
        if isinstance(part, MultipartReader):
            raise InvalidRequest("The form holds a form.")
        if part.headers.get("Content-Transfer-Encoding", "").strip().lower() not in _PLAIN_TRANSFER:
            raise InvalidRequest("A part of the form has a Content-Transfer-Encoding; send it as it is.")
        name = part.name
        if not name:
            raise InvalidRequest("A part of the form has no name.")
        if len(name) > self._limits.max_name_characters:
            raise InvalidRequest("The name of a part of the form is too long.")
        if part.filename is None:
            await self._take_field(part, name)
        else:
            await self._take_file(part, name, part.filename)

    async def _take_field(self, part: BodyPartReader, name: str) -> None:
        value = bytearray()
        async for chunk in self._chunks(part):
            value += chunk
            self._fields_bytes += len(chunk)
            if len(value) > self._limits.max_field_bytes or self._fields_bytes > self._limits.max_fields_bytes:
                raise BodyTooLarge("The fields of the form are too large.", headers={"Connection": "close"})
        try:
            self._fields.append((name, value.decode()))
        except UnicodeDecodeError as exc:
            raise InvalidRequest(f"The field '{name}' is not valid UTF-8: byte {exc.start}.", param=name) from None

    async def _take_file(self, part: BodyPartReader, name: str, filename: str) -> None:
        file: IO[bytes] = io.BytesIO()
        self._open = file
        size = pending = 0
        block: list[bytes] = []
        async for chunk in self._chunks(part):
            block.append(chunk)
            size += len(chunk)
            pending += len(chunk)
            if size <= self._limits.memory_file_bytes or pending < BLOCK_BYTES:
                continue
            file = await self._spool(file, block)
            block, pending = [], 0
        if size > self._limits.memory_file_bytes:
            file = await self._spool(file, block)
        else:
            file.write(b"".join(block))
        file.seek(0)
        self._open = None
        self._files.append(
            UploadedFile(
                name=name,
                filename=_last_element(filename),
                media_type=part.headers.get("Content-Type", "application/octet-stream")
                .partition(";")[0]
                .strip()
                .lower(),
                size_bytes=size,
                file=file,
            )
        )

    async def _spool(self, file: IO[bytes], block: list[bytes]) -> IO[bytes]:
        """Write to disk, in a thread; opens the file first where the bytes were in memory so far."""
        try:
            if isinstance(file, io.BytesIO):
                file = await asyncio.to_thread(tempfile.TemporaryFile, dir=self._spool_dir)
                self._open = file
            await asyncio.to_thread(file.writelines, block)
        except OSError as exc:
            raise Unavailable("There is no room for the upload.", retry_after_s=MUCH_LATER_S) from exc
        return file

    async def _chunks(self, part: BodyPartReader) -> AsyncIterator[bytes]:
        while not part.at_eof():  # an empty chunk in between is not the end
            chunk = await part.read_chunk(CHUNK_BYTES)
            self._count()
            if chunk:
                yield chunk


def _last_element(filename: str) -> str:
    """The name without any directory, without control characters, not longer than a file system takes."""
    last = filename.replace("\\", "/").rpartition("/")[2]
    return _UNPRINTABLE.sub("", last)[-255:] or "file"
