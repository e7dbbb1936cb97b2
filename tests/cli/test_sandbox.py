"""``sandbox``: the providers' stand-in by itself, started and stopped as a person would."""

from __future__ import annotations

import asyncio
import re
import signal
import sys

import aiohttp
import pytest

pytestmark = pytest.mark.timeout(60)


async def test_it_says_what_it_plays_and_ends_when_told() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bitmesh_proxy", "sandbox", "--port", "0", "--token-interval-ms", "0"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    first = (await process.stdout.readline()).decode()
    found = re.search(r"http://127\.0\.0\.1:\d+", first)
    assert found is not None, first
    try:
        async with aiohttp.ClientSession() as http:
            url, headers = f"{found[0]}/together/v1/models", {"Authorization": "Bearer any"}
            async with http.get(url, headers=headers) as answer:
                assert answer.status == 200
                assert answer.headers["X-Bitmesh-Sandbox"] == "1"
    finally:
        process.send_signal(signal.SIGTERM)
    rest, _ = await process.communicate()
    assert process.returncode == 0
    assert re.search(r"^  openai +http", rest.decode(), re.MULTILINE)


async def test_a_host_that_can_be_no_name_is_said_in_a_line() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bitmesh_proxy", "sandbox", "--host", "a..b", "--port", "0"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode() == "bitmesh-proxy: cannot listen on a..b:0: that is no name of a host\n"
