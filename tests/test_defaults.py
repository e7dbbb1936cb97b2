"""The default files are found, and are those of ``config/``."""

from __future__ import annotations

from pathlib import Path

from bitmesh_proxy.defaults import defaults_dir

CONFIG = Path(__file__).parent.parent / "config"


def test_in_a_clone_the_defaults_are_the_files_of_config() -> None:
    assert defaults_dir().resolve() == CONFIG.resolve()
    assert sorted(path.name for path in (defaults_dir() / "models").glob("*.toml"))
