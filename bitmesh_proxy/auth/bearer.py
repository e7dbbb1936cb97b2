"""Which credential a request carries: a bearer token, or an OAuth signature. Exactly one.

Two different ones are refused rather than ranked: whichever we took, a proxy in between might have looked at the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Final, TypeAlias

import msgspec

from bitmesh_proxy.auth.oauth_header import OAuthHeader, parse_header
from bitmesh_proxy.auth.secrets import hash_of_token
from bitmesh_proxy.discreet import Discreet
from bitmesh_proxy.errors import AuthenticationFailed

# Ours are URL-safe base64; keys taken over from another installation may hold anything visible but separators.
_CHARACTER = "[!#-+\\--:<-~]"
_MAX_CHARACTERS: Final = 512
_TOKEN = re.compile(f"{_CHARACTER}{{1,{_MAX_CHARACTERS}}}")
#: For ``bytes.translate``: a letter for each of those characters, a blank for any other.
_AS_LETTERS: Final = bytes([ord("a" if re.match(_CHARACTER, chr(each)) else " ") for each in range(256)])


class BearerCredential(Discreet, frozen=True, kw_only=True):
    """A token from ``Authorization: Bearer`` or ``x-api-key``."""

    unshown: ClassVar[frozenset[str]] = frozenset({"token"})

    token: str


class OAuthCredential(msgspec.Struct, frozen=True, kw_only=True):
    """A signed request. The signature has not been looked at: look up ``consumer_key``, then call ``oauth1.verify``."""

    consumer_key: str
    header: OAuthHeader


Credential: TypeAlias = BearerCredential | OAuthCredential


def credentials_of(headers: Mapping[str, str]) -> Credential:
    """Find the request's credential. Names are matched in any case; a multi-mapping's repeated headers are all seen.

    Raises AuthenticationFailed when there is none, more than one, or one that is malformed.
    """
    found: Credential | None = None
    # One pass over the pairs, because get() would hide a second header of the same name.
    for name, value in headers.items():
        if len(name) not in (9, 13):
            continue
        credential = _read(name.lower(), value)
        if credential is None:
            continue
        if found is not None and found != credential:
            raise AuthenticationFailed("The request carries more than one credential.")
        found = credential
    if found is None:
        raise AuthenticationFailed("No API key: send Authorization: Bearer, x-api-key, or an OAuth 1.0a signature.")
    return found


def plain_token_digest(token: bytes) -> bytes | None:
    """The digest (``token_digest``) of this, as it stands behind ``Bearer`` and one blank, if that is a token; None for
    any other text, which may hold one too."""
    # A fifth of what a regular expression takes.
    if len(token) <= _MAX_CHARACTERS and token.translate(_AS_LETTERS).isalpha():
        return hash_of_token(token).digest()
    return None


def _read(name: str, value: str) -> Credential | None:
    if name == "x-api-key":
        return BearerCredential(token=_token_of(value))
    if name != "authorization":
        return None
    if value.startswith("Bearer "):
        return BearerCredential(token=_token_of(value[7:]))
    scheme, _, rest = value.strip(" \t").partition(" ")
    match scheme.lower():
        case "bearer":
            return BearerCredential(token=_token_of(rest))
        case "oauth":
            header = parse_header(value)
            return OAuthCredential(consumer_key=header.consumer_key, header=header)
    raise AuthenticationFailed("The Authorization header must be Bearer or OAuth.")


def _token_of(text: str) -> str:
    token = text.strip(" \t")
    if not _TOKEN.fullmatch(token):
        raise AuthenticationFailed("The API key is malformed.")
    return token
