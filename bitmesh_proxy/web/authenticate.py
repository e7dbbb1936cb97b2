"""Who calls? Joins the credential on the wire to the key in the books.

A bearer token costs one digest and one look-up in memory. A signed request is verified by the library, then its payload
signature, and only then is its nonce burnt; the body has to be read for that, and is handed on to the endpoint.
A key that was switched off or has expired is refused with the very next request: the key directory sees to that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

from aiohttp import web

from bitmesh_proxy.auth.bearer import BearerCredential, OAuthCredential, credentials_of
from bitmesh_proxy.auth.consumer_secrets import ConsumerSecrets
from bitmesh_proxy.auth.nonces import NonceStore
from bitmesh_proxy.auth.oauth1 import OAuthRequest, VerifiedOAuth, verify
from bitmesh_proxy.auth.payload_signature import sent_signature, verify_fields_signature, verify_payload_signature
from bitmesh_proxy.auth.secrets import token_digest
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.errors import AuthenticationFailed
from bitmesh_proxy.settings import Http
from bitmesh_proxy.storage.key_directory import KeyDirectory
from bitmesh_proxy.storage.keys import KeyRecord
from bitmesh_proxy.web.received import Received, receive

#: Hears who has signed, or why that is not known.
Known: TypeAlias = Callable[[Caller | Exception], None]

#: Compared against when a consumer key is unknown, so that unknown and known ones take the same time.
_NO_SUCH_KEY_ID = "key_unknown"


class Authenticator:
    """Both ways in. ``clock`` is Unix time."""

    def __init__(
        self,
        directory: KeyDirectory,
        *,
        nonces: NonceStore,
        master_secret: bytes,
        window_s: float,
        http: Http,
        clock: Callable[[], float] = time.time,
    ) -> None:
        #: Who is asked whose a credential is.
        self.directory = directory
        self._nonces = nonces
        self._secret_of = ConsumerSecrets(master_secret).of
        self._window_s = window_s
        self._http = http
        self._clock = clock

    async def authenticate(self, request: web.Request, context: RequestContext) -> tuple[Caller, Received | None]:
        """The caller, and the body if it had to be read. Raises AuthenticationFailed."""
        credential = credentials_of(request.headers)
        if isinstance(credential, BearerCredential):
            return self.by_token_digest(token_digest(credential.token)), None
        return await self._oauth(request, context, credential)

    def again(self, request: web.Request, context: RequestContext) -> Caller:
        """Who a request was made by, as their key is now: for connections that live on behind it. Raises
        AuthenticationFailed. A signature, which is good only once and for a while, was so at the beginning; since then
        the key may have got another secret."""
        credential = credentials_of(request.headers)
        if isinstance(credential, BearerCredential):
            return self.by_token_digest(token_digest(credential.token))
        caller, _ = self._verify(
            credential,
            method=request.method,
            raw_target=request.raw_path,
            public_base_url=context.public_base_url,
            now_s=credential.header.timestamp_s,
        )
        return caller

    def by_token_digest(self, digest: bytes) -> Caller:
        """The caller with the token of this digest, at once. Raises AuthenticationFailed."""
        found = self.directory.by_token_digest(digest)
        if type(found) is Caller and found.expires_at_s is None:  # nearly everyone
            return found
        return self._usable(found)

    def signed(
        self,
        credential: OAuthCredential,
        *,
        method: str,
        raw_target: str,
        public_base_url: str,
        body: bytes,
        payload_signature: str | None,
        on_known: Known,
    ) -> None:
        """The caller who signed a request whose body is no form, once its nonce is burnt: ``on_known`` hears, later and
        on the event loop. Raises AuthenticationFailed, or Unavailable; then it does not."""
        caller, verified = self._verify(
            credential, method=method, raw_target=raw_target, public_base_url=public_base_url
        )
        verify_payload_signature(
            payload_signature, body, consumer_key=verified.consumer_key, oauth_signature=verified.signature
        )

        def burnt(result: bool | Exception) -> None:
            if isinstance(result, Exception):
                on_known(result)
            else:
                on_known(caller if result else _used())

        self._nonces.burn_soon(verified.consumer_key, verified.nonce, verified.timestamp_s, burnt)

    async def _oauth(
        self, request: web.Request, context: RequestContext, credential: OAuthCredential
    ) -> tuple[Caller, Received | None]:
        caller, verified = self._verify(
            credential,
            method=request.method,
            raw_target=request.raw_path,
            public_base_url=context.public_base_url,
        )
        payload_signature = sent_signature(request.headers)
        received = await receive(request, self._http)
        try:
            _verify_body(received, payload_signature, verified)
            await self._burn(verified)
        except BaseException:
            await received.close()
            raise
        return caller, received

    def _verify(
        self,
        credential: OAuthCredential,
        *,
        method: str,
        raw_target: str,
        public_base_url: str,
        now_s: float | None = None,
    ) -> tuple[Caller, VerifiedOAuth]:
        """The signature, but for the body and the nonce. ``now_s``: by which clock its time is judged, if not ours."""
        record = self.directory.by_consumer_key(credential.consumer_key)
        if record is None:
            secret = self._secret_of(_NO_SUCH_KEY_ID, 0, None)
        else:
            secret = self._secret_of(record.caller.key_id, record.generation, record.sealed_secret)
        verified = verify(
            OAuthRequest(
                method=method, raw_target=raw_target, public_base_urls=(public_base_url,), header=credential.header
            ),
            consumer_secret=secret,
            now_s=self._clock() if now_s is None else now_s,
            window_s=self._window_s,
        )
        return self._usable(record), verified

    async def _burn(self, verified: VerifiedOAuth) -> None:
        if not await self._nonces.burn(verified.consumer_key, verified.nonce, verified.timestamp_s):
            raise _used()

    def _usable(self, found: Caller | KeyRecord | None) -> Caller:
        if found is None:
            raise AuthenticationFailed("Unknown API key.")
        if isinstance(found, KeyRecord):
            if found.is_disabled:
                raise AuthenticationFailed("This API key has been switched off.")
            found = found.caller
        if found.expires_at_s is not None and found.expires_at_s <= self._clock():
            raise AuthenticationFailed("This API key has expired.")
        return found


def _used() -> AuthenticationFailed:
    return AuthenticationFailed("The OAuth nonce was already used.")


def _verify_body(received: Received, payload_signature: str | None, verified: VerifiedOAuth) -> None:
    """Raises AuthenticationFailed when the body, or its fields, are not those that were signed."""
    names = {"consumer_key": verified.consumer_key, "oauth_signature": verified.signature}
    if received.form is not None:
        verify_fields_signature(payload_signature, received.form.fields, **names)
    else:
        verify_payload_signature(payload_signature, received.raw, **names)
