"""Limits that several workers share, met in one step: callers see what they see with one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.app import add_limits
from bitmesh_proxy.auth.secrets import token_digest
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.storage.keys import KeyStore
from bitmesh_proxy.web.lane.call import LaneCall
from bitmesh_proxy.web.lane.entry import Entry, Visitor
from bitmesh_proxy.web.lane.lane import Lane
from bitmesh_proxy.web.lane.reply import LaneReply
from bitmesh_proxy.web.route import PLAIN_CALLS_KEY
from bitmesh_proxy.worker import Doors, Memories, Worker
from tests.journeys.gateway import Gateway, chat, running_gateway
from tests.web.lane.test_call import Line, ended

RATES = {
    "address_per_minute": 1,
    "key_per_minute": 1,
    "endpoint_per_minute": {"chat": 9},
    "address_burst": 9,
    "key_burst": 9,
    "key_max_concurrent": 9,
}
#: Which of them is met at the fifth call.
TIGHT: list[dict[str, Any]] = [
    {"address_burst": 4},
    {"key_burst": 4},
    {"endpoint_per_minute": {"chat": 4}},
    {"key_max_concurrent": 4},
]


@pytest.fixture
def worker() -> Iterator[Worker]:
    """The first of two."""
    memories, doors = Memories.create(2), Doors.open(2)
    try:
        yield Worker(
            seat=0,
            seats=2,
            memories=memories,
            doors=doors,
            catalogue=Catalogue.build(()),
            sandbox_url=None,
            is_first=True,
        )
    finally:
        memories.close()
        for sock in doors.sockets:
            sock.close()


def entry_of(gateway: Gateway, lane: Lane) -> Entry:
    """The gateway's key's request, as a remembered head gives it again and again."""
    route = gateway.app[PLAIN_CALLS_KEY]["/chat"]
    return lane.entry_of(route, Visitor("127.0.0.1", gateway.url), token_digest(gateway.key.token))


def begin(lane: Lane, entry: Entry, newcomer: bytes = b"") -> tuple[LaneCall, Line]:
    line = Line()
    context = lane.context_of(entry)
    call = LaneCall(lane, line, entry, context, LaneReply(line, context.request_id))
    call.begin(orjson.dumps(chat()), newcomer)
    return call, line


async def what_callers_see(tmp_path: Path, limits: dict[str, Any], shared: Worker | None) -> list[list[bytes]]:
    """Of six calls that begin together: status, headers of limits, and what those hear who are refused."""

    def prepare(app: web.Application) -> None:
        add_limits(app, app[keys.SETTINGS].limits, shared)

    async with running_gateway(tmp_path, {"limits": limits}, prepare=prepare) as gateway:
        lane = Lane(gateway.app)
        entry = entry_of(gateway, lane)
        lines = [begin(lane, entry)[1] for _ in range(6)]
        assert (entry.gate is not None) is (shared is not None)
        assert (entry.passage is None) is (shared is not None)
        for line in lines:
            await ended(line)
        assert gateway.app[keys.CONCURRENCY_LIMIT].running(gateway.key.id) == 0
        return [seen(line) for line in lines]


def seen(line: Line) -> list[bytes]:
    """But for times, which pass."""
    head, _, body = line.data.partition(b"\r\n\r\n")
    names = b"ratelimit-limit", b"ratelimit-remaining", b"ratelimit-policy", b"x-ratelimit-limit", b"x-ratelimit-rem"
    told = [each for each in head.split(b"\r\n") if each.lower().startswith(names)]
    return [head[9:12], *told, b"" if line.status == 200 else body.partition(b"Try again in")[0]]


@pytest.mark.parametrize("tight", TIGHT, ids=lambda tight: next(iter(tight)))
async def test_whichever_limit_is_met_it_says_what_it_says_in_one_process(
    tmp_path: Path, worker: Worker, tight: dict[str, Any]
) -> None:
    limits = {**RATES, **tight}
    together = await what_callers_see(tmp_path / "together", limits, worker)
    alone = await what_callers_see(tmp_path / "alone", limits, None)
    assert together == alone
    assert [status for status, *_ in alone] == [b"200"] * 4 + [b"429"] * 2


async def test_a_key_that_was_switched_off_is_out_though_it_had_a_gate(tmp_path: Path, worker: Worker) -> None:
    def prepare(app: web.Application) -> None:
        add_limits(app, app[keys.SETTINGS].limits, worker)

    async with running_gateway(tmp_path, {"limits": RATES}, prepare=prepare) as gateway:
        lane = Lane(gateway.app)
        entry = entry_of(gateway, lane)
        lines = [begin(lane, entry)[1] for _ in range(3)]
        for line in lines:
            await ended(line)
        assert [line.status for line in lines] == [200] * 3
        assert entry.gate is not None
        await KeyStore(gateway.app[keys.DATABASE]).disable(gateway.key.id)
        assert begin(lane, entry)[1].status == 401
        assert gateway.app[keys.CONCURRENCY_LIMIT].running(gateway.key.id) == 0


@pytest.mark.parametrize("is_shared", [False, True])
async def test_newcomers_leave_nothing_in_the_entry_that_they_have_in_common(
    tmp_path: Path, worker: Worker, is_shared: bool
) -> None:
    def prepare(app: web.Application) -> None:
        add_limits(app, app[keys.SETTINGS].limits, worker if is_shared else None)

    async with running_gateway(tmp_path, {"limits": {**RATES, "key_burst": 2}}, prepare=prepare) as gateway:
        lane = Lane(gateway.app)
        common = lane.entry_of(gateway.app[PLAIN_CALLS_KEY]["/chat"], Visitor("127.0.0.1", gateway.url))
        for key in (gateway.key, await gateway.new_key()):
            # The directory has to ask for the first of them, and knows the second.
            calls = [begin(lane, common, token_digest(key.token)) for _ in range(3)]
            assert calls.pop()[1].status == 429
            for call, line in calls:
                await ended(line)
                assert call.caller is not None
                assert (line.status, call.caller.key_id) == (200, key.id)
        assert begin(lane, common, token_digest("nobody's"))[1].status == 401
        assert (common.token_digest, common.caller, common.buckets, common.gate) == (b"", None, None, None)
