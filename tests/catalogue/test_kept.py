"""What is kept gives the very same catalogue, and is used only while nothing it was made from has changed."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.kept import KEPT_NAME, key_of, load_kept_catalogue, packed, unpacked
from bitmesh_proxy.catalogue.loader import catalogue_dirs, load_catalogue
from bitmesh_proxy.catalogue.row_files import CatalogueError
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.upstream.access import provider_names

ROWS = """
[[model]]
id = "acme/one"
operation = "chat"
title = "One"

[[offer]]
model = "acme/one"
provider = "alpha"
upstream_model = "one"
usd_per_million_input_tokens = "0.15"
usd_per_million_output_tokens = "0.60"
defaults = { temperature = 0.7, stop = ["a", "b"] }
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    (directory / "a.toml").write_text(ROWS, encoding="utf-8")
    return directory


def load(models: Path, *, providers: tuple[str, ...] = ("alpha",)) -> Catalogue:
    return load_kept_catalogue([models], providers=providers, directory=models.parent)


def marked(models: Path) -> None:
    """Change a title in what is kept, consistently, so that a catalogue from there can be told from one of the rows."""
    path = models.parent / KEPT_NAME
    found = unpacked(path.read_bytes())
    changed = Catalogue.build(replace(model, title="kept") for model in found.models)
    path.write_bytes(packed(replace(found, version=changed.version, models=changed.models)))


def test_the_shipped_catalogue_comes_back_the_same(tmp_path: Path) -> None:
    dirs, providers = catalogue_dirs(Settings()), provider_names(Settings())
    read = load_catalogue(dirs, providers=providers)
    first = load_kept_catalogue(dirs, providers=providers, directory=tmp_path)
    assert (tmp_path / KEPT_NAME).is_file()
    again = load_kept_catalogue(dirs, providers=providers, directory=tmp_path)
    assert read == first == again
    assert repr(read) == repr(again)
    assert [type(model.operation) for model in read.models] == [type(model.operation) for model in again.models]


def test_all_offers_of_a_provider_share_its_name(tmp_path: Path) -> None:
    for _ in range(2):  # as they were read, and as they were kept
        catalogue = load_kept_catalogue(
            catalogue_dirs(Settings()), providers=provider_names(Settings()), directory=tmp_path
        )
        names = [offer.provider for model in catalogue.models for offer in model.offers]
        assert len({id(name) for name in names}) == len(set(names)) < len(names) / 5


def test_the_second_time_it_is_what_was_kept(models: Path) -> None:
    assert load(models).get("acme/one").title == "One"
    marked(models)
    assert load(models).get("acme/one").title == "kept"


def edit(models: Path) -> None:
    (models / "a.toml").write_text(ROWS.replace("0.15", "0.16"), encoding="utf-8")


def add(models: Path) -> None:
    (models / "b.toml").write_text(ROWS.replace("one", "two"), encoding="utf-8")


def rename(models: Path) -> None:
    (models / "a.toml").rename(models / "c.toml")


@pytest.mark.parametrize("change", [edit, add, rename])
def test_files_that_changed_are_read_anew(models: Path, change: Callable[[Path], None]) -> None:
    load(models)
    marked(models)
    change(models)
    changed = load(models)
    assert changed.get("acme/one").title == "One"
    assert changed == load_catalogue([models], providers=["alpha"])
    marked(models)
    assert load(models).get("acme/one").title == "kept"


def test_other_providers_are_asked_anew(models: Path) -> None:
    load(models)
    marked(models)
    assert load(models, providers=("alpha", "beta")).get("acme/one").title == "One"
    with pytest.raises(CatalogueError, match="unknown provider 'alpha'"):
        load(models, providers=("beta",))


def test_a_catalogue_with_faults_is_not_kept(models: Path) -> None:
    (models / "b.toml").write_text("[[offer]]\nmodel = 1\n", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(CatalogueError, match=r"b\.toml"):
            load(models)
    assert not (models.parent / KEPT_NAME).exists()


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"junk", msgspec.msgpack.encode({"key": b"", "version": 1})])
def test_a_file_that_cannot_be_read_does_no_harm(models: Path, raw: bytes) -> None:
    path = models.parent / KEPT_NAME
    path.write_bytes(raw)
    assert load(models).get("acme/one").title == "One"
    assert unpacked(path.read_bytes()).models[0].id == "acme/one"


@pytest.mark.parametrize("place", [0, 31, 32, 60, -1])
def test_a_file_that_was_changed_is_not_believed(models: Path, place: int) -> None:
    load(models)
    marked(models)
    path = models.parent / KEPT_NAME
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    assert load(models).get("acme/one").title == "One"
    marked(models)
    path.write_bytes(path.read_bytes()[:-1])
    assert load(models).get("acme/one").title == "One"


@pytest.mark.parametrize(
    "value", ["2026-01-31", "{ at = [12:00:00] }", "nan", "170141183460469231731687303715884105727"]
)
def test_what_does_not_come_out_as_it_went_in_is_not_kept(models: Path, value: str) -> None:
    """A date among the provider's own options would come back as text."""
    (models / "a.toml").write_text(ROWS + f"options = {{ since = {value} }}\n", encoding="utf-8")
    read = load_catalogue([models], providers=["alpha"])
    for _ in range(2):
        assert repr(load(models)) == repr(read)
    assert not (models.parent / KEPT_NAME).exists()


def test_numbers_come_back_of_their_own_kind(models: Path) -> None:
    values = "options = { whole = 1, real = 1.0, yes = true, minus = -0.0, list = [1, 2.0, [true]], far = inf }\n"
    (models / "a.toml").write_text(ROWS + values, encoding="utf-8")
    read = load_catalogue([models], providers=["alpha"])
    for _ in range(2):
        assert repr(load(models)) == repr(read)
    assert (models.parent / KEPT_NAME).exists()


def test_a_copy_of_an_installation_need_not_read_anew(models: Path) -> None:
    load(models)
    marked(models)
    moved = models.rename(models.with_name("moved"))
    assert load(moved).get("acme/one").title == "kept"


def test_the_collector_is_left_as_it_was(models: Path) -> None:
    assert gc.isenabled()
    load(models)
    assert gc.isenabled()
    gc.disable()
    try:
        load(models)
        assert not gc.isenabled()
    finally:
        gc.enable()
    (models / "a.toml").write_text("junk", encoding="utf-8")
    with pytest.raises(CatalogueError):
        load(models)
    assert gc.isenabled()


def test_where_nothing_can_be_written_it_works_all_the_same(models: Path) -> None:
    for _ in range(2):
        found = load_kept_catalogue([models], providers=["alpha"], directory=models.parent / "nowhere")
        assert found.get("acme/one").title == "One"


def test_it_is_written_whole_and_for_us_only(models: Path) -> None:
    load(models)
    path = models.parent / KEPT_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in models.parent.iterdir()) == [KEPT_NAME, "models"]


def test_a_directory_that_can_no_longer_be_read_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CatalogueError, match="cannot be read"):
        load_kept_catalogue([tmp_path], providers=["alpha"], directory=tmp_path)


def test_directories_that_are_not_there_are_faults(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="not a directory"):
        load_kept_catalogue([tmp_path / "nowhere"], providers=[], directory=tmp_path)


def test_its_key_covers_the_code_that_reads_the_files(models: Path, tmp_path: Path) -> None:
    """So that nobody who changes that code sees what it gave before."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "loader.py").write_text("A = 1\n")
    keys = [key_of([models], ["alpha"], code=code) for _ in range(2)]
    os.utime(code / "loader.py", ns=(0, 0))
    keys.append(key_of([models], ["alpha"], code=code))
    (code / "rows.py").write_text("")
    keys.append(key_of([models], ["alpha"], code=code))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_another_key_is_read_anew(models: Path, tmp_path: Path) -> None:
    load(models)
    path = tmp_path / KEPT_NAME
    found = unpacked(path.read_bytes())
    path.write_bytes(packed(replace(found, key=bytes(32))))
    assert load(models).get("acme/one").title == "One"
    assert unpacked(path.read_bytes()).key == found.key
