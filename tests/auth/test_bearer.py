"""Which credential a request carries."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from bitmesh_proxy.auth.bearer import BearerCredential, OAuthCredential, credentials_of, plain_token_digest
from bitmesh_proxy.auth.secrets import token_digest
from bitmesh_proxy.errors import AuthenticationFailed
from tests.auth import bitmesh_clients

TOKEN = "bm_0123456789abcdefghijklmnopqrstuvwxyzABCDEF_-"
SIGNED, _ = bitmesh_clients.authorization(
    "POST", "https://api.example.org/chat", key="ck_test_123", secret="s", timestamp_s=1_700_000_000
)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer {TOKEN}"},
        {"AUTHORIZATION": f"BEARER   {TOKEN} "},
        {"x-api-key": TOKEN},
        {"X-Api-Key": f" {TOKEN}"},
        {"Host": "h", "x-api-key": TOKEN, "Authorization": f"Bearer {TOKEN}"},
        CIMultiDict([("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")]),
        # 13 and 9 letters, but others.
        {"Cache-Control": "none", "x-request": "1", "x-requested-x": "y", "x-api-key": TOKEN},
    ],
)
def test_a_bearer_token(headers: Mapping[str, str]) -> None:
    assert credentials_of(headers) == BearerCredential(token=TOKEN)


def test_a_signature() -> None:
    credential = credentials_of({"Authorization": SIGNED})
    assert isinstance(credential, OAuthCredential)
    assert credential.consumer_key == credential.header.consumer_key == "ck_test_123"


@pytest.mark.parametrize("headers", [{}, {"Host": "h"}, {"Proxy-Authorization": f"Bearer {TOKEN}"}])
def test_none(headers: Mapping[str, str]) -> None:
    with pytest.raises(AuthenticationFailed, match="No API key"):
        credentials_of(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TOKEN}", "x-api-key": "another"},
        {"Authorization": SIGNED, "x-api-key": TOKEN},
        CIMultiDict([("Authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer another")]),
        CIMultiDict([("Authorization", f"Bearer {TOKEN}"), ("Authorization", SIGNED)]),
        CIMultiDict([("x-api-key", TOKEN), ("x-api-key", "another")]),
    ],
)
def test_two_that_differ(headers: Mapping[str, str]) -> None:
    with pytest.raises(AuthenticationFailed, match="more than one"):
        credentials_of(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN} {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN},{TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"},
        {"Authorization": f'Bearer "{TOKEN}"'},
        {"Authorization": "Bearer t\x00ken"},
        {"Authorization": "Bearer t\udce9ken"},
        {"Authorization": "Bearer " + "x" * 513},
        {"Authorization": "Basic dTpw"},
        {"Authorization": "OAuth nonsense"},
        {"x-api-key": ""},
        {"x-api-key": "two words"},
        # A good one does not make up for a bad one.
        {"Authorization": "Basic dTpw", "x-api-key": TOKEN},
    ],
)
def test_malformed(headers: Mapping[str, str]) -> None:
    with pytest.raises(AuthenticationFailed) as failure:
        credentials_of(headers)
    assert TOKEN not in failure.value.message


@given(value=st.text(max_size=40), name=st.sampled_from(["Authorization", "x-api-key"]))
def test_no_value_raises_anything_else(name: str, value: str) -> None:
    with contextlib.suppress(AuthenticationFailed):
        credentials_of({name: value})


def test_the_token_stays_out_of_the_repr() -> None:
    assert TOKEN not in repr(credentials_of({"x-api-key": TOKEN}))


@given(st.text(st.sampled_from("aZ09-_~!#$,;:\"' \x7f\u00e9"), max_size=20) | st.text("a", min_size=510, max_size=514))
def test_a_plain_token_is_the_one_that_is_found_anyway(token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    if (digest := plain_token_digest(token.encode())) is not None:
        assert credentials_of(headers) == BearerCredential(token=token)
        assert digest == token_digest(token) == hashlib.sha256(token.encode()).digest()
    elif token == token.strip():
        with pytest.raises(AuthenticationFailed):
            credentials_of(headers)


def test_any_byte_is_plain_that_may_stand_in_a_token() -> None:
    for each in range(256):
        value = f"a{chr(each)}b"
        try:
            credentials_of({"x-api-key": value})
        except AuthenticationFailed:
            assert plain_token_digest(value.encode("latin-1")) is None
        else:
            assert plain_token_digest(value.encode("latin-1")) is not None


def test_a_token_in_another_spelling_is_not_plain() -> None:
    for value in (b" a", b"a ", b"a b", b"a\n", b"\xff", b""):
        assert plain_token_digest(value) is None
