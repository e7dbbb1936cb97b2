"""Two workers behind one address: what is counted is counted once, and one that dies is missed by nobody."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bitmesh_proxy.cli.new_key import NewKey, create_key
from bitmesh_proxy.cli.worker_process import cores_of
from bitmesh_proxy.money import NanoUsd, parse_usd
from bitmesh_proxy.sandbox.faults import Fault, parse_directives
from bitmesh_proxy.sandbox.server import Sandbox
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyStore
from tests.auth.bitmesh_clients import authorization, payload_signature
from tests.journeys.gateway import CHAT_MODEL, Books, bearer, chat, open_books, video
from tests.journeys.processes import PATIENTLY, Served, serving
from tests.journeys.test_processes import config_of

#: Each starts three processes, which takes a second or two on a busy machine.
pytestmark = [pytest.mark.journey, PATIENTLY]

CREDENTIAL = {"TOGETHER_API_KEY": "sk-planted-secret-0123456789abcdef"}


@dataclass(slots=True)
class House:
    """A gateway of two workers whose provider is played by the test, and the keys of its callers."""

    served: Served
    sandbox: Sandbox
    database: Database
    http: aiohttp.ClientSession
    data_dir: Path
    account_id: str

    @property
    def books(self) -> Books:
        """The ledger."""
        return Books(self.database)

    async def new_account(self, credit_nano_usd: NanoUsd) -> str:
        """An account that has so much."""
        accounts = AccountStore(self.database)
        account = await accounts.create(secrets.token_hex(4))
        await accounts.credit(account.id, credit_nano_usd)
        return account.id

    async def new_key(self, account_id: str | None = None, **limits: Any) -> NewKey:
        """A key, of the rich account unless another is named."""
        settings = load_settings(environ={}, overrides={"data": {"dir": str(self.data_dir)}})
        return await create_key(self.database, settings, account_id=account_id or self.account_id, **limits)

    async def post(self, path: str, body: Any, headers: Mapping[str, str]) -> tuple[int, Any]:
        """One request on a connection of its own, which either worker may accept."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        async with self.http.post(self.served.url + path, data=data, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def statuses(self, key: NewKey, *, times: int, headers: Mapping[str, str] | None = None) -> Counter[int]:
        """So many calls at the same moment, by how they were answered."""
        answers = await asyncio.gather(
            *(self.post("/chat", chat(), {**bearer(key), **(headers or {})}) for _ in range(times))
        )
        return Counter(status for status, _ in answers)

    async def pids(self) -> list[int]:
        """The workers that are there."""
        return [row[0] for row in await self.database.read("SELECT pid FROM instances ORDER BY number")]

    async def metrics(self) -> str:
        """What either of them says."""
        async with self.http.get(self.served.url + "/metrics") as answer:
            return await answer.text()

    def slow(self, seconds: float, *, times: int) -> None:
        """Let the next calls take their time at the provider."""
        self.sandbox.faults.add(Fault(directives=parse_directives(f"stall={seconds}"), times=times))

    async def statuses_while_held(self, key: NewKey, *, times: int) -> Counter[int]:
        """As ``statuses``, but whoever gets as far as the provider stays there until all others have been answered."""
        self.sandbox.requests.clear()  # it keeps only so many
        self.sandbox.faults.go_on = go_on = asyncio.Event()
        calls = [asyncio.create_task(self.post("/chat", chat(), bearer(key))) for _ in range(times)]

        async def are_answered() -> bool:
            return sum(call.done() for call in calls) + len(self.sandbox.requests) == times

        try:
            await self.served.until(are_answered, "all are answered or at the provider")
        finally:
            go_on.set()
        return Counter(status for status, _ in await asyncio.gather(*calls))


@asynccontextmanager
async def two_workers(directory: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[House]:
    """Start them, with no limit but those that a key has."""
    data_dir = directory / "data"
    environment = {
        **CREDENTIAL,
        "BITMESH_JOBS__MAX_OPEN_PER_KEY": "2",
        "BITMESH_LIMITS__ADDRESS_PER_MINUTE": "0",
        "BITMESH_LIMITS__KEY_MAX_CONCURRENT": "0",
        "BITMESH_LIMITS__KEY_PER_MINUTE": "0",
        **(env or {}),
    }
    async with Sandbox() as sandbox:
        arguments = ["--workers", "2", "--config", str(config_of(sandbox, directory))]
        async with (
            serving(data_dir, arguments=arguments, env=environment) as served,
            open_books(data_dir) as books,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as http,
        ):
            house = House(
                served=served, sandbox=sandbox, database=books.database, http=http, data_dir=data_dir, account_id=""
            )
            house.account_id = await house.new_account(parse_usd("10"))
            yield house


async def test_what_is_counted_is_counted_once(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as house:
        cores = os.sched_getaffinity(0)
        places = [os.sched_getaffinity(pid) for pid in await house.pids()]
        assert sorted(places, key=min) == [cores_of(seat, seats=2, cores=cores) for seat in range(2)]
        await balances_are_exact(house)
        await rates_and_places_are_exact(house)
        await a_signature_is_good_once(house)
        await one_idempotency_key_is_one_call(house)
        await a_key_is_switched_off_everywhere(house)
        instances = await house.database.read("SELECT DISTINCT instance FROM requests")
        assert len(instances) == 2, "both have served"
        answered = re.findall(
            r'^bitmesh_requests_total\{endpoint="chat",status="200"\} (\S+)', await house.metrics(), re.MULTILINE
        )
        rows = await house.books.rows()
        replays = 9  # answers of the ten with one Idempotency-Key that are in no row of their own
        assert answered == [f"{len([row for row in rows if row.http_status == 200]) + replays:.1f}"]
        await clips_under_way_are_exact(house)
        await house.books.check(open_requests=2)


async def balances_are_exact(house: House) -> None:
    """Every call is held at its upper bound until it ends, so that while all run exactly seven fit."""
    assert await house.statuses(await house.new_key(), times=1) == {200: 1}
    hold = (await house.books.last_row()).hold_nano_usd
    poor = await house.new_key(await house.new_account(NanoUsd(7 * hold + hold // 2)))
    assert await house.statuses_while_held(poor, times=200) == {200: 7, 402: 193}


async def rates_and_places_are_exact(house: House) -> None:
    """A bucket of five, refilled once in twelve seconds; and three calls at once."""
    assert await house.statuses(await house.new_key(rate_per_minute=5), times=60) == {200: 5, 429: 55}
    key = await house.new_key(max_concurrent=3)
    assert await house.statuses_while_held(key, times=60) == {200: 3, 429: 57}
    assert await house.statuses(key, times=3) == {200: 3}, "the places were given back"


async def clips_under_way_are_exact(house: House) -> None:
    """Also those that the provider has not taken yet."""
    headers = bearer(await house.new_key())
    house.slow(0.3, times=2)
    clip = video("A cat [[sandbox: job_s=3600]]")
    answers = await asyncio.gather(*(house.post("/video", clip, headers) for _ in range(12)))
    assert Counter(status for status, _ in answers) == {200: 2, 429: 10}


async def a_signature_is_good_once(house: House) -> None:
    key, body, url = await house.new_key(), json.dumps(chat()).encode(), house.served.url + "/chat"
    header, signature = authorization(
        "POST",
        url,
        key=key.consumer_key,
        secret=key.consumer_secret,
        timestamp_s=int(time.time()),
        nonce=secrets.token_hex(8),
    )
    headers = {
        "Authorization": header,
        "X-Payload-Signature": payload_signature(body, key=key.consumer_key, signature=signature),
    }
    answers = await asyncio.gather(*(house.post("/chat", body, headers) for _ in range(30)))
    assert Counter(status for status, _ in answers) == {200: 1, 401: 29}
    assert {answer["error"] for status, answer in answers if status == 401} == {"The OAuth nonce was already used."}


async def one_idempotency_key_is_one_call(house: House) -> None:
    before = len(house.sandbox.requests)
    house.slow(0.3, times=1)
    assert await house.statuses(await house.new_key(), times=10, headers={"Idempotency-Key": "once"}) == {200: 10}
    assert len(house.sandbox.requests) - before == 1


async def a_key_is_switched_off_everywhere(house: House) -> None:
    key = await house.new_key()
    assert await house.statuses(key, times=20) == {200: 20}
    await KeyStore(house.database).disable(key.id)
    assert await house.statuses(key, times=20) == {401: 20}


async def test_one_that_is_killed_under_load_is_missed_by_nobody(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as house:
        key = await house.new_key(max_concurrent=40)
        victim, survivor = await house.pids()
        is_over = asyncio.Event()
        seen: Counter[str] = Counter()

        async def call() -> None:
            while not is_over.is_set():
                try:
                    status, _ = await house.post("/chat", chat(), bearer(key))
                    seen[str(status)] += 1
                except aiohttp.ClientError:  # it was with the victim
                    seen["cut"] += 1

        async def are_answered() -> bool:
            return seen["200"] > 50

        callers = [asyncio.create_task(call()) for _ in range(16)]
        await house.served.until(are_answered, "calls are answered")
        house.sandbox.faults.go_on = go_on = asyncio.Event()

        async def is_at_work() -> bool:
            under_way = await house.database.read(
                "SELECT pid FROM requests JOIN instances ON instances.number = instance WHERE state = 'open'"
            )
            return len(under_way) == len(callers) and (victim,) in under_way

        await house.served.until(is_at_work, "all calls are under way at the provider, some of them the victim's")
        os.kill(victim, signal.SIGKILL)
        go_on.set()

        async def is_replaced() -> bool:
            pids = await house.pids()
            return victim not in pids and survivor in pids and len(pids) == 2

        await house.served.until(is_replaced, "another worker has come, and cleaned up after the dead one")
        replacement = (await house.database.read("SELECT max(number) FROM instances"))[0][0]

        async def has_served() -> bool:
            return bool(await house.database.read("SELECT 1 FROM requests WHERE instance = ? LIMIT 1", (replacement,)))

        await house.served.until(has_served, "the replacement serves")
        is_over.set()
        await asyncio.gather(*callers)
        assert set(seen) <= {"200", "cut"}
        assert 0 < seen["cut"] <= 16, "only who was with the victim was cut"
        assert "killed by SIGKILL" in house.served.text()
        outcomes = Counter(row.outcome for row in await house.books.rows())
        assert outcomes["completed"] >= seen["200"]
        assert set(outcomes) <= {"completed", "interrupted"}
        await house.books.check()
        # Whatever the victim had under way counts no more.
        assert await house.statuses_while_held(key, times=60) == {200: 40, 429: 20}
        assert "bitmesh_requests_under_way 1.0" in await house.metrics()


async def test_a_signal_drains_all_and_lets_nobody_else_in(tmp_path: Path) -> None:
    env = {"BITMESH_SANDBOX__TOKEN_INTERVAL_MS": "20", "BITMESH_SANDBOX__MODE": "on"}
    async with two_workers(tmp_path, env) as house:
        key, served = await house.new_key(), house.served

        async def stream() -> bytes:
            body = chat("Hello [[sandbox: tokens=60]]", stream=True, max_tokens=60)
            async with house.http.post(served.url + "/chat", json=body, headers=bearer(key)) as answer:
                return await answer.read()

        streams = [asyncio.create_task(stream()) for _ in range(12)]

        async def are_with_both() -> bool:
            rows = await house.database.read("SELECT count(*), count(DISTINCT instance) FROM requests")
            return bool(rows[0] == (12, 2))

        await served.until(are_with_both, "both workers stream")
        served.process.send_signal(signal.SIGTERM)
        await served.until_it_says("draining")

        async def is_refused() -> bool:
            try:
                await house.post("/test", {}, {})
            except aiohttp.ClientConnectionError:
                return True
            return False

        await served.until(is_refused, "nobody else is let in")
        assert all(answer.endswith(b"data: [DONE]\n\n") for answer in await asyncio.gather(*streams))
        assert await served.ended() == 0
        assert "Traceback" not in served.text()
        assert await house.pids() == []
        await house.books.check()


async def test_a_background_response_is_followed_and_cancelled_at_any_worker(tmp_path: Path) -> None:
    env = {"BITMESH_SANDBOX__TOKEN_INTERVAL_MS": "20", "BITMESH_SANDBOX__MODE": "on"}
    async with two_workers(tmp_path, env) as house:
        headers = bearer(await house.new_key())

        async def make(tokens: int) -> str:
            text = f"Hello [[sandbox: tokens={tokens}]]"
            body = {"model": CHAT_MODEL, "input": text, "background": True, "stream": True, "max_output_tokens": tokens}
            async with house.http.post(house.served.url + "/v1/responses", json=body, headers=headers) as answer:
                first = (await answer.content.readuntil(b"\n\n")).decode()
            return str(json.loads(first.partition("data: ")[2])["response"]["id"])

        async def get(response_id: str, query: str = "") -> bytes:
            url = f"{house.served.url}/v1/responses/{response_id}{query}"
            async with house.http.get(url, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                return await answer.read()

        response_id = await make(30)
        assert {json.loads(await get(response_id))["status"] for _ in range(10)} == {"in_progress"}
        streams = await asyncio.gather(*(get(response_id, "?stream=true") for _ in range(10)))
        assert {stream.count(b"response.output_text.delta\n") for stream in streams} == {30}
        assert all(stream.endswith(b"data: [DONE]\n\n") for stream in streams)
        rests = await asyncio.gather(*(get(response_id, "?stream=true&starting_after=20") for _ in range(10)))
        assert {rest.partition(b"event: ")[2] for rest in rests} == {
            streams[0][streams[0].index(b"event: ", frame_at(streams[0], 21)) + 7 :]
        }
        for _ in range(3):  # one of them is made by the other worker than the one that is asked to cancel it
            response_id = await make(2000)
            url = f"{house.served.url}/v1/responses/{response_id}/cancel"
            async with house.http.post(url, headers=headers) as answer:
                assert (await answer.json())["status"] == "cancelled"
            assert {json.loads(await get(response_id))["status"] for _ in range(6)} == {"cancelled"}

        async def are_closed() -> bool:
            return all(row.state != "open" for row in await house.books.rows())

        await house.served.until(are_closed, "the provider's work has ended")
        await house.books.check()


async def test_background_responses_of_a_worker_that_was_killed_count_no_more(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as house:
        key = await house.new_key(max_concurrent=1)
        house.slow(60.0, times=1)
        body = {"model": CHAT_MODEL, "input": "Hello", "background": True}
        status, begun = await house.post("/v1/responses", body, bearer(key))
        assert status == 200

        async def is_at_work() -> bool:
            return bool(house.sandbox.requests)

        await house.served.until(is_at_work, "it is under way at the provider")
        assert await house.statuses(key, times=12) == {429: 12}, "at either worker"
        ((victim,),) = await house.database.read(
            "SELECT pid FROM requests JOIN instances ON instances.number = instance WHERE state = 'open'"
        )
        os.kill(victim, signal.SIGKILL)

        async def is_replaced() -> bool:
            pids = await house.pids()
            return victim not in pids and len(pids) == 2

        await house.served.until(is_replaced, "another worker has come, and cleaned up after the dead one")
        assert await house.statuses_while_held(key, times=12) == {200: 1, 429: 11}
        headers = bearer(key)
        async with house.http.get(f"{house.served.url}/v1/responses/{begun['id']}", headers=headers) as answer:
            assert (await answer.json())["error"]["code"] == "interrupted"
        await house.books.check()


def frame_at(stream: bytes, number: int) -> int:
    """Where the event with that sequence number begins."""
    return stream.index(b"event: ", stream.index(f'"sequence_number":{number - 1},'.encode()))
