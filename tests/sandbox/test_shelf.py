"""Files are kept as recipes, the oldest goes first."""

from __future__ import annotations

from bitmesh_proxy.sandbox.pictures import Picture
from bitmesh_proxy.sandbox.shelf import Shelf, ShelvedFile


def test_the_shelf_is_bounded() -> None:
    shelf = Shelf(max_files=2)
    for name in "abc":
        shelf.put(name, ShelvedFile(recipe=Picture(prompt=name, width=8, height=8), expires_at=1.0))
    assert len(shelf) == 2
    assert shelf.find("a") is None
    found = shelf.find("c")
    assert found is not None
    assert found.expires_at == 1.0
