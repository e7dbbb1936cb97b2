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
    first = "".join(ids.make().removeprefix("req_") for _ in range(256))
    assert first == (bytes(range(256)) * 12).hex()
    assert asked == [3072]
    ids.make()
    assert asked == [3072, 3072]


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
