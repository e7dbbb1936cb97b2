"""Alive, and able to serve: two questions with two answers."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitmesh_proxy import __version__, keys
from bitmesh_proxy.errors import Unavailable
from bitmesh_proxy.storage.accounts import AccountStore
from tests.journeys.gateway import Gateway, running_gateway

NOBODY = {"Authorization": ""}


async def test_alive(gateway: Gateway) -> None:
    answer = await gateway.get("/health", headers=NOBODY)
    assert (answer.status, answer.json) == (200, {"status": "ok", "version": __version__})


async def test_who_drains_is_alive_and_not_ready(gateway: Gateway) -> None:
    assert (await gateway.get("/ready", headers=NOBODY)).status == 200
    gateway.app[keys.DRAINING].set()
    answer = await gateway.get("/ready", headers=NOBODY)
    assert (answer.status, answer.json["status"]) == (503, "not ready")
    assert answer.json["checks"]["accepting"] == "draining"
    assert (await gateway.get("/health", headers=NOBODY)).status == 200


async def test_monitors_may_ask_with_head(gateway: Gateway) -> None:
    async def asked(path: str) -> tuple[int, bytes]:
        answer = await gateway.call("HEAD", path, headers=NOBODY)
        return answer.status, answer.body

    assert (await asked("/health"), await asked("/ready")) == ((200, b""), (200, b""))
    gateway.app[keys.DRAINING].set()
    assert (await asked("/health"), await asked("/ready")) == ((200, b""), (503, b""))


async def test_a_database_that_cannot_be_written_is_named_without_its_cause(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, {"data": {"dir": str(tmp_path), "busy_timeout_s": 0.05}}) as gateway:
        intruder = sqlite3.connect(tmp_path / "bitmesh-proxy.db", isolation_level=None)
        intruder.execute("BEGIN IMMEDIATE")
        answer = await gateway.get("/ready", headers=NOBODY)
        intruder.execute("ROLLBACK")
        intruder.close()
        assert answer.status == 503
        assert answer.json["checks"]["database"] != "ok"
        assert "locked" not in answer.json["checks"]["database"]


@contextmanager
def no_longer_files_than(size_bytes: int) -> Iterator[None]:
    """As a full disk: what is there can be written over, and no file grows. (Python lets such a write fail.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_whose_last_write_failed_is_not_ready_until_one_can_be_made(gateway: Gateway) -> None:
    database = gateway.app[keys.DATABASE]
    log = database.path.with_name(database.path.name + "-wal")
    accounts = AccountStore(database)
    await accounts.create("before")
    with no_longer_files_than((await asyncio.to_thread(log.stat)).st_size):
        with pytest.raises(Unavailable):
            await accounts.create("after")
        for _ in range(2):
            answer = await gateway.get("/ready", headers=NOBODY)
            assert (answer.status, answer.json["status"]) == (503, "not ready")
            assert answer.json["checks"]["database"] != "ok"
    for _ in range(2):
        assert (await gateway.get("/ready", headers=NOBODY)).status == 200
    assert [each.name for each in await accounts.list()][-1] == "before"


async def test_counts_are_for_those_who_may_have_them(gateway: Gateway) -> None:
    await gateway.get("/test")
    assert (await gateway.get("/metrics", headers=NOBODY)).body.startswith(b"# HELP")
    stranger = await gateway.get("/metrics", headers={**NOBODY, "X-Forwarded-For": "203.0.113.9"})
    assert stranger.status == 404
