"""A new key opens the door by its token, and its consumer secret is the one that is derived for it."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from bitmesh_proxy.auth.master import load_master_secret
from bitmesh_proxy.auth.secrets import derive_consumer_secret, token_digest
from bitmesh_proxy.cli.new_key import TOKEN_HINT_CHARACTERS, create_key
from bitmesh_proxy.settings_sources import load_settings
from bitmesh_proxy.storage.accounts import AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.key_directory import KeyDirectory
from tests.cli.conftest import Run, json_of


async def test_a_new_key_is_found_by_both_of_its_names(tmp_path: Path) -> None:
    settings = load_settings(environ={}, overrides={"data": {"dir": str(tmp_path)}})
    master_secret = await asyncio.to_thread(load_master_secret, settings, {})
    database = await Database.open(tmp_path / "x.db", busy_timeout_s=1.0, max_pending_writes=10)
    try:
        account = await AccountStore(database).create("acme")
        made = await create_key(database, settings, account_id=account.id, name="first", rate_per_minute=7)
        directory = KeyDirectory(database)
        by_token = directory.by_token_digest(token_digest(made.token))
        by_consumer_key = directory.by_consumer_key(made.consumer_key)
        assert by_consumer_key is not None
        assert by_token == by_consumer_key.caller
        assert by_consumer_key.caller.rate_per_minute == 7
        assert by_consumer_key.token_hint == made.token[-TOKEN_HINT_CHARACTERS:]
        assert made.consumer_secret == derive_consumer_secret(master_secret, made.id, 1)
        assert made.token not in repr(made)
        assert made.consumer_secret not in repr(made)
    finally:
        await database.close()


def test_secrets_that_would_not_work_are_not_made(run: Run, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has another master secret than the service, or none, would show such."""
    run("account", "create", "acme")
    first = json_of(run("key", "create", "--json"))
    commands = (["key", "create", "--json"], ["key", "rotate", first["id"], "--json"])
    secret = data_dir / "master.secret"
    right = secret.read_bytes()
    for wrong in (None, b"x" * 32):
        secret.unlink(missing_ok=True)
        if wrong is not None:
            secret.write_bytes(wrong)
            secret.chmod(0o600)
        for command in commands:
            refused = run(*command, status=78)
            assert "not the service's master secret" in refused.stderr
            assert refused.stdout == ""
        assert (secret.read_bytes() if secret.exists() else None) == wrong, "nor is one made"
    credentials = data_dir / "credentials"
    credentials.mkdir()
    (credentials / "master_secret").write_bytes(right)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    for command in commands:
        run(*command)
    assert len(json_of(run("key", "list", "--json"))) == 2


def test_a_master_secret_that_is_made_anew_is_said(run: Run, data_dir: Path) -> None:
    """In books of a version that did not note which one it had."""
    run("account", "create", "acme")
    first = run("key", "create", "--json")
    assert first.stderr == "", "before the first key there was none to lose"
    with sqlite3.connect(data_dir / "bitmesh-proxy.db") as connection:
        connection.execute("DELETE FROM master_secret")
    connection.close()
    for command in (["key", "create", "--json"], ["key", "rotate", json_of(first)["id"], "--json"]):
        (data_dir / "master.secret").unlink()
        said = run(*command).stderr
        assert said.startswith(f"bitmesh-proxy: warning: {data_dir / 'master.secret'}: a new master secret was made.")
        assert "put that back" in said
    assert run("key", "create", "--json").stderr == ""
