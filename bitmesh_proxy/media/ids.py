"""Ids under which results are handed out: ``/imgrslt/{id}``.

The route is public, so whoever knows an id has the picture: an id of ours is as hard to guess as a key. A provider's
own short id (Together's are 16 letters and digits) is kept, as callers know it from the provider.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable

_ALPHABET = string.ascii_letters + string.digits
#: 24 of 62 characters are 142 bits.
OWN_ID_LENGTH = 24
_MEDIA_ID = re.compile(r"[A-Za-z0-9]{1,64}")
#: The largest multiple of 62 that a byte holds; bytes from there on would favour the first letters.
_FAIR_BYTES = 256 - 256 % len(_ALPHABET)

RandomBytes = Callable[[int], bytes]


def is_media_id(text: str) -> bool:
    """Could ``text`` be an id that was handed out? Says nothing about whether it was."""
    return _MEDIA_ID.fullmatch(text) is not None


def make_media_id(random_bytes: RandomBytes) -> str:
    """A new id of ours. ``random_bytes`` is ``os.urandom``, or a test's own."""
    letters: list[str] = []
    while len(letters) < OWN_ID_LENGTH:
        letters += (_ALPHABET[byte % len(_ALPHABET)] for byte in random_bytes(OWN_ID_LENGTH) if byte < _FAIR_BYTES)
    return "".join(letters[:OWN_ID_LENGTH])
