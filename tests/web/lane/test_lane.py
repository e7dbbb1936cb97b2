"""What the lane takes, and whom it lets go on."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from bitmesh_proxy import keys
from bitmesh_proxy.auth.secrets import token_digest
from bitmesh_proxy.errors import RateLimited, TooManyConcurrent
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.key_directory import LOOK_INTERVAL_S
from bitmesh_proxy.storage.keys import KeyStore
from bitmesh_proxy.web.lane.entry import Visitor
from bitmesh_proxy.web.lane.lane import MAX_BODY_BYTES, MAX_COMING_BYTES, Lane
from tests.journeys.gateway import Gateway, bearer, chat, running_gateway
from tests.web.lane.raw_requests import PLAIN, TOKEN, Headers, parsed, replaced, request, taken


async def test_a_plain_call(gateway: Gateway) -> None:
    found = taken(Lane(gateway.app))
    assert found is not None
    route, visitor, digest = found
    assert (route.method, route.path, route.name) == ("POST", "/chat", "chat")
    assert visitor == Visitor("192.0.2.1", "http://ai.example")
    assert digest == token_digest(TOKEN)


MORE_HEADERS: tuple[Headers, ...] = (
    (("User-Agent", "x"), ("Accept", "*/*"), ("Accept-Encoding", "gzip"), ("Connection", "keep-alive")),
    (("X-A", "x" * 3000),),
    (("X-Forwarded-For", "203.0.113.7"),),
    (("Content-Lengths", "7"), ("XContent-Length", "7")),
)


async def test_more_headers_do_not_matter(gateway: Gateway) -> None:
    expected = taken(Lane(gateway.app))
    for more in MORE_HEADERS:
        assert taken(Lane(gateway.app), (*PLAIN, *more)) == expected


async def test_json_is_taken_however_its_alphabet_is_named(gateway: Gateway) -> None:
    expected = taken(Lane(gateway.app))
    for parameter in ("; charset=utf-8", ";charset=utf-8", "; charset=UTF-8", ";charset=UTF-8"):
        assert taken(Lane(gateway.app), replaced("Content-Type", "application/json" + parameter)) == expected, parameter


NOT_TAKEN: dict[str, Headers] = {
    "a page's": (*PLAIN, ("Origin", "https://a.example")),
    "under a key": (*PLAIN, ("idempotency-key", "k")),
    "packed": (*PLAIN, ("Content-Encoding", "gzip")),
    "expects": (*PLAIN, ("Expect", "100-continue")),
    "last": (*PLAIN, ("Connection", "close")),
    "an upgrade": (*PLAIN, ("Connection", "upgrade"), ("Upgrade", "websocket")),
    "no type": replaced("Content-Type", None),
    "text": replaced("Content-Type", "text/plain"),
    "a form": replaced("Content-Type", "multipart/form-data; boundary=x"),
    "like JSON": replaced("Content-Type", "application/json-patch+json"),
    "another alphabet": replaced("Content-Type", "application/json; charset=latin-1"),
    "no credential": replaced("Authorization", None),
    "signed": replaced("Authorization", 'OAuth oauth_consumer_key="x"'),
    "basic": replaced("Authorization", "Basic eDp5"),
    "no token": replaced("Authorization", "Bearer"),
    "a token of bytes": replaced("Authorization", "Bearer \udcff\udcfe"),
    "two tokens": (*PLAIN, ("Authorization", "Bearer another")),
    "two kinds of token": (*PLAIN, ("X-Api-Key", "another")),
}


async def test_what_the_plain_way_is_for(gateway: Gateway) -> None:
    for name, headers in NOT_TAKEN.items():
        lane = Lane(gateway.app)
        assert taken(lane, headers) is None, name
        assert taken(lane) is not None
        assert taken(lane, headers) is None, name


OTHER_LINES = (
    "GET /chat HTTP/1.1",
    "PUT /chat HTTP/1.1",
    "POST /chat HTTP/1.0",
    "POST /image HTTP/1.1",
    "POST /chat/ HTTP/1.1",
    "POST /chat?a=b HTTP/1.1",
    "POST /%63hat HTTP/1.1",
    "POST http://x/chat HTTP/1.1",
    "POST //chat HTTP/1.1",
)


async def test_other_places_and_methods(gateway: Gateway) -> None:
    lane = Lane(gateway.app)
    assert [line for line in OTHER_LINES if taken(lane, line=line) is not None] == []


async def test_bodies(gateway: Gateway, tmp_path: Path) -> None:
    lane = Lane(gateway.app)
    assert taken(lane, body=b"") is None
    assert taken(lane, body=b"x" * MAX_BODY_BYTES) is not None
    assert taken(lane, body=b"x" * (MAX_BODY_BYTES + 1)) is None
    assert taken(lane, body=b"{", length="2") is not None, "the rest is on its way"
    assert taken(lane, body=b"{", length=str(MAX_COMING_BYTES)) is not None
    assert taken(lane, body=b"{", length=str(MAX_COMING_BYTES + 1)) is None, "it may take its time"
    async with running_gateway(tmp_path / "less", {"http": {"max_body_bytes": 10}}) as less:
        assert taken(Lane(less.app), body=b"x" * 10) is not None
        assert taken(Lane(less.app), body=b"x" * 11) is None


async def test_a_body_in_chunks_is_not_taken(gateway: Gateway) -> None:
    head = "POST /chat HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in PLAIN)
    data = head.encode() + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    assert Lane(gateway.app).takes(*parsed(data), "192.0.2.1") is None


# ---------------------------------------------------------------- who may go on


async def test_limits_are_those_of_the_plain_way(tmp_path: Path) -> None:
    limits = {"address_per_minute": 2, "address_burst": 2, "key_per_minute": 1, "key_burst": 1, "key_max_concurrent": 1}
    async with running_gateway(tmp_path, {"limits": {**limits, "endpoint_per_minute": {"chat": 7}}}) as gateway:
        lane = Lane(gateway.app)
        data = request(replaced("Authorization", f"Bearer {gateway.key.token}"))
        entry = lane.takes(*parsed(data), "127.0.0.1")
        assert entry is not None
        address = entry.address_bucket
        assert address is not None
        caller = lane.authenticator.by_token_digest(entry.token_digest)
        assert caller.key_id == gateway.key.id
        key, endpoint = lane.buckets_of(entry, caller)
        assert lane.buckets_of(entry, caller)[0].limit is key.limit
        assert address.limit.take(address.key) >= 0
        assert (await gateway.get("/test")).status == 200  # from the same address, with the same key
        assert (address.limit.take(address.key), key.limit.take(key.key)) == (-1, -1)
        for bucket in (address, key):
            with pytest.raises(RateLimited):
                bucket.limit.admit(bucket.identifier)
        assert endpoint.limit.take(endpoint.key) == 60_000_000
        with pytest.raises(RateLimited, match="with this API key"):
            lane.admit_newcomer(entry, caller)
        assert (entry.caller, entry.max_concurrent) == (caller, 1)
        assert entry.buckets is None
        lane.slots.take(caller.key_id, entry.max_concurrent)
        with pytest.raises(TooManyConcurrent):
            lane.slots.take(caller.key_id, entry.max_concurrent)
        lane.slots.give_back(caller.key_id)
        assert gateway.app[keys.CONCURRENCY_LIMIT].running(caller.key_id) == 0


@pytest.mark.parametrize("limits", [{}, {"key_per_minute": 5}, {"key_per_minute": 5, "key_burst": 2}])
async def test_whoever_comes_first_is_admitted_like_whoever_comes_again(
    tmp_path: Path, limits: dict[str, object]
) -> None:
    of_chat = {"endpoint_per_minute": {"chat": 4}} if limits else {}
    async with running_gateway(tmp_path, {"limits": {**limits, **of_chat}}) as gateway:
        lane = Lane(gateway.app)
        data = request(replaced("Authorization", f"Bearer {gateway.key.token}"))
        entry = lane.takes(*parsed(data), "127.0.0.1")
        assert entry is not None
        caller = lane.authenticator.by_token_digest(entry.token_digest)
        first = lane.admit_newcomer(entry, caller)
        again = [(bucket.limit, bucket.limit.take(bucket.key)) for bucket in lane.buckets_of(entry, caller)]
        assert [each[0] for each in first if isinstance(each, tuple)] == [limit for limit, _ in again]
        assert len(first) == len(again) == (2 if limits else 0)
        assert all(limit.token < missing <= 2 * limit.token for limit, missing in again)


async def test_what_was_looked_up_of_a_key_is_not_used_when_the_key_changes(tmp_path: Path) -> None:
    """With heads that are remembered, on one connection."""
    limits = {"key_per_minute": 0, "key_max_concurrent": 0}
    async with running_gateway(tmp_path, {"limits": limits}) as gateway:
        assert (await gateway.post("/chat", chat())).status == 200
        assert "RateLimit-Limit" not in (await gateway.post("/chat", chat())).headers
        await gateway.app[keys.DATABASE].write(
            lambda connection: connection.execute("UPDATE keys SET rate_per_minute = 2")
        )
        answers = [await gateway.post("/chat", chat()) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]


async def test_who_is_remembered_is_refused_once_the_key_is_switched_off(tmp_path: Path) -> None:
    """In another process, as far as the gateway can tell."""
    async with running_gateway(tmp_path) as gateway:
        elsewhere = await Database.open(gateway.app[keys.DATABASE].path, busy_timeout_s=5.0, max_pending_writes=10)
        try:
            for _ in range(3):
                assert [(await gateway.post("/chat", chat())).status for _ in range(2)] == [200, 200]
                await KeyStore(elsewhere).disable(gateway.key.id)
                assert [(await gateway.post("/chat", chat())).status for _ in range(2)] == [401, 401]
                await KeyStore(elsewhere).enable(gateway.key.id)
        finally:
            await elsewhere.close()


async def test_who_is_remembered_is_refused_once_the_time_is_over(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        over_s = time.time() + 0.5
        key, statuses = await gateway.new_key(expires_at_s=over_s), [0]
        while statuses[-1] != 401:
            asked_s = time.time()
            statuses.append((await gateway.post("/chat", chat(), headers=bearer(key))).status)
            assert statuses[-1] == 401 or asked_s < over_s
        assert time.time() >= over_s - 0.001  # kept in milliseconds
        assert set(statuses[1:-1]) <= {200}


async def test_addresses_are_limited_though_nobody_knows_whose_keys_are(tmp_path: Path) -> None:
    """The books cannot be read: to hear that costs a token of the address, for a key that is known and for one that is
    not."""
    limits = {"address_per_minute": 4, "address_burst": 4, "key_per_minute": 5}
    async with running_gateway(tmp_path, {"limits": limits}) as gateway:
        assert (await gateway.post("/chat", chat())).status == 200
        with closing(sqlite3.connect(gateway.app[keys.DATABASE].path)) as connection:
            connection.execute("ALTER TABLE versions RENAME TO unseen")
            await asyncio.sleep(2 * LOOK_INTERVAL_S)  # then the directory looks
            nobody = {"Authorization": "Bearer bm_nobody"}
            answers = [await gateway.post("/chat", chat(), headers=each) for each in ({}, nobody, {}, nobody)]
            connection.execute("ALTER TABLE unseen RENAME TO versions")  # to end in order
        assert [answer.status for answer in answers] == [500, 500, 500, 429]
        assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
        assert all("key" not in answer.headers["RateLimit-Policy"] for answer in answers)
