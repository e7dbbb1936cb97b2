"""Which requests the lane takes, and who may go on it.

The lane takes a request that has nothing about it but a call: a POST to a chat route with a JSON body that is there or
will not take long, a key or a signature, and no wish that concerns the connection or a browser. Anything else is no
business of the lane, and nothing has happened to it yet when the lane lets it pass. So the two ways need not agree on
what is unusual. What the lane remembers of requests that it took: ``known_heads.py``.
"""

from __future__ import annotations

import time
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy

from bitmesh_proxy import keys
from bitmesh_proxy.auth.bearer import BearerCredential, credentials_of
from bitmesh_proxy.auth.payload_signature import sent_signature
from bitmesh_proxy.auth.secrets import token_digest
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.errors import AuthenticationFailed
from bitmesh_proxy.limits.base import Bucket, Passed
from bitmesh_proxy.web.authenticate import Known
from bitmesh_proxy.web.forwarded import public_base_url
from bitmesh_proxy.web.lane.entry import Entry, Visitor
from bitmesh_proxy.web.lane.known_heads import KnownHeads
from bitmesh_proxy.web.request_ids import make_request_id
from bitmesh_proxy.web.route import PLAIN_CALLS_KEY, Route

#: Bodies above this size go the plain way, where large ones are parsed in a thread.
MAX_BODY_BYTES: Final = 128 * 1024
#: Bodies above this size are not waited for, since the connection is not read while so much of one lies unread.
MAX_COMING_BYTES: Final = 48 * 1024
#: Headers that ask for something which the plain way does. ``Origin``: a browser wants to hear who may read the answer.
_NOT_PLAIN: Final = ("Origin", "Idempotency-Key", "Content-Encoding", "Expect")
_JSON: Final = frozenset(
    (
        "application/json",
        *(f"application/json;{space}charset={name}" for space in ("", " ") for name in ("utf-8", "UTF-8")),
    )
)


class Lane:
    """One per application, made once it has started."""

    def __init__(self, app: web.Application) -> None:
        settings = app[keys.SETTINGS]
        self._routes = app[PLAIN_CALLS_KEY]
        self._forwarded = app[keys.FORWARDED]
        self._public_url = settings.http.public_url
        self.max_head_bytes = settings.http.max_head_bytes
        self.authenticator = app[keys.AUTHENTICATOR]
        self.directory = self.authenticator.directory
        #: ``KeyDirectory.version`` as it is now.
        self.keys_version = self.directory.current_version
        self._address_limit = app[keys.ADDRESS_LIMIT]
        self._key_limit = app[keys.KEY_LIMIT]
        self._endpoint_limit = app[keys.ENDPOINT_LIMIT]
        self.slots = app[keys.CONCURRENCY_LIMIT]
        address_limit, endpoint_limits = self._address_limit.limit, self._endpoint_limit.limits
        self._passages = {
            name: self.slots.passage(address_limit, self._key_limit, endpoint_limits.get(name))
            for name in {each.name for each in self._routes.values()}
        }
        self._max_body_bytes = min(MAX_BODY_BYTES, settings.http.max_body_bytes)
        #: Of requests that were taken.
        self.heads = KnownHeads(self._max_body_bytes)
        self.metrics = app[keys.METRICS]
        self.cutting = app[keys.CUTTING]
        self.pipeline = app[keys.PIPELINE]
        self.line = app[keys.STRAIGHT]

    def takes(self, message: RawRequestMessage, payload: StreamReader, peer: str | None) -> Entry | None:
        """The request, if the lane serves it. Nothing has happened when it says no.

        Its body may be on its way, if it is short (``payload.is_eof``).
        """
        route = self._routes.get(message.path)
        if (
            route is None
            or message.method != "POST"
            or message.should_close
            or message.upgrade
            or message.chunked
            or message.version != HttpVersion11
            or payload.exception() is not None
        ):
            return None
        if payload.is_eof():
            if not 0 < payload.total_bytes <= self._max_body_bytes:
                return None
        elif int(message.headers.get("Content-Length", 0)) > min(MAX_COMING_BYTES, self._max_body_bytes):
            return None
        found = self._visitor(message.headers, peer)
        return None if found is None else self.entry_of(route, *found)

    def entry_of(self, route: Route, visitor: Visitor, token_digest: bytes = b"") -> Entry:
        """A visitor's request for a route."""
        passage = None if visitor.signed else self._passages[route.name]
        return Entry(route, visitor, self._address_limit.bucket(visitor.address), passage, token_digest)

    def _visitor(self, headers: CIMultiDictProxy[str], peer: str | None) -> tuple[Visitor, bytes] | None:
        """The visitor, and the digest of its token. None for headers that are not plain, or hold no one credential that
        could be any."""
        if headers.get("Content-Type") not in _JSON or any(name in headers for name in _NOT_PLAIN):
            return None
        try:
            credential = credentials_of(headers)
            payload_signature = None if isinstance(credential, BearerCredential) else sent_signature(headers)
        except AuthenticationFailed:
            return None
        address, scheme, host = self._forwarded.resolve(peer, headers, scheme="http", host=headers.get("Host", ""))
        base_url = self._public_url or public_base_url(scheme, host)
        if isinstance(credential, BearerCredential):
            return Visitor(address, base_url), token_digest(credential.token)
        return Visitor(address, base_url, credential, payload_signature), b""

    def context_of(self, entry: Entry) -> RequestContext:
        """Names the request."""
        visitor = entry.visitor
        return RequestContext(
            request_id=make_request_id(),
            address=visitor.address,
            public_base_url=visitor.public_base_url,
            received_at_s=time.time(),
            started_s=time.monotonic(),
            surface=entry.route.surface,
        )

    def authenticate_signed(self, entry: Entry, body: bytes, on_known: Known) -> None:
        """Have it said who has signed it, once. Raises AuthenticationFailed, or Unavailable; then it is not said."""
        visitor = entry.visitor
        assert visitor.signed is not None
        self.authenticator.signed(
            visitor.signed,
            method="POST",
            raw_target=entry.route.path,
            public_base_url=visitor.public_base_url,
            body=body,
            payload_signature=visitor.payload_signature,
            on_known=on_known,
        )

    def admit_newcomer(self, entry: Entry, caller: Caller) -> list[Passed]:
        """Through the limits of a key that this head has not been used with; what is needed for its next requests is
        only made when there are any: of many thousands of keys, few come again soon. Raises RateLimited."""
        entry.caller, entry.buckets, entry.gate = caller, None, None
        most, key_id = caller.max_concurrent, caller.key_id
        entry.max_concurrent = self.slots.default if most is None else most
        passed: list[Passed] = []
        limit = self._key_limit.limit_of(caller.rate_per_minute)
        if limit is not None:
            missing = limit.take(limit.key_of(key_id))
            passed.append((limit, missing) if missing >= 0 else limit.admit(key_id))
        limit = self._endpoint_limit.limits.get(entry.route.name)
        if limit is not None:
            missing = limit.take(limit.key_of(key_id))
            passed.append((limit, missing) if missing >= 0 else limit.admit(key_id))
        return passed

    def buckets_of(self, entry: Entry, caller: Caller) -> tuple[Bucket, ...]:
        """Those of a key that has come again, to be kept."""
        key_bucket = self._key_limit.bucket(caller.key_id, rate_per_minute=caller.rate_per_minute)
        endpoint_bucket = self._endpoint_limit.bucket(caller.key_id, entry.route.name)
        entry.buckets = buckets = tuple([each for each in (key_bucket, endpoint_bucket) if each is not None])
        if entry.visitor.signed is None and caller.expires_at_s is None:
            first = () if entry.address_bucket is None else (entry.address_bucket,)
            entry.gate = self.slots.gate(caller.key_id, entry.max_concurrent, (*first, *buckets), untold=len(first))
        return buckets
