"""Links that stand for a picture in documentation, and lead nowhere. Only the sandbox knows what to make of them.

An example says ``https://example.com/image.jpg`` (a name that RFC 2606 keeps for this) or gives a data URI with most of
it left out (``data:image/png;base64,iVBORw0KG…``). So that examples work when they are pasted, the sandbox takes both
for a picture of its own. With real providers nothing of this applies.
"""

from __future__ import annotations

import re
from typing import Final

from yarl import URL

#: RFC 2606, sections 2 and 3.
_RESERVED: Final = re.compile(r"(?:.*\.)?(?:example\.(?:com|net|org)|example|test|invalid)")
_LEFT_OUT: Final = re.compile(r"data:[a-z]+/[a-z0-9.+-]+;base64,[A-Za-z0-9+/]{0,32}(?:\.\.\.|…)")


def is_example(link: str) -> bool:
    """Does a link stand for any picture, rather than for one?"""
    if link.startswith("data:"):
        return len(link) < 128 and _LEFT_OUT.fullmatch(link) is not None
    try:
        host = URL(link).host
    except ValueError:
        return False
    return host is not None and _RESERVED.fullmatch(host) is not None
