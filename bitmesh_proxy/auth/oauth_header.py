"""``Authorization: OAuth …`` (RFC 5849, 3.5.1): reads the header. What it says is looked at in ``oauth1.py``.

Nothing here raises anything but AuthenticationFailed, whose messages name the fault and quote nothing of the request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar
from urllib.parse import unquote

from oauthlib.oauth1.rfc5849 import SIGNATURE_HMAC_SHA1, SIGNATURE_HMAC_SHA256

from bitmesh_proxy.auth.secrets import CONSUMER_KEY
from bitmesh_proxy.discreet import Discreet
from bitmesh_proxy.errors import AuthenticationFailed

#: Far above what a signed header needs (about 300); below what would make parsing it cost something.
MAX_HEADER_CHARS = 4096

_PARAMETER = re.compile(r'[ \t]*([A-Za-z0-9_.~%-]{1,64})[ \t]*=[ \t]*"([ !#-\[\]-~]*)"[ \t]*(,|$)')
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# 16 hex characters by the PHP client, 32 by the Python client and by the usual npm package.
_NONCE = re.compile(r"[!-~]{8,128}")
_TIMESTAMP = re.compile(r"[1-9][0-9]{0,11}")
# Base64 of 20 bytes (SHA-1) or 32 (SHA-256).
_SIGNATURE = re.compile(r"[A-Za-z0-9+/]{27}=|[A-Za-z0-9+/]{43}=")
_REQUIRED = ("oauth_consumer_key", "oauth_signature_method", "oauth_timestamp", "oauth_nonce", "oauth_signature")
_UNSIGNED = frozenset(("oauth_signature", "realm"))
_METHODS = frozenset((SIGNATURE_HMAC_SHA1, SIGNATURE_HMAC_SHA256))


class OAuthHeader(Discreet, frozen=True, kw_only=True):
    """A parsed ``Authorization: OAuth …``, its values percent-decoded.

    ``signed`` holds every parameter that belongs into the base string, unknown ones included, in the order of the wire.
    """

    unshown: ClassVar[frozenset[str]] = frozenset({"signature", "signed"})

    consumer_key: str
    signature_method: str
    timestamp_s: int
    nonce: str
    signature: str
    signed: tuple[tuple[str, str], ...]


def parse_header(authorization: str) -> OAuthHeader:
    """Read an ``Authorization: OAuth …`` header. AuthenticationFailed for what is missing, doubled or malformed."""
    parameters = _parameters_of(authorization)
    values = dict(parameters)
    if len(values) != len(parameters):
        raise AuthenticationFailed("The OAuth header holds a parameter twice.")
    for name in _REQUIRED:
        if not values.get(name):
            raise AuthenticationFailed(f"The OAuth header has no {name}.")
    _check_values(values)
    return OAuthHeader(
        consumer_key=values["oauth_consumer_key"],
        signature_method=values["oauth_signature_method"],
        timestamp_s=int(values["oauth_timestamp"]),
        nonce=values["oauth_nonce"],
        signature=values["oauth_signature"],
        signed=tuple([pair for pair in parameters if pair[0] not in _UNSIGNED]),
    )


def _parameters_of(authorization: str) -> list[tuple[str, str]]:
    """The header's pairs, percent-decoded. What stands between the values is the same in most headers of a client, and
    is read once."""
    if (
        len(authorization) <= MAX_HEADER_CHARS
        and authorization.isascii()
        and authorization.isprintable()
        and "\\" not in authorization
    ):
        pieces = authorization.split('"')
        names = _names_between(tuple(pieces[::2]))
        if names and len(names) == len(pieces) // 2:
            values = pieces[1::2]
            return [
                (name, _decode(value) if "%" in value and name != "realm" else value)
                for name, value in zip(names, values, strict=True)
            ]
    return _read_parameters(authorization)


@lru_cache(maxsize=128)  # bounded, as anybody may send any header: half a megabyte
def _names_between(around: tuple[str, ...]) -> tuple[str, ...]:
    """The names in a header without its values; none if it is malformed."""
    try:
        return tuple(name for name, _ in _read_parameters('""'.join(around)))
    except AuthenticationFailed:
        return ()


def _read_parameters(authorization: str) -> list[tuple[str, str]]:
    """By hand: the standard library's parser drops duplicates silently."""
    scheme, _, rest = authorization.strip(" \t").partition(" ")
    if scheme.lower() != "oauth":
        raise AuthenticationFailed("The Authorization header is not OAuth.")
    if len(rest) > MAX_HEADER_CHARS:
        raise AuthenticationFailed("The OAuth header is too long.")
    parameters: list[tuple[str, str]] = []
    position = 0
    while position < len(rest):
        found = _PARAMETER.match(rest, position)
        if found is None:
            raise AuthenticationFailed('The OAuth header is malformed: want name="value" pairs separated by commas.')
        parameters.append((_decode(found[1]), found[2] if found[1] == "realm" else _decode(found[2])))
        position = found.end()
    return parameters


def _decode(text: str) -> str:
    if "%" not in text:
        return text
    # All that there is to escape in base64, as clients do it.
    of_base64 = text.replace("%3D", "=").replace("%2B", "+").replace("%2F", "/")
    if "%" not in of_base64:
        return of_base64
    if _BAD_ESCAPE.search(text):
        raise AuthenticationFailed("The OAuth header is not correctly percent-encoded.")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise AuthenticationFailed("The OAuth header is not UTF-8.") from None


def _check_values(values: Mapping[str, str]) -> None:
    if values.get("oauth_version", "1.0") != "1.0":
        raise AuthenticationFailed("The OAuth version must be 1.0.")
    if values["oauth_signature_method"] not in _METHODS:
        raise AuthenticationFailed("The OAuth signature method must be HMAC-SHA1 or HMAC-SHA256.")
    if values.get("oauth_token"):
        raise AuthenticationFailed("OAuth tokens are not used here: sign with the consumer key and secret alone.")
    if not CONSUMER_KEY.fullmatch(values["oauth_consumer_key"]):
        raise AuthenticationFailed("The OAuth consumer key is malformed.")
    if not _TIMESTAMP.fullmatch(values["oauth_timestamp"]):
        raise AuthenticationFailed("The OAuth timestamp must be whole seconds of Unix time.")
    if not _NONCE.fullmatch(values["oauth_nonce"]):
        raise AuthenticationFailed("The OAuth nonce must be 8 to 128 visible ASCII characters.")
    if not _SIGNATURE.fullmatch(values["oauth_signature"]):
        raise AuthenticationFailed("The OAuth signature is malformed: want percent-encoded base64.")
