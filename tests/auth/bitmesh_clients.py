"""Signs as the published Bitmesh clients do, from the standard library alone, so that oauthlib is not tested by itself.

PHP client: nonce of 16 hex characters, this order of parameters, comma and space, the host in the case it was written,
the port left out if it is 80 or 443, of a doubled query name the last value. Facts read off the clients, 2026.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlsplit


def escape(text: str) -> str:
    """RFC 3986: unreserved characters stay, everything else is percent-encoded."""
    return quote(text, safe="-._~")


def sign(method: str, url: str, parameters: Mapping[str, str], *, secret: str, digest: str = "sha1") -> str:
    """The signature of the OAuth ``parameters`` and the URL's query, base64."""
    parts = urlsplit(url)
    authority = parts.netloc.removesuffix(":80").removesuffix(":443")
    everything = {**dict(parse_qsl(parts.query, keep_blank_values=True)), **parameters}
    pairs = sorted((escape(name), escape(value)) for name, value in everything.items())
    base_string = "&".join(
        (
            method.upper(),
            escape(f"{parts.scheme}://{authority}{parts.path}"),
            escape("&".join(f"{name}={value}" for name, value in pairs)),
        )
    )
    return base64.b64encode(hmac.digest(f"{escape(secret)}&".encode(), base_string.encode(), digest)).decode()


def authorization(
    method: str,
    url: str,
    *,
    key: str,
    secret: str,
    timestamp_s: int,
    nonce: str = "fa0e22d8692912ad",
) -> tuple[str, str]:
    """The header as the PHP client sends it, and the signature before percent-encoding."""
    parameters = {
        "oauth_consumer_key": key,
        "oauth_signature_method": "HMAC-SHA1",
        "oauth_timestamp": str(timestamp_s),
        "oauth_nonce": nonce,
        "oauth_version": "1.0",
    }
    signature = sign(method, url, parameters, secret=secret)
    pairs = {**parameters, "oauth_signature": signature}.items()
    return "OAuth " + ", ".join(f'{name}="{escape(value)}"' for name, value in pairs), signature


def payload_signature(body: bytes, *, key: str, signature: str) -> str:
    """What goes into ``X-Payload-Signature``."""
    return hashlib.sha256(body + key.encode() + signature.encode()).hexdigest()
