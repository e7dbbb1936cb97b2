"""The registry, the files and the packaged schemas agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import bitmesh_proxy.sandbox
from bitmesh_proxy.defaults import defaults_dir
from bitmesh_proxy.sandbox.registry import PLAYS
from bitmesh_proxy.sandbox.schemas import load_document

ROOM = Path(bitmesh_proxy.sandbox.__file__).parent


def test_plays_are_listed_in_order_and_all_of_them() -> None:
    names = [play.name for play in PLAYS]
    assert names == sorted(names)
    files = {path.stem for path in ROOM.glob("*.py") if re.search(r"^PLAY\b", path.read_text("utf-8"), re.MULTILINE)}
    assert set(names) == files


def test_every_offer_of_the_shipped_catalogue_has_an_upstream_on_a_first_run() -> None:
    offering = {
        offer["provider"]
        for path in (defaults_dir() / "models").glob("*.toml")
        for offer in tomllib.loads(path.read_text("utf-8"))["offer"]
    }
    assert offering
    assert offering <= {play.name for play in PLAYS}


def test_every_schema_is_there_used_and_has_its_source() -> None:
    for play in PLAYS:
        document = load_document(play.name)
        used = {name for route in play.routes for name in (route.schema, route.form_schema) if name}
        assert used == set(document["operations"])
        assert document["provenance"].keys() >= {"source", "version", "date"}
    packaged = {path.stem for path in (ROOM / "schemas").glob("*.json")}
    assert packaged == {play.name for play in PLAYS}
