from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

from bitmesh_proxy.context import Caller
from bitmesh_proxy.storage.accounts import Account, AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.key_changes import KeyChanges
from bitmesh_proxy.storage.key_directory import LOOK_INTERVAL_S, KeyDirectory
from bitmesh_proxy.storage.keys import KeyChange, KeyRecord, KeyStore
from bitmesh_proxy.storage.ledger import LedgerStore
from tests.hand_clock import HandClock
from tests.storage.examples import DIGEST, closing, key_spec, open_database, opening, usd

ROOT = Path(__file__).parents[2]

WRITE = """
import sys
from pathlib import Path
from bitmesh_proxy.storage.key_changes import KeyChanges
changes = KeyChanges(Path(sys.argv[1]))
assert changes.word == 0
changes._write(7)
changes.close()
"""


def test_word_is_seen_by_other_processes(tmp_path: Path) -> None:
    changes = KeyChanges(tmp_path / "changes")
    assert changes.word == 0
    subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / "changes")], check=True, cwd=ROOT)
    assert changes.word == 7
    changes.close()
    assert (tmp_path / "changes").stat().st_mode & 0o777 == 0o600
    again = KeyChanges(tmp_path / "changes")
    assert again.word == 7
    again.close()


async def test_word_moves_with_what_opens_doors(
    database: Database, keys: KeyStore, accounts: AccountStore, account: Account
) -> None:
    words = [database.key_changes.word]
    await keys.create(key_spec(account.id))
    words.append(database.key_changes.word)
    await keys.disable("key_1")
    words.append(database.key_changes.word)
    await keys.change("key_1", KeyChange(budget_day_nano_usd=usd(1)))
    words.append(database.key_changes.word)
    await accounts.set_disabled(account.id, True)
    words.append(database.key_changes.word)
    assert len(set(words)) == len(words)
    assert database.lookup("SELECT keys_version FROM versions") == (words[-1],)


async def test_word_stays_with_everything_else(
    database: Database, ledger: LedgerStore, accounts: AccountStore, key: KeyRecord
) -> None:
    word = database.key_changes.word
    await ledger.open_reservation(opening("req_1", key.caller.account_id))
    await ledger.close(closing("req_1", 5))
    await accounts.credit(key.caller.account_id, usd(1))
    assert database.key_changes.word == word


async def test_what_was_undone_does_not_move_it(database: Database, key: KeyRecord) -> None:
    word = database.key_changes.word

    def change_and_fail(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE keys SET disabled_at_ms = 1")
        raise LookupError("after a change")

    def touch_nothing(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT 1")

    results = await asyncio.gather(
        database.write(change_and_fail), database.write(touch_nothing), return_exceptions=True
    )
    assert isinstance(results[0], LookupError)
    assert database.key_changes.word == word


async def test_each_version_is_written_by_who_made_it_alone(database: Database, path: Path, key: KeyRecord) -> None:
    """Or a late writer would bring back a word that somebody has seen already."""
    other = await open_database(path)
    await KeyStore(other).disable("key_1")
    word = database.key_changes.word
    assert other.key_changes.word == word
    database.key_changes._write(0)
    await other.write(lambda connection: connection.execute("UPDATE names SET name = name").rowcount)
    await database.write(lambda connection: connection.execute("UPDATE names SET name = name").rowcount)
    assert database.key_changes.word == 0
    await other.close()


async def test_directory_asks_nobody_while_the_word_stays(
    database: Database, key: KeyRecord, ledger: LedgerStore, path: Path
) -> None:
    clock = HandClock(1000.0)
    directory = KeyDirectory(database, clock=clock)
    assert directory.by_token_digest(DIGEST) == key.caller
    by_hand = sqlite3.connect(path, isolation_level=None)
    by_hand.execute("UPDATE keys SET disabled_at_ms = 1")
    by_hand.close()
    assert directory.by_token_digest(DIGEST) == key.caller
    clock.now_s += LOOK_INTERVAL_S
    found = directory.by_token_digest(DIGEST)
    assert isinstance(found, KeyRecord)
    assert found.is_disabled


async def test_change_of_another_process_is_seen_without_the_clock(
    database: Database, key: KeyRecord, path: Path
) -> None:
    directory = KeyDirectory(database, clock=HandClock(1000.0))
    other = await open_database(path)
    theirs = KeyStore(other)
    for _ in range(3):
        for change, is_disabled in ((theirs.disable, True), (theirs.enable, False)):
            await change("key_1")
            found = directory.by_token_digest(DIGEST)
            assert isinstance(found, KeyRecord if is_disabled else Caller)
    await other.close()
