from typing import ClassVar

from msgspec.structs import replace

from bitmesh_proxy.auth.bearer import BearerCredential
from bitmesh_proxy.auth.oauth1 import VerifiedOAuth
from bitmesh_proxy.auth.oauth_header import OAuthHeader
from bitmesh_proxy.cli.new_key import NewKey
from bitmesh_proxy.discreet import Discreet
from bitmesh_proxy.providers import PROVIDERS
from bitmesh_proxy.upstream.access import ProviderAccess


class Letter(Discreet, frozen=True, kw_only=True):
    unshown: ClassVar[frozenset[str]] = frozenset({"text"})

    address: str
    text: str


def test_the_repr_holds_what_may_be_seen_only() -> None:
    letter = Letter(address="Main Street 1", text="private")
    assert repr(letter) == str(letter) == f"{letter}" == "Letter(address='Main Street 1')"
    assert repr([letter]) == "[Letter(address='Main Street 1')]"


def test_what_is_not_shown_still_counts() -> None:
    letter = Letter(address="Main Street 1", text="private")
    assert letter != replace(letter, text="other")
    assert hash(letter) == hash(Letter(address="Main Street 1", text="private"))


def test_our_secrets_are_not_shown() -> None:
    header = OAuthHeader(
        consumer_key="ck",
        signature_method="HMAC-SHA1",
        timestamp_s=1,
        nonce="n",
        signature="hush",
        signed=(("oauth_signature", "hush"),),
    )
    secretive = [
        BearerCredential(token="hush"),
        header,
        VerifiedOAuth(consumer_key="ck", nonce="n", timestamp_s=1, signature="hush"),
        NewKey(id="key_1", token="hush", consumer_key="ck", consumer_secret="hush"),
        ProviderAccess(provider=PROVIDERS[0], roots={}, auth_headers={"x-api-key": "hush"}),
    ]
    for value in secretive:
        assert isinstance(value, Discreet)
        assert value.unshown <= set(value.__struct_fields__)
        assert "hush" not in repr(value)
