"""Which requests the lane takes, and who may go on it.

The lane takes a request that is all there and has nothing about it but a call: a POST to a chat route with a JSON body,
a key or a signature, and no wish that concerns the connection or a browser. Anything else is no business of the lane,
and nothing has happened to it yet when the lane lets it pass. So the two ways need not agree on what is unusual.
"""

from __future__ import annotations

import time
from typing import Final

from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from msgspec import Struct
from multidict import CIMultiDictProxy

from bitmesh_proxy import keys
from bitmesh_proxy.auth.bearer import BearerCredential, OAuthCredential, credentials_of, plain_token
from bitmesh_proxy.auth.payload_signature import HEADER
from bitmesh_proxy.auth.secrets import token_digest
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.errors import AuthenticationFailed
from bitmesh_proxy.limits.base import Snapshot
from bitmesh_proxy.limits.concurrency import Slot
from bitmesh_proxy.web.forwarded import public_base_url
from bitmesh_proxy.web.request_ids import make_request_id
from bitmesh_proxy.web.route import PLAIN_CALLS_KEY, Route

#: Bodies above this size go the plain way, where large ones are parsed in a thread.
MAX_BODY_BYTES: Final = 128 * 1024
#: Heads that are remembered; then they are learnt anew.
MAX_KNOWN: Final = 1024
#: A head above this size is not remembered: callers may send ones of megabytes, and have shown no key yet.
MAX_KNOWN_HEAD_BYTES: Final = 4096

#: Headers that ask for something which the plain way does. ``Origin``: a browser wants to hear who may read the answer.
_NOT_PLAIN: Final = ("Origin", "Idempotency-Key", "Content-Encoding", "Expect")
_JSON: Final = frozenset(("application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"))

RawHeaders = tuple[tuple[bytes, bytes], ...]


class Visitor(Struct, frozen=True):
    """What the headers of a plain request say: where it comes from, how callers reach us, and whose token it bears, or
    who has signed it.

    Who has the token, and what that key may do, is looked up with every request.
    """

    address: str
    public_base_url: str
    token_digest: bytes = b""
    #: A signature instead of a token, and the header that signs the body. No two requests have the same.
    signed: OAuthCredential | None = None
    payload_signature: str | None = None


class Lane:
    """One per application, made once it has started."""

    def __init__(self, app: web.Application) -> None:
        settings = app[keys.SETTINGS]
        self._routes = app[PLAIN_CALLS_KEY]
        self._forwarded = app[keys.FORWARDED]
        self._public_url = settings.http.public_url
        self._authenticator = app[keys.AUTHENTICATOR]
        self._address_limit = app[keys.ADDRESS_LIMIT]
        self._key_limit = app[keys.KEY_LIMIT]
        self._endpoint_limit = app[keys.ENDPOINT_LIMIT]
        self._concurrency_limit = app[keys.CONCURRENCY_LIMIT]
        self._max_body_bytes = min(MAX_BODY_BYTES, settings.http.max_body_bytes)
        # Callers send the same headers again and again, but for the length of the body; reading them costs 12 us.
        self._known: dict[tuple[str | None, RawHeaders], Visitor] = {}
        # And those of many keys differ in the token: the rest of their heads is remembered by itself, with a visitor
        # of no token.
        self._around: dict[tuple[str | None, RawHeaders], Visitor] = {}
        self.metrics = app[keys.METRICS]
        self.pipeline = app[keys.PIPELINE]
        self.line = app[keys.STRAIGHT]

    def takes(
        self, message: RawRequestMessage, payload: StreamReader, peer: str | None
    ) -> tuple[Route, Visitor] | None:
        """The route and the visitor, if the lane serves this request. Nothing has happened when it says no."""
        route = self._routes.get(message.path)
        if (
            route is None
            or message.method != "POST"
            or not payload.is_eof()
            or message.should_close
            or message.upgrade
            or message.version != HttpVersion11
            or not 0 < payload.total_bytes <= self._max_body_bytes
            or payload.exception() is not None
        ):
            return None
        raw: RawHeaders = message.raw_headers
        for at, (name, _) in enumerate(raw):  # noqa: B007 - used behind the loop
            if len(name) == 14 and name.lower() == b"content-length":
                break
        else:
            return None
        key = (peer, raw[:at] + raw[at + 1 :])
        visitor = self._known.get(key)
        if visitor is None:
            visitor = self._with_new_token(key) or self._learn(key, message.headers)
            if visitor is None:
                return None
        return route, visitor

    def _with_new_token(self, key: tuple[str | None, RawHeaders]) -> Visitor | None:
        """The visitor with a head of which all but the token has been learnt."""
        peer, raw = key
        at = _place_of_authorization(raw)
        if at < 0:
            return None
        around = self._around.get((peer, raw[:at] + raw[at + 1 :]))
        if around is None or (token := plain_token(raw[at][1])) is None:
            return None
        visitor = Visitor(around.address, around.public_base_url, token_digest(token))
        self._remember(self._known, key, visitor)
        return visitor

    def _learn(self, key: tuple[str | None, RawHeaders], headers: CIMultiDictProxy[str]) -> Visitor | None:
        """The visitor with a head that is seen for the first time; None for one that is not plain."""
        peer, raw = key
        visitor = self._visitor(headers, peer)
        if visitor is None or visitor.signed is not None:
            return visitor
        if sum([len(name) + len(value) for name, value in raw]) <= MAX_KNOWN_HEAD_BYTES:
            self._remember(self._known, key, visitor)
            at = _place_of_authorization(raw)
            # Another header may hold a credential too, and then the two have to be compared.
            if at >= 0 and "X-Api-Key" not in headers and _place_of_authorization(raw, at + 1) < 0:
                around = Visitor(visitor.address, visitor.public_base_url)
                self._remember(self._around, (peer, raw[:at] + raw[at + 1 :]), around)
        return visitor

    @staticmethod
    def _remember(
        known: dict[tuple[str | None, RawHeaders], Visitor], key: tuple[str | None, RawHeaders], visitor: Visitor
    ) -> None:
        if len(known) >= MAX_KNOWN:
            known.clear()
        known[key] = visitor

    def _visitor(self, headers: CIMultiDictProxy[str], peer: str | None) -> Visitor | None:
        """None for headers that are not plain, or hold no one credential that could be any."""
        if headers.get("Content-Type") not in _JSON or any(name in headers for name in _NOT_PLAIN):
            return None
        try:
            credential = credentials_of(headers)
        except AuthenticationFailed:
            return None
        address, scheme, host = self._forwarded.resolve(peer, headers, scheme="http", host=headers.get("Host", ""))
        base_url = self._public_url or public_base_url(scheme, host)
        if isinstance(credential, BearerCredential):
            return Visitor(address, base_url, token_digest(credential.token))
        return Visitor(address, base_url, signed=credential, payload_signature=headers.get(HEADER))

    def context_of(self, route: Route, visitor: Visitor) -> RequestContext:
        """Names the request."""
        return RequestContext(
            request_id=make_request_id(),
            address=visitor.address,
            public_base_url=visitor.public_base_url,
            received_at_s=time.time(),
            started_s=time.monotonic(),
            surface=route.surface,
        )

    def admit_address(self, visitor: Visitor) -> Snapshot | None:
        """Through the limit of the address. Raises RateLimited."""
        return self._address_limit.admit(visitor.address)

    def authenticate(self, visitor: Visitor) -> Caller:
        """Who it is. Raises AuthenticationFailed."""
        return self._authenticator.by_token_digest(visitor.token_digest)

    async def authenticate_signed(self, visitor: Visitor, path: str, body: bytes) -> Caller:
        """Who has signed it, once. Raises AuthenticationFailed."""
        assert visitor.signed is not None
        return await self._authenticator.signed(
            visitor.signed,
            method="POST",
            raw_target=path,
            public_base_url=visitor.public_base_url,
            body=body,
            payload_signature=visitor.payload_signature,
        )

    def admit_key(self, caller: Caller, route: Route) -> list[Snapshot | None]:
        """Through the limits of the key and of the key at this endpoint. Raises RateLimited."""
        return [
            self._key_limit.admit(caller.key_id, rate_per_minute=caller.rate_per_minute),
            self._endpoint_limit.admit(caller.key_id, route.name),
        ]

    def take_slot(self, caller: Caller) -> Slot:
        """One of the key's calls under way, to be given back. Raises TooManyConcurrent."""
        slot = self._concurrency_limit.enter(caller.key_id, caller.max_concurrent)
        slot.__enter__()
        return slot


def _place_of_authorization(raw: RawHeaders, begin: int = 0) -> int:
    """Where the header stands, from place ``begin`` on; -1 without one."""
    for at in range(begin, len(raw)):
        name = raw[at][0]
        if len(name) == 13 and name.lower() == b"authorization":
            return at
    return -1
