from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from bitmesh_proxy.context import Caller
from bitmesh_proxy.errors import Conflict, NotFound
from bitmesh_proxy.storage.accounts import Account, AccountStore
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.failures import StorageError
from bitmesh_proxy.storage.key_directory import KeyDirectory
from bitmesh_proxy.storage.keys import KeyChange, KeyRecord, KeyStore
from tests.storage.examples import DIGEST, NOON_S, OTHER_DIGEST, key_spec, usd


async def test_everything_that_is_said_is_kept(keys: KeyStore, account: Account) -> None:
    spec = key_spec(
        account.id,
        id="key_full",
        name="all of it",
        token_hint="wxyz",
        consumer_key="ck_full",
        bound_model="openai/gpt-oss-20b",
        allowed_models=["b", "a"],
        rate_per_minute=60,
        max_concurrent=4,
        budget_day_nano_usd=usd(1),
        budget_month_nano_usd=usd(2),
        expires_at_s=NOON_S + 60,
    )
    record = await keys.create(spec)
    assert record == await keys.get("key_full")
    assert record.caller == Caller(
        account_id=account.id,
        key_id="key_full",
        key_name="all of it",
        bound_model="openai/gpt-oss-20b",
        allowed_models=frozenset({"a", "b"}),
        rate_per_minute=60,
        max_concurrent=4,
        budget_day_nano_usd=usd(1),
        budget_month_nano_usd=usd(2),
        expires_at_s=NOON_S + 60,
        row_numbers=(1, 1),  # the first of both
    )
    assert (record.token_hint, record.consumer_key) == ("wxyz", "ck_full")
    assert (record.generation, record.has_token, record.is_disabled) == (1, True, False)
    assert record.created_at_s == NOON_S


async def test_what_is_not_said_is_nothing(keys: KeyStore, account: Account) -> None:
    record = await keys.create(key_spec(account.id, name="", token_digest=None, consumer_key="ck_1"))
    assert record.caller == Caller(account_id=account.id, key_id="key_1", row_numbers=(1, 1))
    assert (record.has_token, record.consumer_key) == (False, "ck_1")
    assert not record.is_expired(NOON_S * 2)


async def test_a_master_secret_is_told_by_its_fingerprint(keys: KeyStore) -> None:
    assert keys.secret_fingerprint() is None
    for fingerprint in (DIGEST, OTHER_DIGEST):
        await keys.note_secret_fingerprint(fingerprint)
        assert keys.secret_fingerprint() == fingerprint


async def test_keys_with_a_consumer_key_are_counted(keys: KeyStore, account: Account) -> None:
    assert await keys.count_consumers() == 0
    await keys.create(key_spec(account.id))
    assert await keys.count_consumers() == 0
    await keys.create(key_spec(account.id, id="key_2", token_digest=None, consumer_key="ck_1"))
    assert await keys.count_consumers() == 1


async def test_expiry_is_a_moment(keys: KeyStore, account: Account) -> None:
    record = await keys.create(key_spec(account.id, expires_at_s=NOON_S))
    assert not record.is_expired(NOON_S - 0.001)
    assert record.is_expired(NOON_S)


async def test_empty_list_of_models_allows_none(keys: KeyStore, account: Account) -> None:
    record = await keys.create(key_spec(account.id, allowed_models=[]))
    assert record.caller.allowed_models == frozenset()


async def test_doubles_and_strangers_are_refused(keys: KeyStore, account: Account) -> None:
    await keys.create(key_spec(account.id, consumer_key="ck_1"))
    doubles: dict[str, dict[str, Any]] = {
        "id": {"token_digest": OTHER_DIGEST},
        "token": {"id": "key_2"},
        "consumer key": {"id": "key_2", "token_digest": OTHER_DIGEST, "consumer_key": "ck_1"},
    }
    for what, changes in doubles.items():
        with pytest.raises(Conflict, match=f"with this {what} already"):
            await keys.create(key_spec(account.id, **changes))
    with pytest.raises(NotFound):
        await keys.create(key_spec("acct_unknown", id="key_2", token_digest=OTHER_DIGEST))
    with pytest.raises(StorageError, match="CHECK"):
        await keys.create(key_spec(account.id, id="key_2", token_digest=None))
    assert len(await keys.list()) == 1


async def test_list_is_by_account_and_oldest_first(keys: KeyStore, account: Account, accounts: AccountStore) -> None:
    other = await accounts.create("Bob")
    for number, owner in enumerate([account, other, account]):
        await keys.create(key_spec(owner.id, id=f"key_{number}", token_digest=bytes([number] * 32)))
    assert [record.caller.key_id for record in await keys.list()] == ["key_0", "key_1", "key_2"]
    assert [record.caller.key_id for record in await keys.list(account.id)] == ["key_0", "key_2"]


async def test_changes_of_unknown_keys_are_refused(keys: KeyStore) -> None:
    with pytest.raises(NotFound):
        await keys.disable("key_unknown")
    with pytest.raises(NotFound):
        await keys.rotate("key_unknown", token_digest=DIGEST)


async def test_rotation_ends_the_old_token(keys: KeyStore, key: KeyRecord, database: Database) -> None:
    directory = KeyDirectory(database)
    assert directory.by_token_digest(DIGEST) is not None
    rotated = await keys.rotate("key_1", token_digest=OTHER_DIGEST, token_hint="new")
    assert (rotated.generation, rotated.token_hint) == (2, "new")
    assert directory.by_token_digest(DIGEST) is None
    assert directory.by_token_digest(OTHER_DIGEST) == rotated.caller


async def test_keys_are_taken_over_together_or_not_at_all(
    keys: KeyStore, key: KeyRecord, account: Account, database: Database
) -> None:
    directory = KeyDirectory(database)
    assert directory.by_consumer_key("ck_2") is None
    second = key_spec(account.id, id="key_2", token_digest=None, consumer_key="ck_2", sealed_secret=b"two")
    third = structs.replace(second, id="key_3", consumer_key="ck_3", sealed_secret=b"three")
    for specs, sealed, error in (
        ([second, structs.replace(third, consumer_key="ck_2")], {}, Conflict),
        ([second, structs.replace(third, account_id="acct_none")], {}, NotFound),
        ([second], {"key_none": b"x"}, NotFound),
        ([second], {"key_1": b"x"}, NotFound),  # it has no consumer key
    ):
        with pytest.raises(error):
            await keys.take_over(specs, sealed)
        assert await keys.sealed_secrets() == {}
    await keys.take_over([second, third], {})
    assert await keys.ids_by_consumer_key() == {"ck_2": "key_2", "ck_3": "key_3"}
    found = directory.by_consumer_key("ck_2")
    assert found is not None
    assert (found.sealed_secret, found.generation, found.has_token) == (b"two", 1, False)
    await keys.take_over([], {"key_2": b"anew"})
    found = directory.by_consumer_key("ck_2")
    assert found is not None
    assert (found.sealed_secret, found.generation) == (b"anew", 2)
    rotated = await keys.rotate("key_2", token_digest=OTHER_DIGEST)
    assert (rotated.sealed_secret, rotated.generation) == (None, 3)
    assert await keys.sealed_secrets() == {"key_3": b"three"}


async def test_rotation_to_a_token_in_use_is_refused(keys: KeyStore, key: KeyRecord, account: Account) -> None:
    await keys.create(key_spec(account.id, id="key_2", token_digest=OTHER_DIGEST))
    with pytest.raises(Conflict):
        await keys.rotate("key_1", token_digest=OTHER_DIGEST)
    assert await keys.get("key_1") == key


async def test_every_field_can_be_changed_and_no_other_changes_with_it(keys: KeyStore, key: KeyRecord) -> None:
    values: dict[str, Any] = {
        "name": "second", "bound_model": "m", "allowed_models": ["m", "a"], "rate_per_minute": 7, "max_concurrent": 0,
        "budget_day_nano_usd": usd(1), "budget_month_nano_usd": usd(2), "expires_at_s": NOON_S + 60.5,
    }  # fmt: skip
    assert tuple(values) == KeyChange.__struct_fields__
    for name, value in values.items():
        before = await keys.get("key_1")
        assert before is not None
        changed = await keys.change("key_1", KeyChange(**{name: value}))
        field = "key_name" if name == "name" else name
        wanted = frozenset(value) if isinstance(value, list) else value
        assert changed == structs.replace(before, caller=structs.replace(before.caller, **{field: wanted})), name
    nothing = dict.fromkeys(list(values)[1:])
    assert (await keys.change("key_1", KeyChange(**nothing, name=key.caller.key_name))) == key


async def test_what_cannot_be_changed_is_refused(keys: KeyStore, key: KeyRecord) -> None:
    with pytest.raises(ValueError, match="nothing to change"):
        await keys.change("key_1", KeyChange())
    with pytest.raises(NotFound):
        await keys.change("key_x", KeyChange(name="x"))
    with pytest.raises(StorageError):
        await keys.change("key_1", KeyChange(name="x", rate_per_minute=-1))
    assert await keys.get("key_1") == key


async def test_a_key_is_not_bound_to_a_model_that_it_may_not_use(keys: KeyStore, account: Account) -> None:
    free = await keys.create(key_spec(account.id, id="key_2", token_digest=OTHER_DIGEST))
    cleared = KeyChange(bound_model=None, allowed_models=None)
    for first, second in (
        (KeyChange(bound_model="m"), KeyChange(allowed_models=["a", "b"])),
        (KeyChange(allowed_models=["a", "b"]), KeyChange(bound_model="m")),
        (cleared, KeyChange(bound_model="m", allowed_models=["a", "b"])),
    ):
        await keys.change("key_2", cleared)
        before = await keys.change("key_2", first)
        with pytest.raises(Conflict, match=r"\('m'\) is not among those that it may use: 'a', 'b'"):
            await keys.change("key_2", second)
        assert await keys.get("key_2") == before
        await keys.change("key_2", second, lambda name: (name, "a"))  # another name of the model is
        await keys.change("key_2", KeyChange(name="x"))  # and who has one from before may change all else
    assert (await keys.change("key_2", structs.replace(cleared, name=free.caller.key_name))).caller == free.caller


async def test_budgets_change(keys: KeyStore, key: KeyRecord) -> None:
    changed = await keys.change("key_1", KeyChange(budget_day_nano_usd=usd(3)))
    assert (changed.caller.budget_day_nano_usd, changed.caller.budget_month_nano_usd) == (usd(3), None)
