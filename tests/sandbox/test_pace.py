"""Tokens come one by one, at the pace of the options or of a directive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp.test_utils import make_mocked_request

from bitmesh_proxy.sandbox.faults import Directives
from bitmesh_proxy.sandbox.openai import PLAY
from bitmesh_proxy.sandbox.pace import paced
from bitmesh_proxy.sandbox.performance import STAGE
from bitmesh_proxy.sandbox.plays import Ask
from bitmesh_proxy.sandbox.server import make_sandbox
from bitmesh_proxy.sandbox.stage import Options

NEVER_S = 3000.0


async def first_two(tokens: AsyncIterator[tuple[int, str]]) -> list[tuple[int, str]]:
    return [await anext(tokens), await anext(tokens)]


async def test_without_an_interval_tokens_follow_each_other() -> None:
    ask = Ask(request=make_mocked_request("GET", "/"), stage=make_sandbox()[STAGE], play=PLAY)
    assert [token async for token in paced(ask, ("a", "b", "c"))] == [(0, "a"), (1, "b"), (2, "c")]


async def test_the_first_token_comes_at_once_and_the_second_waits() -> None:
    stage = make_sandbox(options=Options(token_interval_s=NEVER_S))[STAGE]
    ask = Ask(request=make_mocked_request("GET", "/"), stage=stage, play=PLAY)
    tokens = paced(ask, ("a", "b"))
    assert await anext(tokens) == (0, "a")
    second = asyncio.ensure_future(anext(tokens))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not second.done()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_a_directive_sets_another_pace() -> None:
    stage = make_sandbox(options=Options(token_interval_s=NEVER_S))[STAGE]
    ask = Ask(request=make_mocked_request("GET", "/"), stage=stage, play=PLAY)
    hurried = replace(ask, directives=Directives(interval_ms=0.0))
    # 0 is a directive's own value here, and not "nothing said".
    assert await first_two(paced(hurried, ("a", "b"))) == [(0, "a"), (1, "b")]
