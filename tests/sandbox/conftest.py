"""One sandbox a test, called over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.sandbox.callers import Caller, calling


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with calling() as caller:
        yield caller
