"""The guard of ``conftest.py`` sees our code block the loop, and only that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bitmesh_proxy.settings import Settings
from bitmesh_proxy.settings_sources import load_settings


async def test_our_code_may_not_read_a_file_on_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("")  # a test may
    with pytest.raises(Exception, match=r"^open .* on the event loop, from settings_sources\.py"):
        load_settings(path)


async def test_our_code_may_read_it_in_a_thread(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("")
    assert await asyncio.to_thread(load_settings, path, environ={}) == Settings()


def test_our_code_may_read_it_without_a_loop(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("")
    assert load_settings(path, environ={}) == Settings()
