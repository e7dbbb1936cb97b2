"""A new key opens the door by its token, and its consumer secret is the one that is derived for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

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


def test_a_master_secret_that_is_made_anew_is_said(run: Run, data_dir: Path) -> None:
    run("account", "create", "acme")
    first = run("key", "create", "--json")
    assert first.stderr == "", "before the first key there was none to lose"
    for command in (["key", "create", "--json"], ["key", "rotate", json_of(first)["id"], "--json"]):
        (data_dir / "master.secret").unlink()
        said = run(*command).stderr
        assert said.startswith(f"bitmesh-proxy: warning: {data_dir / 'master.secret'}: a new master secret was made.")
        assert "put that back" in said
    assert run("key", "create", "--json").stderr == ""
