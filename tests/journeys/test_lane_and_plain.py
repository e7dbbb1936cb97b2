"""The lane beside aiohttp's plain way: the same requests, the same provider, every byte and every row alike.

Some 3,000 calls in a run, on both event loops, to a provider with and without TLS; ``BITMESH_TEST_LANE_EXAMPLES`` (20)
says how many dozens of each kind.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.journeys.provider_plays import case_of
from tests.journeys.twins import ONE, Case, Play, Seen, Twins, conversation, twins
from tests.upstream.tls_provider import PEM, serving
from tests.web.lane.callers import LOOPS, json_answer

pytestmark = [pytest.mark.journey, pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = int(os.environ.get("BITMESH_TEST_LANE_EXAMPLES", "20"))

ANSWER = Play(pieces=[json_answer()])


class Running:
    """The twins on a loop of their own, for hypothesis, which knows no coroutines."""

    def __init__(
        self, directory: Path, new_loop: Callable[[], asyncio.AbstractEventLoop], *, tls: ssl.SSLContext | None
    ) -> None:
        self._directory = directory
        self._tls = tls
        self._runner = asyncio.Runner(loop_factory=new_loop)
        self._stack = AsyncExitStack()
        self.twins: Twins

    def __enter__(self) -> Running:
        self.twins = self._runner.run(self._stack.enter_async_context(twins(self._directory, tls=self._tls)))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()

    def compare(self, cases: list[Case]) -> list[Seen]:
        """See Twins."""
        return self._runner.run(self.twins.compare(cases))


@pytest.fixture(scope="module", params=[*LOOPS, *(f"{name}, tls" for name in LOOPS)])
def running(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Running]:
    name, _, is_tls = request.param.partition(", ")
    tls = serving() if is_tls else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(PEM))
        with Running(tmp_path_factory.mktemp("twins"), LOOPS[name], tls=tls) as both:
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
