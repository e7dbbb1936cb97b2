"""Requests signed with one-legged OAuth 1.0a, whole and ready to be sent, each with a nonce of its own.

Written by hand (RFC 5849, HMAC-SHA1), because thousands are made at once; the gateway verifies with its library.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from collections.abc import Iterator
from urllib.parse import quote

from scripts.benchmarks.gateway import Credentials


def signed_requests(
    count: int, *, url: str, path: str, body: bytes, key: Credentials, now_s: int, label: str
) -> Iterator[bytes]:
    """``count`` POST requests, each behind its length (``load --requests``). ``label`` makes nonces unique."""
    host = url.removeprefix("http://")
    for number in range(count):
        fields = {
            "oauth_consumer_key": key.consumer_key,
            "oauth_nonce": f"{label}{number:012d}",
            "oauth_signature_method": "HMAC-SHA1",
            "oauth_timestamp": str(now_s),
            "oauth_version": "1.0",
        }
        signature = _sign(fields, url=url + path, secret=key.consumer_secret)
        header = ", ".join(f'{name}="{_escape(value)}"' for name, value in fields.items())
        payload = hashlib.sha256(body + key.consumer_key.encode() + signature.encode()).hexdigest()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\n"
            f'Authorization: OAuth {header}, oauth_signature="{_escape(signature)}"\r\n'
            f"X-Payload-Signature: {payload}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body
        yield struct.pack(">I", len(request)) + request


def _sign(fields: dict[str, str], *, url: str, secret: str) -> str:
    parameters = "&".join(f"{_escape(name)}={_escape(value)}" for name, value in sorted(fields.items()))
    base = f"POST&{_escape(url)}&{_escape(parameters)}"
    digest = hmac.new(f"{_escape(secret)}&".encode(), base.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


def _escape(text: str) -> str:
    return quote(text, safe="-._~")
