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
from urllib.parse import parse_qsl

import msgspec
from oauthlib.oauth1.rfc5849 import SIGNATURE_HMAC_SHA1, SIGNATURE_HMAC_SHA256, signature

from bitmesh_proxy.auth.oauth_header import OAuthHeader
from bitmesh_proxy.discreet import Discreet
from bitmesh_proxy.errors import AuthenticationFailed

DEFAULT_WINDOW_S = 300.0

_TARGET = re.compile(r"/[!\"$-~]*")
# What percent-encoding leaves as it is (RFC 5849, 3.6), however often it is done.
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]+")

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
