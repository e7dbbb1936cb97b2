"""Old requests are summed up beside callers, by command and by the service; kill -9 in the middle changes no sum."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from bitmesh_proxy.billing.pruning import prune
from bitmesh_proxy.cli.new_key import NewKey
from bitmesh_proxy.storage.months import Due, LedgerMonths
from bitmesh_proxy.storage.runs import extend_runs
from bitmesh_proxy.storage.usage import UsageFilter, UsageLine, UsageReports
from tests.journeys.gateway import CHAT_MODEL, Books, Gateway, bearer, chat, open_books, running_gateway, until, video
from tests.journeys.processes import PATIENTLY, Served, make_key, run, serving

#: Three starts of the program, and its first look at old requests comes five seconds after each.
pytestmark = [pytest.mark.journey, PATIENTLY]

OLD_ROWS = 4000

_OPEN = """
WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :rows)
INSERT INTO requests (id, account, key, instance, endpoint, model, hold_nano_usd, live, address, started_at_ms)
SELECT printf('req_%d_%d', :began_ms, n), 1, 1, 0, 1, 1 + n % 3, 1000, 1, '127.0.0.1', :began_ms + n * 1000 FROM n
"""

_CLOSE = """
UPDATE requests SET state = 'settled', basis = 'measured', outcome = 'completed', provider = 1, input_tokens = 3,
    charge_nano_usd = number % 7, cost_nano_usd = 5
WHERE state = 'open'
"""


def add_old_rows(data_dir: Path, days_ago: int) -> None:
    began_ms = int((time.time() - days_ago * 86_400) * 1000)
    connection = sqlite3.connect(data_dir / "bitmesh-proxy.db", isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("INSERT OR IGNORE INTO names (name) VALUES ('old/1'), ('old/2'), ('old/3')")
    connection.execute(_OPEN, {"rows": OLD_ROWS, "began_ms": began_ms})
    connection.execute(_CLOSE)
    while extend_runs(connection, run_rows=512):
        pass
    connection.execute("COMMIT")
    connection.close()


async def old_rows(books: Books) -> int:
    ((count,),) = await books.database.read("SELECT count(*) FROM requests WHERE instance = 0")
    return int(count)


async def old_usage(books: Books) -> list[UsageLine]:
    """What was used longer ago than a year."""
    which = UsageFilter(until_s=time.time() - 365 * 86_400)
    return await UsageReports(books.database).by(["month", "key", "model", "provider", "outcome"], which)


async def call(http: aiohttp.ClientSession, served: Served, times: int) -> None:
    for _ in range(times):
        async with http.post(served.url + "/chat", json=chat()) as answer:
            assert answer.status == 200
            await answer.read()


async def test_no_sum_is_lost_whoever_sums_up_and_whenever_it_ends(tmp_path: Path) -> None:
    data = tmp_path / "data"
    key: NewKey = await make_key(data)
    for days_ago in (500, 450):
        await asyncio.to_thread(add_old_rows, data, days_ago)
    async with open_books(data) as books, aiohttp.ClientSession(headers=bearer(key)) as http:
        before = await old_usage(books)
        async with serving(data, env={"BITMESH_LEDGER__KEEP_S": "0"}, name="first.log") as served:
            pruned, _ = await asyncio.gather(
                asyncio.to_thread(run, data, "ledger", "prune", "--before", "480d"), call(http, served, 5)
            )
            assert pruned.stdout.startswith(f"{OLD_ROWS:,} requests up to "), (pruned.stdout, pruned.stderr)
            assert await old_rows(books) == OLD_ROWS
            await books.check()
        async with serving(data, name="second.log") as served:

            async def has_begun() -> bool:
                return await old_rows(books) < OLD_ROWS

            await served.until(has_begun, "rows are summed up")
            await served.kill()
        assert 0 < await old_rows(books) < OLD_ROWS
        await books.check()
        async with serving(data, arguments=["--workers", "2"], name="third.log") as served:
            await call(http, served, 3)

            async def is_done() -> bool:
                return await old_rows(books) == 0

            await served.until(is_done, "all rows are summed up")
            await call(http, served, 2)
            await served.until(books.all_closed, "all calls are closed")
            await served.until_it_says("have been summed up by month")
            assert served.text().count("have been summed up by month") == 1
            refused = await asyncio.to_thread(run, data, "ledger", "prune", "--vacuum")
            assert "the service is running" in refused.stderr
        await books.check()
        assert await old_usage(books) == before
        (line,) = await UsageReports(books.database).by([])
        assert line.requests == 2 * OLD_ROWS + 10


async def test_what_refers_to_requests_goes_on_without_their_rows(tmp_path: Path) -> None:
    """Repetitions, jobs, responses and credits are asked for when the rows have gone that they came from."""
    async with running_gateway(tmp_path) as gateway:
        once = {**gateway.bearer, "Idempotency-Key": "once"}
        first = await gateway.post("/chat", chat(), headers=once)
        job_id = (await gateway.post("/video", video())).json["id"]
        stored = (await gateway.post("/v1/responses", {"model": CHAT_MODEL, "input": "Hello"})).json
        await until(partial(is_over, gateway, job_id), "the clip is there")
        assert (await gateway.post("/chat", chat())).status == 200
        assert (await gateway.last_row()).state == "settled"
        asked = ("/v1/credits?by_api_key=true", f"/video/{job_id}", f"/v1/responses/{stored['id']}")
        before = [(await gateway.get(path)).json for path in asked]
        async with open_books(tmp_path) as books:
            steps = [step async for step in prune(LedgerMonths(books.database), Due(before_s=time.time() + 1))]
            assert [step.requests for step in steps] == [3]
        assert [(await gateway.get(path)).json for path in asked] == before
        again = await gateway.post("/chat", chat(), headers=once)
        assert (again.status, again.body) == (first.status, first.body)
        more = {"model": CHAT_MODEL, "input": "More", "previous_response_id": stored["id"]}
        assert (await gateway.post("/v1/responses", more)).status == 200
        await gateway.check_books()


async def is_over(gateway: Gateway, job_id: str) -> bool:
    return bool((await gateway.get(f"/video/{job_id}")).json["status"] == "completed")
