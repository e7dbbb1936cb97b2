"""Commands read what a server would offer: the shipped files and the operator's own, of further servers too."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitmesh_proxy.catalogue.row_files import CatalogueError
from bitmesh_proxy.cli.catalogue import read_catalogue
from bitmesh_proxy.settings import Catalogue, ProviderSettings, Settings

OWN = """
[[model]]
id = "local/tiny"
operation = "chat"
[[offer]]
model = "local/tiny"
provider = "workshop"
upstream_model = "tiny"
free = true
"""


def test_an_operators_models_at_a_further_server_are_read_beside_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    workshop = ProviderSettings(name="workshop", kind="openai_compatible", base_urls={"default": "http://127.0.0.1:9"})
    settings = Settings(catalogue=Catalogue(extra_dirs=(str(tmp_path),)), providers=(workshop,))
    catalogue = read_catalogue(settings)
    assert [offer.provider for offer in catalogue.get("local/tiny").offers] == ["workshop"]
    assert catalogue.find("openai/gpt-oss-120b") is not None
    with pytest.raises(CatalogueError, match="workshop"):
        read_catalogue(Settings(catalogue=settings.catalogue))
    (tmp_path / "own.toml").unlink()
    assert read_catalogue(settings).find("local/tiny") is None
