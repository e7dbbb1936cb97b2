"""Where the master secret is: a named file, else systemd's credential, else beside the data."""

from __future__ import annotations

from pathlib import Path

from bitmesh_proxy.auth.master import (
    load_master_secret,
    missing_master_secret,
    on_changed_secret,
    on_foreign_secret,
    on_lost_secret,
)
from bitmesh_proxy.settings import Auth, Data, Settings


def settings(tmp_path: Path, *, master_secret_file: str = "") -> Settings:
    return Settings(data=Data(dir=str(tmp_path / "data")), auth=Auth(master_secret_file=master_secret_file))


def credentials(tmp_path: Path) -> dict[str, str]:
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "master_secret").write_bytes(b"c" * 32)
    return {"CREDENTIALS_DIRECTORY": str(directory)}


def test_beside_the_data(tmp_path: Path) -> None:
    found = load_master_secret(settings(tmp_path), {})
    assert (tmp_path / "data" / "master.secret").read_bytes().strip() == found
    assert load_master_secret(settings(tmp_path), {}) == found


def test_the_credential_of_systemd_comes_before_the_data(tmp_path: Path) -> None:
    assert load_master_secret(settings(tmp_path), credentials(tmp_path)) == b"c" * 32
    assert not (tmp_path / "data").exists()


def test_a_named_file_comes_first(tmp_path: Path) -> None:
    named = tmp_path / "own" / "secret"
    found = load_master_secret(settings(tmp_path, master_secret_file=str(named)), credentials(tmp_path))
    assert named.read_bytes().strip() == found != b"c" * 32


def test_what_is_missing_is_named_and_not_made(tmp_path: Path) -> None:
    beside = tmp_path / "data" / "master.secret"
    assert missing_master_secret(settings(tmp_path), {}) == beside
    assert not beside.parent.exists()
    assert missing_master_secret(settings(tmp_path), credentials(tmp_path)) is None
    load_master_secret(settings(tmp_path), {})
    assert missing_master_secret(settings(tmp_path), {}) is None
    named = settings(tmp_path, master_secret_file=str(tmp_path / "own"))
    assert missing_master_secret(named, {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}) == tmp_path / "own"


def test_how_many_keys_a_lost_secret_concerns_is_said() -> None:
    assert "(3)" in on_lost_secret(3)
    assert "(3)" in on_changed_secret(3)


def test_a_command_is_told_where_it_looked(tmp_path: Path) -> None:
    assert str(tmp_path / "data" / "master.secret") in on_foreign_secret(settings(tmp_path), {})
    assert str(tmp_path / "own") in on_foreign_secret(settings(tmp_path, master_secret_file=str(tmp_path / "own")), {})
