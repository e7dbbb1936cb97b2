"""Settings: the example file that cannot go stale, and where directories and credentials are."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bitmesh_proxy.catalogue.loader import load_catalogue
from bitmesh_proxy.settings import ProviderSettings, Settings, SettingsError, resolve_credential, resolve_data_dir
from bitmesh_proxy.settings_sources import load_settings
from tests.test_settings_sources import load

EXAMPLE = Path(__file__).parents[1] / "config" / "bitmesh-proxy.example.toml"


# ---------------------------------------------------------------- the example file


def example_with_every_key() -> dict[str, Any]:
    """The example file with each ``#key`` and ``#[[table]]`` line taken at its word."""
    return tomllib.loads(re.sub(r"^#(?=[a-z_\[])", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE))


def settings_keys() -> Iterator[tuple[str, str, Any]]:
    """Table, key and default of every setting outside ``[[providers]]``, in TOML's own types."""
    for table, values in msgspec.to_builtins(Settings()).items():
        if isinstance(values, Mapping):
            for key, value in values.items():
                yield table, key, list(value) if isinstance(value, tuple) else value


def test_the_example_changes_nothing_as_it_stands() -> None:
    assert load_settings(EXAMPLE, environ={}) == Settings()


def test_the_example_shows_every_setting_with_its_default() -> None:
    tables = example_with_every_key()
    missing = [f"{table}.{key}" for table, key, _ in settings_keys() if key not in tables.get(table, {})]
    assert missing == []
    for table, key, default in settings_keys():
        shown = tables[table][key]
        assert (shown, type(shown)) == (default, type(default)), f"{table}.{key}"


def test_the_example_shows_nothing_that_is_no_setting() -> None:
    tables = example_with_every_key()
    known = {(table, key) for table, key, _ in settings_keys()}
    shown = {(table, key) for table, values in tables.items() if table != "providers" for key in values}
    assert shown - known == set()


def test_the_example_shows_every_key_of_a_provider_and_is_itself_valid(tmp_path: Path) -> None:
    providers = example_with_every_key()["providers"]
    assert {key for provider in providers for key in provider} == {
        field.encode_name for field in msgspec.structs.fields(ProviderSettings)
    }
    text = re.sub(r"^#(?=[a-z_\[])", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [provider.name for provider in load(tmp_path, text).providers] == ["together", "workshop"]


def test_every_key_of_the_example_is_explained() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    for before, line in pairwise(lines):
        if re.match(r"#[a-z_]+ = ", line):
            assert before.startswith("# "), f"no explanation above: {line}"


def test_the_rows_that_the_example_shows_are_good_rows(tmp_path: Path) -> None:
    rows = re.findall(r"^#     (.*)$", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (tmp_path / "own.toml").write_text("\n".join(rows), encoding="utf-8")
    (offer,) = load_catalogue([tmp_path], providers={"workshop"}).get("workshop/llama").offers
    assert offer.markup_nano == 1_500_000_000


# ---------------------------------------------------------------- directories and credentials


def test_the_data_directory_by_its_rule(tmp_path: Path) -> None:
    chosen = load(tmp_path, f"[data]\ndir = '{tmp_path}/mine'")
    assert resolve_data_dir(chosen, {"STATE_DIRECTORY": "/s"}) == tmp_path / "mine"
    plain = Settings()
    assert resolve_data_dir(plain, {"STATE_DIRECTORY": "/s:/t", "XDG_DATA_HOME": "/x"}) == Path("/s")
    assert resolve_data_dir(plain, {"XDG_DATA_HOME": "/x"}) == Path("/x/bitmesh-proxy")
    assert resolve_data_dir(plain, {}) == Path.home() / ".local/share/bitmesh-proxy"


def test_a_credential_is_read_from_where_it_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "together").write_text("  secret\n")
    environ = {"KEY": " from-env ", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert resolve_credential("env:KEY", environ) == "from-env"
    assert resolve_credential("env:MISSING", environ) == ""
    assert resolve_credential(f"file:{tmp_path}/together", environ) == "secret"
    assert resolve_credential("credential:together", environ) == "secret"
    assert resolve_credential("credential:other", environ) == ""
    assert resolve_credential("credential:together", {}) == ""


def test_a_byte_order_mark_is_no_part_of_a_credential(tmp_path: Path) -> None:
    (tmp_path / "together").write_text("\ufeffsecret\r\n", encoding="utf-8")
    environ = {"KEY": "\ufeffsecret", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    for reference in ("env:KEY", f"file:{tmp_path}/together", "credential:together"):
        assert resolve_credential(reference, environ) == "secret", reference


def test_a_credential_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        resolve_credential(f"file:{tmp_path}/nowhere", {})
    with pytest.raises(SettingsError) as caught:
        resolve_credential("sk-secret:123", {})
    assert "123" not in str(caught.value)


def test_a_credential_that_no_header_can_carry_is_named_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content in (b"first\nsecond", "schlüssel".encode(), b"\xff\xfe", b"a\x00b"):
        path.write_bytes(content)
        with pytest.raises(SettingsError) as caught:
            resolve_credential(f"file:{path}", {})
        assert str(path) in str(caught.value)
        assert "second" not in str(caught.value)
    with pytest.raises(SettingsError, match="env:KEY"):
        resolve_credential("env:KEY", {"KEY": "a\nb"})
