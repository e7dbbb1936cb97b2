"""The lane beside aiohttp's plain way: the same requests, the same provider, every byte and every row alike.

Some 1,500 calls in a run, on both event loops; ``BITMESH_TEST_LANE_EXAMPLES`` (20) says how many dozens of each kind.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.journeys.provider_plays import case_of
from tests.journeys.twins import ONE, Case, Play, Seen, Twins, conversation, twins
from tests.web.lane.callers import LOOPS, json_answer

pytestmark = [pytest.mark.journey, pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = int(os.environ.get("BITMESH_TEST_LANE_EXAMPLES", "20"))

ANSWER = Play(pieces=[json_answer()])


class Running:
    """The twins on a loop of their own, for hypothesis, which knows no coroutines."""

    def __init__(self, directory: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._directory = directory
        self._runner = asyncio.Runner(loop_factory=new_loop)
        self._stack = AsyncExitStack()
        self.twins: Twins

    def __enter__(self) -> Running:
        self.twins = self._runner.run(self._stack.enter_async_context(twins(self._directory)))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def compare(self, cases: list[Case]) -> list[Seen]:
        """See Twins."""
        return self._runner.run(self.twins.compare(cases))


@pytest.fixture(scope="module", params=LOOPS)
def running(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("twins"), LOOPS[request.param]) as both:
        yield both


SEEDS = st.lists(st.integers(min_value=0, max_value=2**64 - 1), min_size=10, max_size=15, unique=True)


def some_hundreds(test: Callable[..., None]) -> Callable[..., None]:
    """Some times about twelve cases at once."""
    return settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])(
        given(seeds=SEEDS)(test)
    )


@some_hundreds
def test_whole_answers(running: Running, seeds: list[int]) -> None:
    running.compare([case_of(seed, stream=False, is_odd=False) for seed in seeds])


@some_hundreds
def test_streams(running: Running, seeds: list[int]) -> None:
    running.compare([case_of(seed, stream=True, is_odd=False) for seed in seeds])


@some_hundreds
def test_odd_calls(running: Running, seeds: list[int]) -> None:
    running.compare([case_of(seed, stream=seed % 2 == 0, is_odd=True) for seed in seeds])


def test_it_was_the_lane_that_was_compared(running: Running) -> None:
    """Of good calls aiohttp's handlers have seen none on the one side, and all on the other."""
    before = list(running.twins.plain)
    running.compare([Case(path="/chat", body=conversation(ONE), plays=[ANSWER]) for _ in range(20)])
    assert [now - then for now, then in zip(running.twins.plain, before, strict=True)] == [0, 20]
