"""Making a key: its secrets are born here, shown once, and kept as digest and derivation only."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import click

from bitmesh_proxy.auth.master import load_master_secret, missing_master_secret, on_foreign_secret, on_new_secret
from bitmesh_proxy.auth.secrets import (
    MasterSecretError,
    derive_consumer_secret,
    fingerprint_of,
    new_consumer_key,
    new_token,
    token_digest,
)
from bitmesh_proxy.discreet import Discreet
from bitmesh_proxy.settings import Settings
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.ids import make_id
from bitmesh_proxy.storage.keys import KeySpec, KeyStore

#: How much of a token is kept in the clear, for people to tell keys apart.
TOKEN_HINT_CHARACTERS = 4


class NewKey(Discreet, frozen=True, kw_only=True):
    """A key with its secrets, which are nowhere to be read again."""

    unshown: ClassVar[frozenset[str]] = frozenset({"token", "consumer_secret"})

    id: str
    token: str
    consumer_key: str
    consumer_secret: str

    def as_json(self) -> dict[str, str]:
        """What ``--json`` prints."""
        return {
            "id": self.id,
            "token": self.token,
            "consumer_key": self.consumer_key,
            "consumer_secret": self.consumer_secret,
        }


async def master_secret_for(database: Database, settings: Settings) -> bytes:
    """The master secret. Where it has to be made although keys were made with one before, that is said on standard
    error. Raises MasterSecretError, also where it is not the one that the service has, or the first key was made with.
    """
    store = KeyStore(database)
    known = store.secret_fingerprint()
    missing = await asyncio.to_thread(missing_master_secret, settings)
    if known is not None and missing is not None:
        raise MasterSecretError(on_foreign_secret(settings))
    master_secret = await asyncio.to_thread(load_master_secret, settings)
    found = fingerprint_of(master_secret)
    if known is None:  # no service has used these books, or none that notes it
        consumers = await store.count_consumers()
        if not consumers:
            await store.note_secret_fingerprint(found)
        elif missing is not None:
            click.echo(f"bitmesh-proxy: warning: {on_new_secret(missing, consumers)}", err=True)
    elif known != found:
        raise MasterSecretError(on_foreign_secret(settings))
    return master_secret


async def create_key(
    database: Database, settings: Settings, *, account_id: str, name: str = "", **limits: Any
) -> NewKey:
    """Make a key with a token and OAuth credentials. ``limits`` are further fields of KeySpec.

    Raises NotFound for an unknown account.
    """
    master_secret = await master_secret_for(database, settings)
    key_id, token, consumer_key = make_id("key_"), new_token(), new_consumer_key()
    await KeyStore(database).create(
        KeySpec(
            id=key_id,
            account_id=account_id,
            name=name,
            token_digest=token_digest(token),
            token_hint=token[-TOKEN_HINT_CHARACTERS:],
            consumer_key=consumer_key,
            **limits,
        )
    )
    return NewKey(
        id=key_id,
        token=token,
        consumer_key=consumer_key,
        consumer_secret=derive_consumer_secret(master_secret, key_id, 1),
    )
