"""Consumer secrets: derived ones as ever, those that came from elsewhere as they came."""

from __future__ import annotations

import pytest

from bitmesh_proxy.auth.consumer_secrets import ConsumerSecrets
from bitmesh_proxy.auth.secrets import derive_consumer_secret

MASTER = b"m" * 32
SECRET = "what their callers have: ü/+="
SECRETS = ConsumerSecrets(MASTER)


def test_a_secret_of_our_own_is_derived() -> None:
    assert SECRETS.of("key_1", 3, None) == derive_consumer_secret(MASTER, "key_1", 3)


def test_what_is_sealed_is_told_and_remembered() -> None:
    sealed = SECRETS.seal(SECRET, "key_1")
    assert SECRET.encode() not in sealed
    assert SECRETS.seal(SECRET, "key_1") != sealed
    secrets = ConsumerSecrets(MASTER)  # of another process
    assert [secrets.of("key_1", 1, sealed) for _ in range(2)] == [SECRET, SECRET]
    assert secrets.of.cache_info().hits == 1


@pytest.mark.parametrize(
    ("master", "key_id", "damage"),
    [
        (b"n" * 32, "key_1", bytes),
        (MASTER, "key_2", bytes),
        (MASTER, "key_1", lambda sealed: sealed[:-1]),
        (MASTER, "key_1", lambda sealed: b"\xff" + sealed[1:]),
        (MASTER, "key_1", lambda sealed: b""),
    ],
)
def test_what_cannot_be_opened_is_nobodys(
    master: bytes, key_id: str, damage: type[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    sealed = damage(SECRETS.seal(SECRET, "key_1"))
    secrets = ConsumerSecrets(master)
    assert not secrets.can_open(sealed, key_id)
    assert SECRETS.can_open(SECRETS.seal(SECRET, "key_1"), "key_1")
    other = secrets.of(key_id, 1, sealed)
    assert other not in (SECRET, secrets.of(key_id, 1, None), "")
    assert secrets.of(key_id, 1, sealed) == other
    assert caplog.text.count(f"the imported secret of {key_id} cannot be opened") == 1
    assert SECRET not in caplog.text
