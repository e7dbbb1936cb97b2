"""One-legged OAuth 1.0a (RFC 5849): who signed this request, and is the signature good?

The base string and the HMAC are oauthlib's; what stands here is what the wire brings and the library cannot know:

- The request target is taken as it came, percent-encoding and all. A decoded path gives another signature.
- Callers sign the URL that *they* saw, so the public address comes in from outside, as one or more candidates.
- Published clients leave the host's case as it is, drop the ports 80 and 443 whatever the scheme, and keep only the
  last of a query name that stands there twice. RFC 5849 (3.4.1.2, 3.4.1.3) says otherwise. Both ways are accepted.
  Whoever reads the query afterwards takes the *last* value of a name: an earlier one may be unsigned.
- From request to request nothing changes in a base string but consumer key, nonce and timestamp. What the library makes
  around them is remembered, since it takes ten times as long as the HMAC.
- The window of the timestamp is judged by a clock from outside. Nonces are not looked at here: they are burnt after the
  signature *and* the payload signature were found good (``nonces.py``), or anybody who knows a consumer key could fill
  the store.

Nothing here raises anything but AuthenticationFailed, whose messages name the fault and quote nothing of the request.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias, cast
from urllib.parse import parse_qsl, unquote

import msgspec
from oauthlib.oauth1.rfc5849 import SIGNATURE_HMAC_SHA1, SIGNATURE_HMAC_SHA256, signature

from bitmesh_proxy.discreet import Discreet
from bitmesh_proxy.errors import AuthenticationFailed

DEFAULT_WINDOW_S = 300.0
#: Far above what a signed header needs (about 300); below what would make parsing it cost something.
MAX_HEADER_CHARS = 4096

_PARAMETER = re.compile(r'[ \t]*([A-Za-z0-9_.~%-]{1,64})[ \t]*=[ \t]*"([ !#-\[\]-~]*)"[ \t]*(,|$)')
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONSUMER_KEY = re.compile(r"[A-Za-z0-9._-]{1,128}")
# 16 hex characters by the PHP client, 32 by the Python client and by the usual npm package.
_NONCE = re.compile(r"[!-~]{8,128}")
_TIMESTAMP = re.compile(r"[1-9][0-9]{0,11}")
# Base64 of 20 bytes (SHA-1) or 32 (SHA-256).
_SIGNATURE = re.compile(r"[A-Za-z0-9+/]{27}=|[A-Za-z0-9+/]{43}=")
_TARGET = re.compile(r"/[!\"$-~]*")
# What percent-encoding leaves as it is (RFC 5849, 3.6), however often it is done.
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]+")

_REQUIRED = ("oauth_consumer_key", "oauth_signature_method", "oauth_timestamp", "oauth_nonce", "oauth_signature")
_UNSIGNED = frozenset(("oauth_signature", "realm"))

#: What differs in each request, in the order of a base string, and what stands for it while the library makes one.
_VARYING: tuple[tuple[str, str], ...] = (
    ("oauth_consumer_key", "THE-CONSUMER-KEY"),
    ("oauth_nonce", "THE-NONCE"),
    ("oauth_timestamp", "THE-TIMESTAMP"),
)
_Pairs: TypeAlias = Sequence[tuple[str, str]]


class _Signer(Discreet, frozen=True):
    """What oauthlib's signing functions read from a client. There are no tokens, so no token secret."""

    unshown: ClassVar[frozenset[str]] = frozenset({"client_secret"})

    client_secret: str
    resource_owner_secret: str = ""


_SIGN: Mapping[str, Callable[[str, _Signer], str]] = {
    SIGNATURE_HMAC_SHA1: signature.sign_hmac_sha1_with_client,
    SIGNATURE_HMAC_SHA256: signature.sign_hmac_sha256_with_client,
}


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


class OAuthRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What was signed.

    ``raw_target`` is path and query exactly as on the request line. ``public_base_urls`` are the addresses under which
    the caller may have seen us (``https://api.example.org``, ``http://localhost:3000``), likeliest first, no path.
    """

    method: str
    raw_target: str
    public_base_urls: Sequence[str]
    header: OAuthHeader


class VerifiedOAuth(Discreet, frozen=True, kw_only=True):
    """A good signature. ``signature`` is the base64 text before percent-encoding, as the payload signature wants it."""

    unshown: ClassVar[frozenset[str]] = frozenset({"signature"})

    consumer_key: str
    nonce: str
    timestamp_s: int
    signature: str


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


def consumer_key_of(authorization: str) -> str:
    """The consumer key of a header whose signature has *not* been looked at: good for a look-up and nothing else."""
    return parse_header(authorization).consumer_key


def verify(
    request: OAuthRequest, *, consumer_secret: str, now_s: float, window_s: float = DEFAULT_WINDOW_S
) -> VerifiedOAuth:
    """Check timestamp and signature. ``now_s`` is Unix time; the timestamp may be ``window_s`` off either way.

    Raises AuthenticationFailed. The nonce is still to be burnt.
    """
    header = request.header
    if abs(now_s - header.timestamp_s) > window_s:
        raise AuthenticationFailed("The OAuth timestamp is too far from this server's clock.")
    path, _, query = request.raw_target.partition("?")
    if not _TARGET.fullmatch(request.raw_target):
        raise AuthenticationFailed("The request target holds characters that must be percent-encoded.")
    if not _is_signed_by(_Signer(consumer_secret), request, path=path, readings=_readings_of(query)):
        raise AuthenticationFailed("The OAuth signature does not match.")
    return VerifiedOAuth(
        consumer_key=header.consumer_key,
        nonce=header.nonce,
        timestamp_s=header.timestamp_s,
        signature=header.signature,
    )


def _is_signed_by(signer: _Signer, request: OAuthRequest, *, path: str, readings: Sequence[_Pairs]) -> bool:
    """Does any way of writing this request down give the signature?"""
    header = request.header
    sign = _SIGN[header.signature_method]
    received = header.signature.encode()
    origins = dict.fromkeys(form for base_url in request.public_base_urls for form in _origin_forms(base_url))
    for reading in readings:
        for origin in origins:
            base_string = _base_string(request.method, origin + path, header.signed, reading)
            if hmac.compare_digest(sign(base_string, signer).encode(), received):
                return True
    return False


def _base_string(method: str, url: str, signed: _Pairs, reading: _Pairs) -> str:
    """What the library makes of it all; by what it has made before, if the request is like others."""
    if not reading:
        rest = dict(signed)
        key, nonce, timestamp = [rest.pop(name, "") for name, _ in _VARYING]
        if (
            len(rest) == len(signed) - len(_VARYING)
            and _UNRESERVED.fullmatch(nonce)
            and _UNRESERVED.fullmatch(key + timestamp)
            and (around := _around_varying(method, url, tuple(rest.items()))) is not None
        ):
            return f"{around[0]}{key}{around[1]}{nonce}{around[2]}{timestamp}{around[3]}"
    return _base_string_of_library(method, url, (*signed, *reading))


# Bounded, because anybody may send any head: so many long ones take 10 MB. No key is part of it, so that the time taken
# does not tell which are in use.
@lru_cache(maxsize=128)
def _around_varying(method: str, url: str, rest: tuple[tuple[str, str], ...]) -> tuple[str, ...] | None:
    """The library's base string without what differs in each request. The pairs are in the order of their names, which
    none of the others shares, so that their place does not depend on their values. None for one that holds what stands
    for them a second time."""
    base_string = _base_string_of_library(method, url, (*_VARYING, *rest))
    around = tuple(re.split("|".join(stand_in for _, stand_in in _VARYING), base_string))
    return around if len(around) == len(_VARYING) + 1 else None


def _base_string_of_library(method: str, url: str, pairs: _Pairs) -> str:
    # The stubs say dict and Literal, but duplicated names are the point of the function, and its code takes pairs.
    normalized = signature.normalize_parameters(cast(Any, pairs))
    return signature.signature_base_string(cast(Any, method), url, normalized)


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
    if values["oauth_signature_method"] not in _SIGN:
        raise AuthenticationFailed("The OAuth signature method must be HMAC-SHA1 or HMAC-SHA256.")
    if values.get("oauth_token"):
        raise AuthenticationFailed("OAuth tokens are not used here: sign with the consumer key and secret alone.")
    if not _CONSUMER_KEY.fullmatch(values["oauth_consumer_key"]):
        raise AuthenticationFailed("The OAuth consumer key is malformed.")
    if not _TIMESTAMP.fullmatch(values["oauth_timestamp"]):
        raise AuthenticationFailed("The OAuth timestamp must be whole seconds of Unix time.")
    if not _NONCE.fullmatch(values["oauth_nonce"]):
        raise AuthenticationFailed("The OAuth nonce must be 8 to 128 visible ASCII characters.")
    if not _SIGNATURE.fullmatch(values["oauth_signature"]):
        raise AuthenticationFailed("The OAuth signature is malformed: want percent-encoded base64.")


def _readings_of(query: str) -> list[list[tuple[str, str]]]:
    """The query's pairs as RFC 5849 signs them and, where a name stands there twice, as the published clients do."""
    if not query:
        return [[]]
    try:
        # Strict, so that two targets that differ never decode to the same pairs through a replacement character.
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError:
        raise AuthenticationFailed("The query cannot be verified: it is not UTF-8.") from None
    last = dict(pairs)
    if any(name.startswith("oauth_") for name in last):
        raise AuthenticationFailed("OAuth parameters are taken from the Authorization header only.")
    return [pairs] if len(last) == len(pairs) else [pairs, list(last.items())]


@lru_cache(maxsize=256)  # scheme and host are the same for nearly every request; bounded, because callers choose Host
def _origin_forms(base_url: str) -> tuple[str, ...]:
    """Scheme and authority as RFC 5849 writes them, and as the published clients do. Empty if it is no such URL."""
    try:
        standard = signature.base_string_uri(base_url + "/").removesuffix("/")
    except ValueError:
        return ()
    scheme, _, authority = base_url.partition("://")
    as_seen = f"{scheme}://{re.sub(r':(80|443)?$', '', authority)}"
    return tuple(dict.fromkeys((as_seen, standard)))
