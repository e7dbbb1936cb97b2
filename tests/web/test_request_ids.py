"""Ids of requests: their form, and that none comes twice."""

from __future__ import annotations

import os
import re

from bitmesh_proxy.web.request_ids import RequestIds, make_request_id


def test_ids_look_as_they_are_documented_and_never_come_twice() -> None:
    made = [make_request_id() for _ in range(2000)]
    assert all(re.fullmatch(r"req_[0-9a-f]{24}", each) for each in made)
    assert len(set(made)) == len(made)


def test_every_random_byte_is_used_once() -> None:
    asked: list[int] = []

    def counted(size: int) -> bytes:
        asked.append(size)
        return bytes(range(256)) * (size // 256)

    ids = RequestIds(counted)
    first = "".join(ids.make()[-14:] for _ in range(256))
    assert first == (bytes(range(256)) * 7).hex()
    assert asked == [1792]
    ids.make()
    assert asked == [1792, 1792]


def test_ids_sort_by_their_time() -> None:
    now_ns = 1_700_000_000_000_000_000
    ids = RequestIds(clock_ns=lambda: now_ns)
    made = []
    for _ in range(100):
        made.append(ids.make())
        now_ns += 20_000_000
    assert made == sorted(made)
    assert made[0].startswith("req_17979cfe36")  # 2023-11-14


def test_a_forked_process_makes_ids_of_its_own() -> None:
    make_request_id()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, make_request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100).decode() != make_request_id()
    os.close(reading)
    os.close(writing)
