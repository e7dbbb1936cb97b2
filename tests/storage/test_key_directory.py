from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from bitmesh_proxy.context import Caller
from bitmesh_proxy.storage.accounts import Account, AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.key_directory import KeyDirectory
from bitmesh_proxy.storage.keys import KeyRecord, KeyStore
from tests.storage.examples import DIGEST, OTHER_DIGEST, key_spec, usd


async def test_directory_finds_by_token_and_consumer_key(keys: KeyStore, account: Account, database: Database) -> None:
    record = await keys.create(key_spec(account.id, consumer_key="ck_1"))
    directory = KeyDirectory(database)
    assert directory.by_consumer_key("ck_1") == record
    assert directory.by_token_digest(DIGEST) == record.caller
    assert directory.by_token_digest(DIGEST) is directory.by_token_digest(DIGEST)
    assert directory.by_token_digest(OTHER_DIGEST) is None
    assert directory.by_consumer_key("ck_2") is None


async def test_in_memory_is_who_was_asked_for_and_has_not_changed_since(
    keys: KeyStore, key: KeyRecord, database: Database
) -> None:
    directory = KeyDirectory(database)
    assert directory.in_memory(DIGEST) is None
    known = directory.by_token_digest(DIGEST)
    assert known == key.caller
    assert directory.in_memory(DIGEST) is known
    assert directory.in_memory(OTHER_DIGEST) is None
    version = directory.version
    await keys.disable("key_1")
    assert directory.in_memory(DIGEST) is None
    assert directory.version == version + 1
    assert isinstance(directory.by_token_digest(DIGEST), KeyRecord)
    assert directory.in_memory(DIGEST) is None, "it may not call"


async def test_switching_counts_at_once(
    keys: KeyStore, key: KeyRecord, accounts: AccountStore, database: Database
) -> None:
    directory = KeyDirectory(database)

    versions = [directory.current_version()]

    def is_disabled() -> bool:
        versions.append(directory.current_version())
        found = directory.by_token_digest(DIGEST)
        assert found is not None
        assert isinstance(found, Caller) or found.is_disabled
        return not isinstance(found, Caller)

    assert not is_disabled()
    assert not is_disabled()
    await keys.disable("key_1")
    assert is_disabled()
    await keys.enable("key_1")
    assert not is_disabled()
    await accounts.set_disabled(key.caller.account_id, True)
    assert is_disabled()
    assert versions[0] == versions[1] == versions[2]
    assert len(set(versions)) == 4


async def test_switching_in_another_process_counts_at_once(key: KeyRecord, database: Database, path: Path) -> None:
    directory = KeyDirectory(database)
    assert directory.by_token_digest(DIGEST) == key.caller
    code = f"""
import asyncio
from pathlib import Path
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.keys import KeyStore

async def main():
    database = await Database.open(Path({str(path)!r}), busy_timeout_s=5, max_pending_writes=10)
    await KeyStore(database).disable("key_1")
    await database.close()

asyncio.run(main())
"""
    root = Path(__file__).parents[2]
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True, cwd=root)
    record = directory.by_token_digest(DIGEST)
    assert isinstance(record, KeyRecord)
    assert record.is_disabled


async def test_other_writes_do_not_empty_the_memory(key: KeyRecord, accounts: AccountStore, database: Database) -> None:
    directory = KeyDirectory(database)
    record = directory.by_token_digest(DIGEST)
    await accounts.credit(key.caller.account_id, usd(1))
    assert directory.by_token_digest(DIGEST) is record


async def test_memory_is_bounded_and_keeps_who_calls(keys: KeyStore, account: Account, database: Database) -> None:
    digests = [bytes([number] * 32) for number in range(4)]
    for number, digest in enumerate(digests):
        await keys.create(key_spec(account.id, id=f"key_{number}", token_digest=digest))
    directory = KeyDirectory(database, max_cached=2)
    first = directory.by_token_digest(digests[0])
    for digest in digests[1:]:
        directory.by_token_digest(digest)
        assert directory.by_token_digest(digests[0]) is first
    assert len(directory._by_digest) == 2
