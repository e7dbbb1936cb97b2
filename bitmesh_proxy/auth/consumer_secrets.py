"""OAuth consumer secrets, which have to be known in the clear to check an HMAC.

Those that were made here are derived, and kept nowhere. Those that were taken over from another installation are sealed
(``sealing.py``) with the master secret, each for its key alone: what stands in the books of one key opens for no other,
and without the master secret for nobody.
"""

from __future__ import annotations

import logging
from functools import lru_cache

from bitmesh_proxy.auth.sealing import Sealer
from bitmesh_proxy.auth.secrets import derive_consumer_secret
from bitmesh_proxy.errors import InvalidEncryptedContent

log = logging.getLogger(__name__)

#: Secrets that are kept in memory, which take 200 bytes each, beside what they are made of.
MAX_SECRETS = 4096
_PURPOSE = "consumer_secret"
#: Of a secret that no key ever has had: generations begin with 1.
_NOBODYS = 0


class ConsumerSecrets:
    """Tells the secrets of keys. What was told is remembered."""

    def __init__(self, master_secret: bytes) -> None:
        self._master_secret = master_secret
        self._sealer = Sealer(master_secret, _PURPOSE)
        #: By key, generation and what is sealed, which together never get another secret. For the request's way.
        self.of = lru_cache(maxsize=MAX_SECRETS)(self._of)

    def seal(self, secret: str, key_id: str) -> bytes:
        """What is to be kept of a secret that was made elsewhere."""
        return self._sealer.seal(secret.encode(), key_id).encode()

    def can_open(self, sealed: bytes, key_id: str) -> bool:
        """Was it sealed for this key with this master secret, and is it whole?"""
        try:
            self._open(sealed, key_id)
        except InvalidEncryptedContent:
            return False
        return True

    def _of(self, key_id: str, generation: int, sealed: bytes | None) -> str:
        """The secret; of one that cannot be opened, another that nobody knows, so that no signature is good."""
        if sealed is None:
            return derive_consumer_secret(self._master_secret, key_id, generation)
        try:
            return self._open(sealed, key_id)
        except InvalidEncryptedContent:
            log.error(
                "the imported secret of %s cannot be opened with this master secret: nobody can sign with it", key_id
            )
            return derive_consumer_secret(self._master_secret, key_id, _NOBODYS)

    def _open(self, sealed: bytes, key_id: str) -> str:
        return self._sealer.open(sealed.decode("latin-1"), key_id).decode()
