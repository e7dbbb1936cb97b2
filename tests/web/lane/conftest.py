"""Connections are tried on both event loops, which read, write and call in different orders."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from tests.journeys.gateway import Gateway, running_gateway
from tests.web.lane.callers import LOOPS


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    return LOOPS if item.path.name in ("test_protocol.py", "test_server.py") else {"asyncio": LOOPS["asyncio"]}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path / "data") as running:
        yield running
