"""Content that leaves us sealed and comes back: nobody else can read it, change it, or use another account's.

Encrypt, then authenticate, both with keys derived from the master secret and the account. The keystream is SHAKE256
over key and nonce (a sponge keyed by its prefix is a pseudo-random function: FIPS 202, and KMACXOF of SP 800-185 is
made so); the tag is HMAC-SHA256 over version, nonce and ciphertext. The standard library has no cipher, and both of
these it has. Nothing is stored, so a seal holds as long as the master secret does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import zlib
from collections.abc import Callable

from bitmesh_proxy.errors import InvalidEncryptedContent

RandomBytes = Callable[[int], bytes]

VERSION = b"\x01"
NONCE_BYTES = 24
TAG_BYTES = 32
#: What a seal may hold; a small one could otherwise unpack to any size.
MAX_CONTENT_BYTES = 32 * 1024 * 1024


class Sealer:
    """Seals and opens. ``purpose`` keeps one use apart from every other."""

    def __init__(
        self,
        master_secret: bytes,
        purpose: str,
        *,
        max_content_bytes: int = MAX_CONTENT_BYTES,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        self._master_secret = master_secret
        self._purpose = purpose
        self._max_content_bytes = max_content_bytes
        self._random_bytes = random_bytes

    def seal(self, content: bytes, account_id: str) -> str:
        """The content as text that only ``open`` for the same account understands."""
        nonce = self._random_bytes(NONCE_BYTES)
        body = VERSION + nonce + _xor(zlib.compress(content), self._keystream(account_id, nonce))
        return base64.urlsafe_b64encode(body + self._tag(account_id, body)).decode()

    def open(self, sealed: str, account_id: str) -> bytes:
        """What was sealed. Raises InvalidEncryptedContent for anything that was not, here, for this account."""
        try:
            data = base64.b64decode(sealed.encode("ascii"), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            raise _refused() from None
        body, tag = data[:-TAG_BYTES], data[-TAG_BYTES:]
        if len(body) <= len(VERSION) + NONCE_BYTES or body[:1] != VERSION:
            raise _refused()
        if not hmac.compare_digest(tag, self._tag(account_id, body)):
            raise _refused()
        nonce, hidden = body[1 : 1 + NONCE_BYTES], body[1 + NONCE_BYTES :]
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(_xor(hidden, self._keystream(account_id, nonce)), self._max_content_bytes)
        if not unpacker.eof:
            raise _refused()
        return content

    def _key(self, use: str, account_id: str) -> bytes:
        return hmac.digest(self._master_secret, f"{self._purpose}:{use}:{account_id}".encode(), "sha256")

    def _tag(self, account_id: str, body: bytes) -> bytes:
        return hmac.digest(self._key("authenticate", account_id), body, "sha256")

    def _keystream(self, account_id: str, nonce: bytes) -> Callable[[int], bytes]:
        return hashlib.shake_256(self._key("encrypt", account_id) + nonce).digest


def _xor(data: bytes, keystream: Callable[[int], bytes]) -> bytes:
    length = len(data)
    mixed = int.from_bytes(data, "little") ^ int.from_bytes(keystream(length), "little")
    return mixed.to_bytes(length, "little")


def _refused() -> InvalidEncryptedContent:
    return InvalidEncryptedContent("The encrypted content was not made here for this account, or was changed.")
