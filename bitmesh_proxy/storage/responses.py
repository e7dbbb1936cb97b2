"""Responses that callers may come back to: kept for a while, within a bound of space, seen by their account only.

When the space is used up, those accounts lose their oldest that hold more than their fair share of it. What was said is
kept compressed. A chain of responses is read in one query, so that a long conversation costs one trip.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import orjson

from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.storage.database import Database, Row
from bitmesh_proxy.storage.fair_share import oldest_to_go
from bitmesh_proxy.storage.sweeps import OftenEnough, Step

#: Old ones are looked for this often, and whenever an eighth of the space has been filled since, or so many have been
#: kept.
SWEEP_INTERVAL_S = 60.0
SWEEP_AFTER_ROWS = 100
#: Conversations of more turns are no conversations.
MAX_CHAIN = 2_000
#: Larger ones are packed and unpacked off the loop.
THREAD_BYTES = 64 * 1024
#: Up to here a window of as many bytes sees everything.
_SMALL_BYTES: Final = 4096
UNDER_WAY = ("queued", "in_progress")
#: Where a packed row has its size.
_SIZE_AT: Final = -2
#: Parts of the response object that stand elsewhere, or follow from what does.
_DERIVED = frozenset(("output", "items"))

_SELECT = """
SELECT id, previous_id, status, background, instance, job_id, request_id, body, input, output, asked, created_at_ms
FROM responses
"""
_OF_LINE = """
JOIN (
    WITH RECURSIVE line (id, depth) AS (
        VALUES (?, 0)
        UNION ALL
        SELECT previous_id, depth + 1 FROM line JOIN responses USING (id)
        WHERE account_id = ? AND previous_id IS NOT NULL AND depth < ?
    )
    SELECT id, depth FROM line
) USING (id)
WHERE account_id = ? AND created_at_ms >= ? ORDER BY depth DESC
"""
_OF_ITEM = """
WHERE id = (SELECT response_id FROM response_items WHERE account_id = ? AND item_id = ? LIMIT 1)
AND account_id = ? AND created_at_ms >= ?
"""


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response. ``body`` is the response object, but for ``items``, which follow from it.

    ``input_items`` are its own, not those of what it follows. ``asked``: what is needed of the request to finish it
    later. ``job_id`` is the provider's, of a response that is a job. ``instance`` is the process that works, or worked,
    on it.
    """

    id: str
    account_id: str
    status: str
    body: JsonObject
    input_items: Sequence[JsonObject]
    request_id: str
    created_at_s: float
    instance: int
    previous_id: str | None = None
    is_background: bool = False
    job_id: str | None = None
    asked: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def output(self) -> Sequence[JsonObject]:
        """The items that it has brought."""
        items: Sequence[JsonObject] = self.body["output"]
        return items

    @property
    def is_under_way(self) -> bool:
        """Is there more to come?"""
        return self.status in UNDER_WAY


class ContextTooLarge(Exception):
    """A chain holds more than may be taken into memory."""


class ResponseStore:
    """Keeps, finds and forgets responses. ``clock`` is Unix time."""

    def __init__(
        self,
        database: Database,
        *,
        keep_s: float,
        max_total_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keep_s = keep_s
        self._max_total_bytes = max_total_bytes
        self._clock = clock
        self._sweeps = OftenEnough(SWEEP_INTERVAL_S, rows=SWEEP_AFTER_ROWS, room_bytes=max_total_bytes)

    async def save(self, response: StoredResponse) -> None:
        """Keep it, or what has become of it. One that was cancelled meanwhile stays so."""
        await self._keep(response, is_new=True)

    async def finish(self, response: StoredResponse) -> bool:
        """Keep the end of one that is there and under way. False when it is not: deleted, or ended otherwise."""
        if self.status_of(response.account_id, response.id) not in UNDER_WAY:
            return False  # without the work of packing it
        return await self._keep(response, is_new=False)

    async def _keep(self, response: StoredResponse, *, is_new: bool) -> bool:
        row = await _pack(response)
        item_ids = {item["id"] for item in (*response.input_items, *response.output) if isinstance(item.get("id"), str)}
        rows = [(response.account_id, item_id, response.id) for item_id in item_ids]
        self._sweeps.note(rows=1, size_bytes=row[_SIZE_AT])
        now_s = self._clock()
        oldest_ms = self._oldest_ms() if self._sweeps.is_due(now_s) else None
        owed_rows = self._sweeps.owed_rows

        def upsert(connection: sqlite3.Connection) -> tuple[bool, bool]:
            if not is_new and not connection.execute("SELECT 1 FROM responses WHERE id = ?", row[:1]).fetchone():
                return False, oldest_ms is None
            changed = connection.execute(
                "INSERT INTO responses (id, account_id, previous_id, status, background, instance, job_id, request_id,"
                " body, input, output, asked, size_bytes, created_at_ms)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET status = excluded.status, instance = excluded.instance,"
                " job_id = excluded.job_id, asked = excluded.asked, body = excluded.body, output = excluded.output,"
                " size_bytes = excluded.size_bytes WHERE status IN ('queued', 'in_progress')",
                row,
            ).rowcount
            if changed:
                connection.executemany(
                    "INSERT INTO response_items (account_id, item_id, response_id) VALUES (?, ?, ?)"
                    " ON CONFLICT DO NOTHING",
                    rows,
                )
            return bool(changed), oldest_ms is None or self._sweep(connection, oldest_ms, Step(least=owed_rows))

        was_kept, is_swept = await self._database.write(upsert)
        if not is_swept:
            self._sweeps.go_on(now_s)
        return was_kept

    async def get(self, account_id: str, response_id: str) -> StoredResponse | None:
        """The account's response; None for another's, and for one that is too old."""
        row = self._database.lookup(
            _SELECT + "WHERE id = ? AND account_id = ? AND created_at_ms >= ?",
            (response_id, account_id, self._oldest_ms()),
        )
        return None if row is None else (await _unpack(row, account_id))[0]

    def status_of(self, account_id: str, response_id: str) -> str | None:
        """The status alone, at once; None where there is no such response."""
        row = self._database.lookup(
            "SELECT status FROM responses WHERE id = ? AND account_id = ?", (response_id, account_id)
        )
        return None if row is None else str(row[0])

    async def chain(self, account_id: str, response_id: str, *, max_bytes: int) -> list[StoredResponse] | None:
        """A response and all that it follows, the oldest first; None if one of them is not there (any more).

        Raises ContextTooLarge when they hold more than ``max_bytes``, unpacked.
        """
        rows = await self._database.read(
            _SELECT + _OF_LINE,
            (response_id, account_id, MAX_CHAIN, account_id, self._oldest_ms()),
        )
        if not rows or rows[-1][0] != response_id:
            return None
        found: list[StoredResponse] = []
        left_bytes = max_bytes
        for row in rows:
            response, size_bytes = await _unpack(row, account_id, left_bytes)
            left_bytes -= size_bytes
            found.append(response)
        is_whole = found[0].previous_id is None
        return found if is_whole else None

    async def find_items(
        self, account_id: str, item_ids: Collection[str], *, max_bytes: int
    ) -> Mapping[str, JsonObject]:
        """Items of any of the account's responses, by their ids; those that are not there are missing.

        Raises ContextTooLarge when the responses that they stand in hold more than ``max_bytes``, unpacked.
        """
        found: dict[str, JsonObject] = {}
        left_bytes = max_bytes
        for item_id in item_ids:
            if item_id in found:
                continue
            rows = await self._database.read(
                _SELECT + _OF_ITEM,
                (account_id, item_id, account_id, self._oldest_ms()),
            )
            if rows:
                response, size_bytes = await _unpack(rows[0], account_id, left_bytes)
                left_bytes -= size_bytes
                for item in (*response.output, *response.input_items):
                    if item.get("id") in item_ids:
                        found.setdefault(item["id"], item)
        return found

    def count_under_way(self, account_id: str, *, but_for: int) -> int:
        """How many background responses the account has under way, in processes that live, but for one."""
        row = self._database.lookup(
            "SELECT count(*) FROM responses WHERE account_id = ? AND status IN ('queued', 'in_progress')"
            " AND background = 1 AND instance IN (SELECT number FROM instances) AND instance != ?",
            (account_id, but_for),
        )
        return 0 if row is None else int(row[0])

    async def is_alive(self, instance: int) -> bool:
        """Is the process of that number still there, as far as the database knows?"""
        return self._database.lookup("SELECT 1 FROM instances WHERE number = ?", (instance,)) is not None

    async def delete(self, account_id: str, response_id: str) -> bool:
        """Forget it. False when there was nothing."""

        def delete(connection: sqlite3.Connection) -> bool:
            return bool(
                connection.execute(
                    "DELETE FROM responses WHERE id = ? AND account_id = ?", (response_id, account_id)
                ).rowcount
            )

        return await self._database.write(delete)

    def _oldest_ms(self) -> int:
        return int((self._clock() - self._keep_s) * 1000)

    def _sweep(self, connection: sqlite3.Connection, oldest_ms: int, step: Step) -> bool:
        """Did all go that has to?"""

        def find_expired(most: int) -> list[Row]:
            return connection.execute(
                "SELECT id FROM responses WHERE created_at_ms < ? LIMIT ?", (oldest_ms, most)
            ).fetchall()

        def find_too_many(most: int) -> list[Row]:
            going = oldest_to_go(
                connection,
                totals="SELECT account_id, size_bytes FROM response_totals",
                oldest="SELECT id, size_bytes FROM responses WHERE account_id = ? ORDER BY created_at_ms LIMIT ?",
                room_bytes=self._max_total_bytes,
                most=most,
            )
            return [(response_id,) for _, response_id in going]

        finds = (find_expired, find_too_many)
        return all(step.execute_found(connection, "DELETE FROM responses WHERE id = ?", find) for find in finds)


async def _pack(response: StoredResponse) -> tuple[Any, ...]:
    size_bytes = sum(map(about_bytes, response.input_items)) + sum(map(about_bytes, response.output))
    if size_bytes > THREAD_BYTES:
        return await asyncio.to_thread(_packed, response)
    return _packed(response)


def about_bytes(item: JsonObject) -> int:
    """About how large an item is: its long texts are what counts, at its top and in its parts."""
    size_bytes = 0
    for value in item.values():
        if isinstance(value, str):
            size_bytes += len(value)
        elif isinstance(value, list):
            size_bytes += sum(len(inner) for part in value for inner in part.values() if isinstance(inner, str))
    return size_bytes


def _packed(response: StoredResponse) -> tuple[Any, ...]:
    body = {name: value for name, value in response.body.items() if name not in _DERIVED}
    blobs = [
        squeezed(orjson.dumps(body)),
        squeezed(orjson.dumps(list(response.input_items))),
        squeezed(orjson.dumps(list(response.output))),
        squeezed(orjson.dumps(dict(response.asked))) if response.asked else _NOTHING_ASKED,
    ]
    return (
        response.id,
        response.account_id,
        response.previous_id,
        response.status,
        int(response.is_background),
        response.instance,
        response.job_id,
        response.request_id,
        *blobs,
        sum(map(len, blobs)),
        int(response.created_at_s * 1000),
    )


def squeezed(data: bytes) -> bytes:
    """Compressed as ``zlib`` does it, for ``zlib.decompress``.

    What is small goes with a small window and little search, into hardly more bytes: ``zlib.compress`` takes 256 KiB
    for each call and clears half of them, which is three quarters of what a small call costs.
    """
    if len(data) > _SMALL_BYTES:
        return zlib.compress(data)
    packer = zlib.compressobj(level=1, wbits=_SMALL_BYTES.bit_length() - 1, memLevel=5)
    return packer.compress(data) + packer.flush()


_NOTHING_ASKED: Final = squeezed(b"{}")


async def _unpack(row: Row, account_id: str, max_bytes: int | None = None) -> tuple[StoredResponse, int]:
    """The response, and its size. Raises ContextTooLarge when it is larger than ``max_bytes``."""
    if sum(len(blob) for blob in row[7:11]) <= THREAD_BYTES:
        with suppress(ContextTooLarge):  # what is small when it is packed need not be
            return _read(row, account_id, THREAD_BYTES if max_bytes is None else min(THREAD_BYTES, max_bytes))
    return await asyncio.to_thread(_read, row, account_id, max_bytes)


def _read(row: Row, account_id: str, max_bytes: int | None) -> tuple[StoredResponse, int]:
    response_id, previous_id, status, background, instance, job_id, request_id, *blobs, created_at_ms = row
    texts = _unsqueezed(blobs, max_bytes)
    body, own_input, output, asked = map(orjson.loads, texts)
    response = StoredResponse(
        id=response_id,
        account_id=account_id,
        previous_id=previous_id,
        status=status,
        is_background=bool(background),
        instance=instance,
        job_id=job_id,
        request_id=request_id,
        body={**body, "output": output},
        input_items=own_input,
        asked=asked,
        created_at_s=created_at_ms / 1000,
    )
    return response, sum(map(len, texts))


def _unsqueezed(blobs: Sequence[bytes], max_bytes: int | None) -> list[bytes]:
    """What was squeezed. A kilobyte may become a megabyte: no more is unpacked than ``max_bytes`` in all."""
    if max_bytes is None:
        return [zlib.decompress(blob) for blob in blobs]
    texts: list[bytes] = []
    left_bytes = max_bytes
    for blob in blobs:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(blob, left_bytes + 1)
        left_bytes -= len(text)
        if left_bytes < 0:
            raise ContextTooLarge
        texts.append(text)
    return texts
