"""A request that the lane takes, but for its body, with what was looked up for it."""

from __future__ import annotations

from msgspec import Struct

from bitmesh_proxy.auth.bearer import OAuthCredential
from bitmesh_proxy.context import Caller
from bitmesh_proxy.limits.base import Bucket
from bitmesh_proxy.limits.concurrency import Gate
from bitmesh_proxy.limits.passage import Passage
from bitmesh_proxy.web.route import Route


class Visitor(Struct, frozen=True, gc=False):
    """What the headers of a plain request say beside a token: where it comes from, how callers reach us, and who has
    signed it, if anybody has."""

    address: str
    public_base_url: str
    #: A signature instead of a token, and the header that signs the body. No two requests have the same.
    signed: OAuthCredential | None = None
    payload_signature: str | None = None


# No garbage collection: nothing in it leads back to it.
class Entry(Struct, eq=False, gc=False):
    """A request that the lane takes, but for its body; and what has been looked up for it, to be used again."""

    route: Route
    visitor: Visitor
    #: None where addresses have no limit.
    address_bucket: Bucket | None
    #: Through all limits at once, for whoever has a token; None where processes share limits.
    passage: Passage | None
    #: Whose it is, where nobody has signed it. What that key may do is looked up when keys have changed.
    token_digest: bytes = b""
    #: Whom the rest is of: it is good for this very object, and another one comes when anything about the key changes.
    caller: Caller | None = None
    #: ``KeyDirectory.version`` when the caller was found.
    keys_version: int = -1
    #: Of the key, and of the key at this route; those that there are. None until the caller has come a second time.
    buckets: tuple[Bucket, ...] | None = None
    #: How many calls of the key may be under way; 0 is no limit.
    max_concurrent: int = 0
    #: Through all limits at once, where processes share them; good as long as ``caller`` and ``buckets`` are.
    gate: Gate | None = None

    def with_token(self, digest: bytes) -> Entry:
        """The same of a token, nothing looked up yet."""
        return Entry(self.route, self.visitor, self.address_bucket, self.passage, digest)
