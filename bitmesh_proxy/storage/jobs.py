"""Jobs: long work at a provider, each with the request whose hold it lives on.

While one is being handed in, its place among those of its key stands for it, for all processes to count.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson
from msgspec import structs

from bitmesh_proxy.calls import JobStatus
from bitmesh_proxy.errors import NotFound
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.storage.database import Database, Row
from bitmesh_proxy.storage.ids import make_id
from bitmesh_proxy.storage.ledger import Closing, close_request

#: What a provider said last is kept up to this size; beyond it, only what we read from it.
MAX_STATE_BYTES = 256 * 1024


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that a provider has just taken. ``facts`` and ``state`` are JSON objects."""

    account_id: str
    key_id: str
    request_id: str
    model_id: str
    provider: str
    offer_id: str
    provider_job_id: str
    status: JobStatus
    facts: Mapping[str, Any]
    state: Mapping[str, Any]
    created_at_s: float
    next_poll_at_s: float


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job's row. ``polls`` counts answers, ``refusals`` the polls in a row that gave no hope of a clip."""

    id: str
    account_id: str
    key_id: str
    request_id: str
    model_id: str
    provider: str
    offer_id: str
    provider_job_id: str
    status: JobStatus
    facts: Mapping[str, Any]
    state: Mapping[str, Any]
    polls: int
    refusals: int
    created_at_s: float
    next_poll_at_s: float | None
    completed_at_s: float | None


_FORGET_ENDED = """
DELETE FROM jobs
WHERE number IN (SELECT number FROM jobs WHERE completed_at_ms < ? ORDER BY completed_at_ms LIMIT ?)
"""

_TAKE_PLACE = """
INSERT INTO job_places (request_id, key_id, instance)
SELECT :request, :key, :instance
WHERE (SELECT count(*) FROM job_places WHERE key_id = :key)
    + (SELECT count(*) FROM jobs
       WHERE key = (SELECT number FROM keys WHERE id = :key) AND next_poll_at_ms IS NOT NULL) < :limit
"""

_LEAVE_PLACE = "DELETE FROM job_places WHERE request_id = ?"

_SELECT = """
SELECT jobs.id, accounts.id, keys.id, request_id, model, provider, offer, provider_job_id, status, facts, state, polls,
       refusals, jobs.created_at_ms, next_poll_at_ms, completed_at_ms
FROM jobs JOIN accounts ON accounts.number = jobs.account JOIN keys ON keys.number = jobs.key
"""


class JobStore:
    """Makes, finds and moves jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, new: NewJob) -> Job:
        """Write the row; that of a request that has one already is left as it is, so this may be repeated.

        Raises NotFound when account or key are gone.
        """
        job_id = make_id("job_")
        parameters = (
            job_id,
            new.request_id,
            new.model_id,
            new.provider,
            new.offer_id,
            new.provider_job_id,
            new.status,
            _dump(new.facts),
            _dump(new.state),
            int(new.created_at_s * 1000),
            int(new.next_poll_at_s * 1000),
            new.key_id,
            new.account_id,
        )

        def insert(connection: sqlite3.Connection) -> Row:
            connection.execute(
                "INSERT INTO jobs (id, account, key, request_id, model, provider, offer, provider_job_id, status,"
                " facts, state, created_at_ms, next_poll_at_ms)"
                " SELECT ?, accounts.number, keys.number, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
                " FROM keys JOIN accounts ON accounts.number = keys.account WHERE keys.id = ? AND accounts.id = ?"
                " ON CONFLICT (request_id) DO NOTHING",
                parameters,
            )
            rows: list[Row] = connection.execute(_SELECT + "WHERE request_id = ?", (new.request_id,)).fetchall()
            if not rows:
                raise NotFound("The API key does not exist any more.")
            connection.execute(_LEAVE_PLACE, (new.request_id,))
            return rows[0]

        return _job(await self._database.write(insert))

    async def get(self, account_id: str, provider_job_id: str) -> Job | None:
        """The account's newest job of that name at its provider."""
        row = self._database.lookup(
            _SELECT + "WHERE accounts.id = ? AND provider_job_id = ? ORDER BY jobs.number DESC LIMIT 1",
            (account_id, provider_job_id),
        )
        return None if row is None else _job(row)

    async def page(self, account_id: str, *, after: str | None, limit: int, newest_first: bool) -> list[Job]:
        """Up to ``limit`` jobs of the account, beyond the one that its provider calls ``after``."""
        sign, order = ("<", "DESC") if newest_first else (">", "ASC")
        beyond = ""
        parameters: list[str | int] = [account_id]
        if after is not None:
            last = "SELECT max(number) FROM jobs AS last WHERE last.account = jobs.account AND last.provider_job_id = ?"
            beyond = f"AND jobs.number {sign} ({last}) "
            parameters.append(after)
        rows = await self._database.read(
            f"{_SELECT}WHERE accounts.id = ? {beyond}ORDER BY jobs.number {order} LIMIT ?", [*parameters, limit]
        )
        return [_job(row) for row in rows]

    async def delete(self, job_id: str) -> None:
        """Remove the row of a job that has ended; its request stays in the ledger."""

        def delete(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM jobs WHERE id = ? AND next_poll_at_ms IS NULL", (job_id,))

        await self._database.write(delete)

    async def forget_ended(self, *, before_s: float, limit: int) -> int:
        """Remove up to ``limit`` rows of jobs that ended before a moment (Unix time), oldest first; gives how many."""

        def delete(connection: sqlite3.Connection) -> int:
            return connection.execute(_FORGET_ENDED, (int(before_s * 1000), limit)).rowcount

        return await self._database.write(delete)

    async def due(self, now_s: float, *, latest_s: float, limit: int) -> list[Job]:
        """Open jobs whose next poll has come, the longest waiting first.

        And those whose next poll is after ``latest_s``: nobody puts one off for so long, so the clock has gone back.
        """
        rows = await self._database.read(
            _SELECT + "WHERE next_poll_at_ms <= ? OR next_poll_at_ms > ? ORDER BY next_poll_at_ms LIMIT ?",
            (int(now_s * 1000), int(latest_s * 1000), limit),
        )
        return [_job(row) for row in rows]

    async def next_due_at_s(self, *, after_s: float) -> float | None:
        """When the next poll after a moment comes (Unix time); None if no job is open beyond it."""
        row = self._database.lookup(
            "SELECT min(next_poll_at_ms) FROM jobs WHERE next_poll_at_ms > ?", (int(after_s * 1000),)
        )
        return None if row is None or row[0] is None else row[0] / 1000

    async def take_place(self, key_id: str, request_id: str, *, instance: int, limit: int) -> bool:
        """Take a place for a job that is to come. False when the key has ``limit`` jobs and places already.

        ``instance`` is the number of this process: with its end the place is free again.
        """

        def take(connection: sqlite3.Connection) -> bool:
            connection.execute("DELETE FROM job_places WHERE instance NOT IN (SELECT number FROM instances)")
            taken = connection.execute(
                _TAKE_PLACE, {"key": key_id, "request": request_id, "instance": instance, "limit": limit}
            )
            return bool(taken.rowcount)

        return await self._database.write(take, is_new_work=True)

    async def leave_place(self, request_id: str) -> None:
        """Give up a place, if there is one still: no job has come for it."""

        def leave(connection: sqlite3.Connection) -> None:
            connection.execute(_LEAVE_PLACE, (request_id,))

        await self._database.write(leave)

    async def open_requests(self) -> set[str]:
        """The requests whose jobs are under way, by id."""
        rows = await self._database.read("SELECT request_id FROM jobs WHERE next_poll_at_ms IS NOT NULL")
        return {row[0] for row in rows}

    async def hold_of(self, request_id: str) -> NanoUsd:
        """What the job's request holds. Raises NotFound."""
        row = self._database.lookup("SELECT hold_nano_usd FROM requests WHERE id = ?", (request_id,))
        if row is None:
            raise NotFound("The job's request is not in the ledger.")
        return NanoUsd(row[0])

    async def update(self, job_id: str, *, status: JobStatus, state: Mapping[str, Any], next_poll_at_s: float) -> Job:
        """Note an answer that was not the last. A job that ended meanwhile stays as it ended."""
        return await self._change(
            job_id,
            "UPDATE jobs SET status = ?, state = ?, next_poll_at_ms = ?, polls = polls + 1, refusals = 0"
            " WHERE id = ? AND next_poll_at_ms IS NOT NULL",
            (status, _dump(state), int(next_poll_at_s * 1000), job_id),
        )

    async def postpone(self, job_id: str, *, next_poll_at_s: float, refusals: int) -> Job:
        """Note a poll that got no answer."""
        return await self._change(
            job_id,
            "UPDATE jobs SET next_poll_at_ms = ?, polls = polls + 1, refusals = ?"
            " WHERE id = ? AND next_poll_at_ms IS NOT NULL",
            (int(next_poll_at_s * 1000), refusals, job_id),
        )

    async def finish(
        self,
        job_id: str,
        *,
        status: JobStatus,
        state: Mapping[str, Any],
        completed_at_s: float,
        closing: Closing,
    ) -> Job:
        """The last word: job and request are closed together, once. A job that ended before stays as it ended."""
        dumped = _dump(state)

        def close(connection: sqlite3.Connection) -> Row:
            changed = connection.execute(
                "UPDATE jobs SET status = ?, state = ?, next_poll_at_ms = NULL, completed_at_ms = ?, polls = polls + 1"
                " WHERE id = ? AND next_poll_at_ms IS NOT NULL",
                (status, dumped, int(completed_at_s * 1000), job_id),
            ).rowcount
            if changed:
                close_request(connection, _timed(connection, closing, completed_at_s))
            return _fetch(connection, job_id)

        return _job(await self._database.write(close))

    async def _change(self, job_id: str, sql: str, parameters: tuple[Any, ...]) -> Job:
        def update(connection: sqlite3.Connection) -> Row:
            connection.execute(sql, parameters)
            return _fetch(connection, job_id)

        return _job(await self._database.write(update))


def _timed(connection: sqlite3.Connection, closing: Closing, completed_at_s: float) -> Closing:
    """The closing with the time that the request took, from its start to the end of its job."""
    rows = connection.execute("SELECT started_at_ms FROM requests WHERE id = ?", (closing.request_id,)).fetchall()
    return structs.replace(closing, total_ms=max(0, int(completed_at_s * 1000) - rows[0][0])) if rows else closing


def _fetch(connection: sqlite3.Connection, job_id: str) -> Row:
    rows: list[Row] = connection.execute(_SELECT + "WHERE jobs.id = ?", (job_id,)).fetchall()
    if not rows:
        raise NotFound(f"No such job: {job_id}")
    return rows[0]


def _dump(value: Mapping[str, Any]) -> str:
    dumped = orjson.dumps(dict(value))
    if len(dumped) > MAX_STATE_BYTES and "raw" in value:
        dumped = orjson.dumps({**value, "raw": None})
    return dumped.decode()


def _job(row: Row) -> Job:
    (*texts, status, facts, state, polls, refusals, created_at_ms, next_poll_at_ms, completed_at_ms) = row
    job_id, account_id, key_id, request_id, model_id, provider, offer_id, provider_job_id = texts
    return Job(
        id=job_id,
        account_id=account_id,
        key_id=key_id,
        request_id=request_id,
        model_id=model_id,
        provider=provider,
        offer_id=offer_id,
        provider_job_id=provider_job_id,
        status=JobStatus(status),
        facts=orjson.loads(facts),
        state=orjson.loads(state),
        polls=polls,
        refusals=refusals,
        created_at_s=created_at_ms / 1000,
        next_poll_at_s=None if next_poll_at_ms is None else next_poll_at_ms / 1000,
        completed_at_s=None if completed_at_ms is None else completed_at_ms / 1000,
    )
