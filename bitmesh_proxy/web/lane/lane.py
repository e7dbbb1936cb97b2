"""Which requests the lane takes, and who may go on it.

The lane takes a request that is all there and has nothing about it but a call: a POST to a chat route with a JSON body,
a bearer key, and no wish that concerns the connection or a browser. Anything else is no business of the lane, and
nothing has happened to it yet when the lane lets it pass. So the two ways need not agree on what is unusual.
"""

from __future__ import annotations

import time
from typing import Final

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http_parser import RawRequestMessage

from bitmesh_proxy import keys
from bitmesh_proxy.auth.bearer import BearerCredential, credentials_of
from bitmesh_proxy.context import RequestContext
from bitmesh_proxy.limits.concurrency import Slot
from bitmesh_proxy.web.forwarded import public_base_url
from bitmesh_proxy.web.request_ids import make_request_id
from bitmesh_proxy.web.route import PLAIN_CALLS_KEY, Route

#: Bodies above this size go the plain way, where large ones are parsed in a thread.
MAX_BODY_BYTES: Final = 128 * 1024

#: Headers that ask for something which the plain way does. ``Origin``: a browser wants to hear who may read the answer.
_NOT_PLAIN: Final = ("Origin", "Idempotency-Key", "Content-Encoding", "Expect")
_JSON: Final = frozenset(("application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"))


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
        self.metrics = app[keys.METRICS]
        self.pipeline = app[keys.PIPELINE]
        self.line = app[keys.STRAIGHT]

    def takes(self, message: RawRequestMessage, payload: StreamReader) -> Route | None:
        """The route, if the lane serves this request. Looks only; nothing has happened when it says no."""
        route = self._routes.get(message.path)
        if (
            route is None
            or message.method != "POST"
            or not payload.is_eof()
            or payload.exception() is not None
            or message.should_close
            or message.upgrade
            or message.version != HttpVersion11
            or not 0 < payload.total_bytes <= self._max_body_bytes
        ):
            return None
        headers = message.headers
        if headers.get("Content-Type") not in _JSON or headers.get("Authorization", "")[:7].lower() != "bearer ":
            return None
        return None if any(name in headers for name in _NOT_PLAIN) else route

    def context_of(self, message: RawRequestMessage, route: Route, peer: str | None) -> RequestContext:
        """Names the request and finds out where it comes from, as the plain way does."""
        headers = message.headers
        address, scheme, host = self._forwarded.resolve(peer, headers, scheme="http", host=headers.get("Host", ""))
        return RequestContext(
            request_id=make_request_id(),
            address=address,
            public_base_url=self._public_url or public_base_url(scheme, host),
            received_at_s=time.time(),
            started_s=time.monotonic(),
            surface=route.surface,
        )

    def admit(self, message: RawRequestMessage, route: Route, state: keys.RequestState) -> Slot:
        """Through the limits and past authentication, in the order of the plain way; notes in ``state`` what it learns.

        Gives the key's slot, taken; whoever got it gives it back. Raises GatewayError.
        """
        state.snapshots.append(self._address_limit.admit(state.context.address))
        credential = credentials_of(message.headers)
        assert isinstance(credential, BearerCredential), "the lane takes no other"
        state.caller = caller = self._authenticator.bearer(credential)
        state.snapshots = [
            self._key_limit.admit(caller.key_id, rate_per_minute=caller.rate_per_minute),
            self._endpoint_limit.admit(caller.key_id, route.name),
        ]
        slot = self._concurrency_limit.enter(caller.key_id, caller.max_concurrent)
        slot.__enter__()
        return slot
