"""A running gateway for every journey that needs no settings of its own, and the two ways that a chat call can take.

Chat calls go the lane's way (``web/lane``) or aiohttp's. What is marked ``both_ways`` runs once with each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.journeys.gateway import QUICK, Gateway, running_gateway


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("both_ways") is not None:
        metafunc.parametrize("way", ["lane", "plain"], indirect=True)


@pytest.fixture(autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways of this test have a lane, or not; those of tests that do not say have one."""
    monkeypatch.setitem(QUICK["http"], "lane", getattr(request, "param", "lane") == "lane")


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running_gateway(tmp_path / "data") as running:
        yield running
