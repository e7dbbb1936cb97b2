"""What workers have in common, and what is divided among them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.errors import RateLimited, TooManyConcurrent
from bitmesh_proxy.limits.per_address import AddressLimit
from bitmesh_proxy.limits.per_endpoint import EndpointLimit
from bitmesh_proxy.limits.per_key import KeyLimit
from bitmesh_proxy.settings import SettingsError
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.shared_memory import SharedMemory
from bitmesh_proxy.worker import Doors, Memories, Worker, settings_of_seat

SEATS = 2


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    memories, doors = Memories.create(SEATS), Doors.open(SEATS)
    yield [
        Worker(
            seat=seat,
            seats=SEATS,
            is_first=seat == 0,
            memories=memories,
            doors=doors,
            catalogue=Catalogue.build(()),
            sandbox_url=None,
        )
        for seat in range(SEATS)
    ]
    memories.close()
    for sock in doors.sockets:
        sock.close()


def test_every_limit_is_that_of_all_workers(workers: list[Worker]) -> None:
    addresses = [AddressLimit(60, burst=3, buckets=worker.address_buckets) for worker in workers]
    keys = [KeyLimit(60, burst=3, buckets=worker.key_buckets) for worker in workers]
    endpoints = [EndpointLimit({"chat": 3}, buckets=worker.endpoint_buckets) for worker in workers]
    under_way = [worker.concurrency_limit(3) for worker in workers]
    for number in range(3):
        assert addresses[number % SEATS].admit("192.0.2.1") is not None
        assert keys[number % SEATS].admit("key_1") is not None
        assert endpoints[number % SEATS].admit("key_1", "chat") is not None
        under_way[number % SEATS].take("key_1", 3)
    for seat in range(SEATS):
        with pytest.raises(RateLimited):
            addresses[seat].admit("192.0.2.1")
        with pytest.raises(RateLimited):
            keys[seat].admit("key_1")
        with pytest.raises(RateLimited):
            endpoints[seat].admit("key_1", "chat")
        with pytest.raises(TooManyConcurrent):
            under_way[seat].take("key_1", 3)


def test_a_dead_workers_calls_are_under_way_no_more_and_its_counts_stay(workers: list[Worker]) -> None:
    first, second = workers
    first.concurrency_limit(1).take("key_1", 1)
    first.metrics.under_way += 1
    first.metrics.note_request("chat", 200, duration_ms=1)
    first.write_waits.note(0.001, writes=1)
    first.memories.forget_seat(0, seats=SEATS)
    second.concurrency_limit(1).take("key_1", 1)
    text = second.metrics.render()
    assert b"bitmesh_requests_under_way 0.0" in text
    assert b'bitmesh_requests_total{endpoint="chat",status="200"} 1.0' in text
    assert b"bitmesh_ledger_write_seconds_count 1.0" in text


def test_the_dead_are_forgotten_while_another_worker_stands_still_in_the_middle_of_a_step(
    workers: list[Worker],
) -> None:
    """The supervisor must not wait for one that it may have to kill."""
    first, second = workers
    first.concurrency_limit(1).take("key_1", 1)
    memories = first.memories
    standing_still = SharedMemory(os.dup(memories.limits.descriptor))
    with standing_still.locked():
        memories.forget_seat(0, seats=SEATS)
    standing_still.close()
    second.concurrency_limit(1).take("key_1", 1)


def test_promises_to_providers_are_divided_and_add_up() -> None:
    tree: dict[str, Any] = {
        "upstream": {"max_connections_per_provider": 100},
        "providers": [{"name": "openai", "max_concurrent": 8}, {"name": "groq"}],
    }
    settings = load_settings(environ={}, overrides=tree)
    shares = [settings_of_seat(settings, seat, seats=3) for seat in range(3)]
    assert [share.upstream.max_connections_per_provider for share in shares] == [34, 33, 33]
    assert [[provider.max_concurrent for provider in share.providers] for share in shares] == [[3, 0], [3, 0], [2, 0]]
    assert [share.limits for share in shares] == [settings.limits] * 3


def test_a_promise_that_cannot_be_divided_is_refused() -> None:
    tree: dict[str, Any] = {"providers": [{"name": "openai", "max_concurrent": 2}]}
    settings = load_settings(environ={}, overrides=tree)
    with pytest.raises(SettingsError, match=r"openai\.max_concurrent"):
        settings_of_seat(settings, 0, seats=3)
