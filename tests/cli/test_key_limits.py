"""What can be said of a key that is made: the same words wherever that is."""

from __future__ import annotations

import time

import click
import pytest

from bitmesh_proxy.cli.key import create
from bitmesh_proxy.cli.key_import import import_keys
from bitmesh_proxy.cli.key_limits import check_expiry, names_in
from bitmesh_proxy.storage.keys import KeySpec


def test_whoever_makes_keys_takes_the_same_limits() -> None:
    named = [
        {each.name for each in command.params} & set(KeySpec.__struct_fields__) for command in (create, import_keys)
    ]
    assert named[0] == named[1] - {"consumer_key"}
    assert {"bound_model", "allowed_models", "budget_day_nano_usd", "expires_at_s"} < named[0]


def test_a_moment_that_is_over_is_refused() -> None:
    check_expiry(None)
    check_expiry(time.time() + 60)
    with pytest.raises(click.BadParameter, match="never work"):
        check_expiry(time.time())


def test_models_that_are_named() -> None:
    assert names_in(None, None) == []
    assert names_in("a", ("b", "a")) == ["a", "b", "a"]
