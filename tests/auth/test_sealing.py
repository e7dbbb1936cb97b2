from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmesh_proxy.auth.sealing import NONCE_BYTES, TAG_BYTES, Sealer
from bitmesh_proxy.errors import InvalidEncryptedContent

MASTER = b"m" * 32
SEALER = Sealer(MASTER, "compaction")


@given(content=st.binary(max_size=2_000))
def test_what_is_sealed_comes_back(content: bytes) -> None:
    assert SEALER.open(SEALER.seal(content, "acct_1"), "acct_1") == content


def test_the_same_content_looks_different_each_time_and_shows_nothing() -> None:
    content = b"The secret plan" * 10
    seals = [SEALER.seal(content, "acct_1") for _ in range(2)]
    assert seals[0] != seals[1]
    assert all(b"secret" not in base64.urlsafe_b64decode(seal) for seal in seals)


@pytest.mark.parametrize(
    "opener",
    [
        (Sealer(MASTER, "compaction"), "acct_2"),
        (Sealer(MASTER, "another use"), "acct_1"),
        (Sealer(b"n" * 32, "compaction"), "acct_1"),
    ],
)
def test_nobody_else_can_open_it(opener: tuple[Sealer, str]) -> None:
    sealer, account_id = opener
    with pytest.raises(InvalidEncryptedContent):
        sealer.open(SEALER.seal(b"x", "acct_1"), account_id)


def test_every_byte_counts() -> None:
    data = base64.urlsafe_b64decode(SEALER.seal(b"content", "acct_1"))
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(InvalidEncryptedContent):
            SEALER.open(base64.urlsafe_b64encode(bytes(changed)).decode(), "acct_1")


@pytest.mark.parametrize(
    "sealed",
    ["", "AAAA", "é", "not base64!", base64.urlsafe_b64encode(b"\x01" + bytes(NONCE_BYTES + TAG_BYTES)).decode()],
)
def test_what_was_never_sealed_is_refused(sealed: str) -> None:
    with pytest.raises(InvalidEncryptedContent) as raised:
        SEALER.open(sealed, "acct_1")
    assert raised.value.code == "invalid_encrypted_content"


def test_a_seal_does_not_unpack_without_end() -> None:
    small = Sealer(MASTER, "compaction", max_content_bytes=1_000)
    assert small.open(small.seal(b"x" * 999, "acct_1"), "acct_1")
    with pytest.raises(InvalidEncryptedContent):
        small.open(small.seal(b"x" * 100_000, "acct_1"), "acct_1")
