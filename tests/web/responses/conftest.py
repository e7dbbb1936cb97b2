"""A database of its own for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bitmesh_proxy.storage.database import Database
from tests.first_start import lay_database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    await asyncio.to_thread(lay_database, tmp_path / "books.db")
    database = await Database.open(tmp_path / "books.db", busy_timeout_s=5.0, max_pending_writes=100)
    yield database
    await database.close()
