"""Keys in little room: the same as in the books, of one version, and forgotten when that moves."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from bitmesh_proxy.context import Caller
from bitmesh_proxy.storage.accounts import Account, AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.key_directory import LOAD_INTERVAL_S, LOOK_INTERVAL_S, MISSES_BEFORE_LOAD, KeyDirectory
from bitmesh_proxy.storage.keys import KeyRecord, KeyStore
from bitmesh_proxy.storage.packed_keys import PART_KEYS, PackedKeys, read_caller
from tests.hand_clock import HandClock
from tests.storage.examples import NOON_S, key_spec, open_database, usd

KEYS = 2 * PART_KEYS + 100


def digest(number: int) -> bytes:
    return number.to_bytes(32, "little")


@pytest.fixture
async def many(account: Account, path: Path) -> None:
    """Plain keys, more than are read at once."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO keys (id, account, name, token_digest, created_at_ms) VALUES (?, 1, ?, ?, 1)",
            ((f"key_{number}", f"n° {number}\n", digest(number)) for number in range(KEYS)),
        )


def looked_up(database: Database) -> list[str]:
    """The statements of look-ups from now on."""
    said: list[str] = []
    database._lookup.set_trace_callback(said.append)
    return said


async def loaded(directory: KeyDirectory) -> None:
    assert directory._loading is not None
    await directory._loading


@asynccontextmanager
async def loaded_directory(database: Database, clock: HandClock | None = None) -> AsyncIterator[KeyDirectory]:
    directory = KeyDirectory(database, clock=clock or HandClock(1000.0), max_cached=5)
    for number in range(MISSES_BEFORE_LOAD):
        assert directory._loading is None
        assert directory.by_token_digest(digest(number)) is not None
    await loaded(directory)
    yield directory
    await directory.close()


async def test_what_is_held_is_what_is_in_the_books(
    keys: KeyStore, account: Account, accounts: AccountStore, database: Database
) -> None:
    other = await accounts.create("ähnlich")
    specs = [
        key_spec(account.id, id="key_bare", name="", token_digest=digest(0)),
        key_spec(
            other.id,
            id="key_full",
            name='so "viel" \\ \n\t\x00 😀',
            token_digest=digest(1),
            token_hint="wxyz",
            consumer_key="ck_full",
            bound_model="openai/gpt-oss-20b",
            allowed_models=["ü", 'a"b'],
            rate_per_minute=60,
            max_concurrent=4,
            budget_day_nano_usd=usd(1),
            budget_month_nano_usd=2**62,
            expires_at_s=NOON_S + 60.125,
        ),
        key_spec(account.id, id="key_off", token_digest=digest(2), allowed_models=[]),
        key_spec(account.id, id="key_limited", token_digest=digest(3), rate_per_minute=0),
        key_spec(account.id, id="key_signs", token_digest=None, consumer_key="ck_2"),
    ]
    for spec in specs:
        await keys.create(spec)
    await keys.disable("key_off")
    directory = KeyDirectory(database)
    one_by_one = [directory.by_token_digest(digest(number)) for number in range(4)]
    again = KeyDirectory(database)
    await again._packed.load(lambda _: True)
    assert len(again._packed) == 3
    again.current_version()
    await again._packed.load(again._is_current)
    assert [again.by_token_digest(digest(number)) for number in range(4)] == one_by_one
    assert again._packed.texts[digest(0)] == f'["{account.id}","key_bare","",[1,1]]'.encode()
    assert sorted(again._packed.texts) == [digest(0), digest(1), digest(3)]
    assert again.by_token_digest(digest(4)) is None


async def test_many_are_read_in_parts_and_need_no_look_up(many: None, database: Database) -> None:
    async with loaded_directory(database) as directory:
        assert directory._packed.is_complete
        assert len(directory._packed) == KEYS
        said = looked_up(database)
        for number in range(KEYS):
            caller = directory.by_token_digest(digest(number))
            assert isinstance(caller, Caller)
            assert (caller.key_id, caller.key_name) == (f"key_{number}", f"n° {number}\n")
            assert caller.row_numbers == (1, number + 1)
        assert said == []
        assert len(directory._by_digest) == 5
        assert directory.by_token_digest(digest(KEYS)) is None
        assert len(said) == 1


async def test_few_are_not_read_and_guessing_reads_none(many: None, database: Database) -> None:
    directory = KeyDirectory(database)
    for number in range(MISSES_BEFORE_LOAD - 1):
        directory.by_token_digest(digest(number))
    for number in range(2 * MISSES_BEFORE_LOAD):
        directory.by_token_digest(digest(KEYS + number))
        directory.by_token_digest(digest(number % 10))
    assert directory._loading is None
    assert len(directory._packed) == 0


async def test_every_change_counts_at_once(
    many: None, database: Database, keys: KeyStore, accounts: AccountStore, account: Account, path: Path
) -> None:
    async with loaded_directory(database) as directory:

        def is_disabled(number: int) -> bool:
            found = directory.by_token_digest(digest(number))
            assert isinstance(found, Caller) or (found is not None and found.is_disabled)
            return not isinstance(found, Caller)

        assert not is_disabled(KEYS - 1)
        await keys.disable(f"key_{KEYS - 1}")
        assert is_disabled(KEYS - 1)
        assert len(directory._packed) == 0
    async with loaded_directory(database) as directory:
        assert len(directory._packed) == KEYS - 1
        assert is_disabled(KEYS - 1)
        other = await open_database(path)
        await KeyStore(other).enable(f"key_{KEYS - 1}")
        await other.close()
        assert not is_disabled(KEYS - 1)
    async with loaded_directory(database) as directory:
        await keys.rotate("key_900", token_digest=digest(KEYS + 7))
        assert directory.by_token_digest(digest(900)) is None
        assert not is_disabled(KEYS + 7)
    async with loaded_directory(database) as directory:
        await accounts.set_disabled(account.id, True)
        assert all(is_disabled(number) for number in (0, 8, KEYS - 1))


async def test_what_is_no_caller_is_left_to_the_database(many: None, database: Database, path: Path) -> None:
    """Only somebody with SQLite's own shell writes such things."""
    with closing(sqlite3.connect(path)) as by_hand, by_hand:
        by_hand.execute("UPDATE keys SET allowed_models = '[5, \"a\"]' WHERE id = 'key_1000'")
        by_hand.execute("UPDATE keys SET expires_at_ms = 9007199254740993 WHERE id = 'key_1001'")
    async with loaded_directory(database) as directory:
        assert len(directory._packed) == KEYS - 1
        odd, late = directory.by_token_digest(digest(1000)), directory.by_token_digest(digest(1001))
        assert isinstance(odd, Caller)
        assert isinstance(late, Caller)
        assert odd.allowed_models is not None
        assert sorted(map(str, odd.allowed_models)) == ["5", "a"]
        assert late.expires_at_s == 9007199254740993 / 1000


async def test_a_change_by_hand_counts_soon(many: None, database: Database, path: Path) -> None:
    clock = HandClock(1000.0)
    async with loaded_directory(database, clock) as directory:
        with closing(sqlite3.connect(path)) as by_hand, by_hand:
            by_hand.execute("DELETE FROM keys WHERE id = 'key_1000'")
        clock.now_s += LOOK_INTERVAL_S
        assert directory.by_token_digest(digest(1000)) is None


async def test_they_are_read_again_after_a_change_but_not_all_the_time(
    many: None, database: Database, keys: KeyStore
) -> None:
    clock = HandClock(1000.0)
    async with loaded_directory(database, clock) as directory:
        await keys.disable("key_0")
        for number in range(2 * MISSES_BEFORE_LOAD):
            directory.by_token_digest(digest(number))
        assert directory._loading is None
        clock.now_s += LOAD_INTERVAL_S
        directory.by_token_digest(digest(2 * MISSES_BEFORE_LOAD))
        await loaded(directory)
        assert directory._packed.is_complete
        clock.now_s += LOAD_INTERVAL_S
        for number in range(KEYS):
            directory.by_token_digest(digest(number))
        assert directory._loading is None


@pytest.mark.parametrize("parts", [0, 1, 2])
async def test_a_change_while_they_are_read_ends_that(
    many: None, database: Database, keys: KeyStore, parts: int
) -> None:
    directory = KeyDirectory(database)
    assert directory.by_token_digest(digest(0)) is not None
    seen = []

    def is_current(version: int) -> bool:
        """As the directory says it, but that a key is switched off after some parts."""
        seen.append(version)
        if len(seen) == parts + 1:
            by_hand.execute("UPDATE keys SET disabled_at_ms = 1")
            directory._next_look_s = 0
        return directory._is_current(version)

    with closing(sqlite3.connect(database.path, isolation_level=None)) as by_hand:
        await directory._packed.load(is_current)
    assert len(seen) == parts + 1
    assert len(directory._packed) == 0
    assert not directory._packed.is_complete
    assert isinstance(directory.by_token_digest(digest(0)), KeyRecord)


async def test_what_was_forgotten_meanwhile_is_not_filled_again(many: None, database: Database) -> None:
    directory = KeyDirectory(database)
    packed = directory._packed

    def is_current(version: int) -> bool:
        packed.forget()
        return True

    await packed.load(is_current)
    assert len(packed) == 0
    assert not packed.is_complete


async def test_there_are_never_many_more_than_the_bound(many: None, database: Database) -> None:
    packed = PackedKeys(database, max_keys=10)
    await packed.load(lambda _: True)
    assert len(packed) == PART_KEYS
    assert packed.is_complete
    assert read_caller(packed.texts[digest(3)]).key_id == "key_3"


async def test_a_database_that_cannot_be_read_is_no_trouble(many: None, path: Path, database: Database) -> None:
    broken = await open_database(path)
    directory = KeyDirectory(broken)
    for number in range(MISSES_BEFORE_LOAD - 1):
        directory.by_token_digest(digest(number))
    broken._is_closed = True  # so that no reader is opened any more
    assert directory.by_token_digest(digest(500)) is not None
    await loaded(directory)
    assert len(directory._packed) == 0
    assert directory.by_token_digest(digest(501)) is not None
    broken._is_closed = False
    await directory.close()
    await broken.close()


async def test_the_end_does_not_wait_for_all_of_them(many: None, database: Database) -> None:
    directory = KeyDirectory(database)
    for number in range(MISSES_BEFORE_LOAD):
        directory.by_token_digest(digest(number))
    loading = directory._loading
    assert loading is not None
    await directory.close()
    assert loading.cancelled()
    assert not directory._packed.is_complete
    await directory.close()
