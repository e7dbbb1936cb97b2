"""Which requests the lane takes, and who may go on it.

The lane takes a request that has nothing about it but a call: a POST to a chat route with a JSON body that is there or
will not take long, a key or a signature, and no wish that concerns the connection or a browser. Anything else is no
business of the lane, and nothing has happened to it yet when the lane lets it pass. So the two ways need not agree on
what is unusual.

Callers send the same head again and again, but for the length of the body. So heads are remembered as they came, in two
parts, with the length in decimal digits between them. A head that consists of the same parts and of the length of what
is behind it says the same, and neither the parser nor anybody else has to read it again: no byte of it is looked at but
by comparison. Where there are many keys, most heads are new only in their token; so what stands around that is
remembered too, and the head itself once its token has come again. Of signed requests each head is new in its signature:
see ``signed_heads.py``.
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
from bitmesh_proxy.auth.bearer import BearerCredential, OAuthCredential, credentials_of, is_plain_token
from bitmesh_proxy.auth.payload_signature import HEADER
from bitmesh_proxy.auth.secrets import token_bytes_digest, token_digest
from bitmesh_proxy.context import Caller, RequestContext
from bitmesh_proxy.errors import AuthenticationFailed
from bitmesh_proxy.limits.base import Bucket, Passed
from bitmesh_proxy.limits.concurrency import Gate
from bitmesh_proxy.web.authenticate import Known
from bitmesh_proxy.web.forwarded import public_base_url
from bitmesh_proxy.web.lane.heads import around_length, has_one_credential
from bitmesh_proxy.web.lane.signed_heads import SignedHeads
from bitmesh_proxy.web.request_ids import make_request_id
from bitmesh_proxy.web.route import PLAIN_CALLS_KEY, Route

#: Bodies above this size go the plain way, where large ones are parsed in a thread.
MAX_BODY_BYTES: Final = 128 * 1024
#: Bodies above this size are not waited for, since the connection is not read while so much of one lies unread.
MAX_COMING_BYTES: Final = 48 * 1024
#: What remembered heads may take; then they are learnt anew.
MAX_KNOWN_BYTES: Final = 4 * 1024 * 1024
#: What is remembered with each head, about.
KNOWN_BYTES: Final = 2048
#: Lengths of bodies that are remembered with a head; then they are learnt anew.
MAX_ENDINGS: Final = 64
#: Places for marks of the tokens that came last, less one: about twice as many as heads fit.
_MARKS_MASK: Final = 2**12 - 1
#: A head above this size is not remembered: callers may send ones of megabytes, and have shown no key yet.
MAX_KNOWN_HEAD_BYTES: Final = 4096

_HEAD_END: Final = b"\r\n\r\n"
_AUTHORIZATION: Final = b"Authorization: Bearer "

#: Headers that ask for something which the plain way does. ``Origin``: a browser wants to hear who may read the answer.
_NOT_PLAIN: Final = ("Origin", "Idempotency-Key", "Content-Encoding", "Expect")
#: What a request begins with.
_METHOD_LETTERS: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_JSON: Final = frozenset(("application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"))


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
    #: Through all limits at once, where there is such a way; good as long as ``caller`` and ``buckets`` are.
    gate: Gate | None = None


class _Around(Struct, eq=False):
    """A head but for token and length, with the tokens that came again."""

    peer: str | None
    # Each of these begins behind the one before, token or length, and ends with what is before the next.
    up_to_token: bytes
    up_to_length: bytes
    up_to_end: bytes
    #: Of no token.
    entry: Entry
    entries: dict[bytes, Entry]
    #: The length and ``up_to_end``, by how long these are with the body.
    endings: dict[int, bytes]
    token_at: int
    # With a token of the same length as the one that came last in another head.
    token_end: int
    length_at: int

    def note(self, token: bytes) -> None:
        """The token that came last."""
        self.token_end = self.token_at + len(token)
        self.length_at = self.token_end + len(self.up_to_length)


def left_of(message: RawRequestMessage, data: bytes) -> int:
    """How much is still to come of a message that the parser, between two messages, has found in ``data``, and no other
    one; -1 where more has come, or where what comes next is no message or cannot be told.
    """
    end = data.find(_HEAD_END) + len(_HEAD_END)
    if (
        message.chunked
        or message.should_close
        or message.upgrade
        # Then the parser may see the head's end elsewhere: an empty line in front, a line that ends otherwise.
        or data[0] not in _METHOD_LETTERS
        or data.count(b"\n", 0, end) != data.count(b"\r\n", 0, end)
    ):
        return -1
    return max(end + int(message.headers.get("Content-Length", 0)) - len(data), -1)


class Lane:
    """One per application, made once it has started."""

    def __init__(self, app: web.Application) -> None:
        settings = app[keys.SETTINGS]
        self._routes = app[PLAIN_CALLS_KEY]
        self._forwarded = app[keys.FORWARDED]
        self._public_url = settings.http.public_url
        self.authenticator = app[keys.AUTHENTICATOR]
        #: ``KeyDirectory.version`` as it is now.
        self.keys_version = self.authenticator.directory.current_version
        self._address_limit = app[keys.ADDRESS_LIMIT]
        self._key_limit = app[keys.KEY_LIMIT]
        self._endpoint_limit = app[keys.ENDPOINT_LIMIT]
        self.slots = app[keys.CONCURRENCY_LIMIT]
        self._max_body_bytes = min(MAX_BODY_BYTES, settings.http.max_body_bytes)
        #: By the peer, and by the parts of the head before and behind the body's length.
        self._known: dict[tuple[str | None, bytes, bytes], Entry] = {}
        #: The same in three parts, without length and token; in another order where the token stands behind the length.
        self._around: dict[tuple[str | None, bool, bytes, bytes, bytes], _Around] = {}
        #: Of the head that came last with a token before the length: most of them come from the same few programs.
        self._last: _Around | None = None
        self._known_bytes = 0
        self._signed_heads: SignedHeads[Entry] = SignedHeads()
        self._marks = bytearray(_MARKS_MASK + 1)
        self.metrics = app[keys.METRICS]
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
        return Entry(route, visitor, self._address_limit.bucket(visitor.address), token_digest)

    def remember(self, entry: Entry, message: RawRequestMessage, data: bytes, length: int, *, peer: str | None) -> None:
        """That the parser, between two messages, has made of ``data`` this request, with a body of so many bytes, and
        nothing else (``left_of`` was 0)."""
        visitor, end = entry.visitor, len(data) - length
        if visitor.signed is not None:
            if end <= MAX_KNOWN_HEAD_BYTES:
                anyone = Visitor(visitor.address, visitor.public_base_url)
                template = Entry(entry.route, anyone, entry.address_bucket)
                self._signed_heads.remember(message, data[:end], length, peer=peer, what=template)
            return
        if end > MAX_KNOWN_HEAD_BYTES or (parted := around_length(data[:end], length)) is None:
            return
        before, behind = parted
        if has_one_credential(message.headers):
            found = _around_token(before, behind)
            # Not within another header's name or value.
            if found is not None and (found[1].endswith(b"\r\n") or not (found[0] or found[1])):
                is_before, up_to, up_to_length, up_to_end, token = found
                self._make_room(end + KNOWN_BYTES)
                around = self._around.get((peer, *found[:4]))
                if around is None:
                    parts = up_to + _AUTHORIZATION, b"\r\n%b: " % up_to_length, b"\r\n" + up_to_end
                    template = Entry(entry.route, visitor, entry.address_bucket)
                    around = _Around(peer, *parts, template, {}, {}, len(parts[0]), 0, 0)
                    self._around[peer, *found[:4]] = around
                around.entries[token] = entry
                if is_before:
                    around.note(token)
                    self._last = around
        self._keep(entry, before, behind, peer)

    def _keep(self, entry: Entry, before: bytes, behind: bytes, peer: str | None) -> None:
        self._make_room(len(before) + len(behind) + KNOWN_BYTES)
        self._known[peer, before, behind] = entry

    def _make_room(self, more_bytes: int) -> None:
        self._known_bytes += more_bytes
        if self._known_bytes > MAX_KNOWN_BYTES:
            self._known.clear()
            for around in self._around.values():
                around.entries.clear()  # somebody may be about to use it
            self._around.clear()
            self._last = None
            self._known_bytes = more_bytes

    def recall(self, data: bytes, peer: str | None) -> tuple[Entry, bytes] | None:
        """What the parser, between two messages, would make of ``data``, and its body; None if that is not known.

        Then it is one whole request, with a head that consists of the same bytes as one that was remembered, but for
        the length of its body, which is that of what is behind the head.
        """
        last = self._last
        if last is not None and data[: last.token_at] == last.up_to_token and peer == last.peer:
            # Nearly always, and a third of what follows. Nothing is searched: a token is mostly as long as the last.
            token_end, length_at = last.token_end, last.length_at
            if data[token_end:length_at] == last.up_to_length:
                left = len(data) - length_at
                ending = last.endings.get(left) or self._ending(last, left)
                end = length_at + len(ending)
                if ending and data[length_at:end] == ending:
                    token = data[last.token_at : token_end]
                    entry = last.entries.get(token)
                    if entry is None:
                        entry = self._newcomer(last, token)
                    if entry is not None:
                        return entry, data[end:]
        end = data.find(_HEAD_END) + len(_HEAD_END)
        length = len(data) - end
        if not 0 < length <= self._max_body_bytes:
            return None
        before, _, behind = data[:end].partition(b": %d\r\n" % length)
        entry = self._known.get((peer, before, behind))
        if entry is None:
            entry = self._with_new_token(before, behind, peer) or self._with_new_signature(data[:end], length, peer)
            if entry is None:
                return None
        return entry, data[end:]

    def _ending(self, around: _Around, left: int) -> bytes:
        """What stands between a head's ``up_to_length`` and the body, where so many bytes are left of both together;
        nothing where no length says that."""
        most, up_to_end = self._max_body_bytes, around.up_to_end
        for digits in range(1, len(str(most)) + 1):
            length = left - len(up_to_end) - digits
            if 0 < length <= most and len(str(length)) == digits:
                if len(around.endings) >= MAX_ENDINGS:
                    around.endings.clear()
                around.endings[left] = ending = b"%d%b" % (length, up_to_end)
                return ending
        return b""

    def _with_new_token(self, before: bytes, behind: bytes, peer: str | None) -> Entry | None:
        """Of a head of which all but the token is remembered."""
        found = _around_token(before, behind)
        around = None if found is None else self._around.get((peer, *found[:4]))
        if found is None or around is None:
            return None
        entry = around.entries.get(found[4])
        if entry is not None:
            self._keep(entry, before, behind, peer)
        else:
            entry = self._newcomer(around, found[4])
        if found[0]:
            around.note(found[4])
            self._last = around
        return entry

    def _newcomer(self, around: _Around, token: bytes) -> Entry | None:
        """A request with a token that is not known; it is once it has come again. None for one that is not plain."""
        if not is_plain_token(token):
            return None
        digest = token_bytes_digest(token)
        template = around.entry
        entry = Entry(template.route, template.visitor, template.address_bucket, digest)
        # Of the tokens that came last, each has left one byte in one of these places: it may be wrong, seldom, as a
        # later one takes the place of an earlier one, and then a head is kept too early or too late.
        marks, place, mark = self._marks, hash(digest) & _MARKS_MASK, digest[0]
        if marks[place] == mark:
            self._make_room(len(token) + KNOWN_BYTES)
            around.entries[token] = entry
        else:
            marks[place] = mark
        return entry

    def _with_new_signature(self, head: bytes, length: int, peer: str | None) -> Entry | None:
        """Of a signed head of which the rest is remembered."""
        found = self._signed_heads.recall(head, length, peer)
        if found is None:
            return None
        around, header, payload_signature = found
        visitor = Visitor(
            around.visitor.address,
            around.visitor.public_base_url,
            signed=OAuthCredential(consumer_key=header.consumer_key, header=header),
            payload_signature=payload_signature,
        )
        return Entry(around.route, visitor, around.address_bucket)

    def _visitor(self, headers: CIMultiDictProxy[str], peer: str | None) -> tuple[Visitor, bytes] | None:
        """The visitor, and the digest of its token. None for headers that are not plain, or hold no one credential that
        could be any."""
        if headers.get("Content-Type") not in _JSON or any(name in headers for name in _NOT_PLAIN):
            return None
        try:
            credential = credentials_of(headers)
        except AuthenticationFailed:
            return None
        address, scheme, host = self._forwarded.resolve(peer, headers, scheme="http", host=headers.get("Host", ""))
        base_url = self._public_url or public_base_url(scheme, host)
        if isinstance(credential, BearerCredential):
            return Visitor(address, base_url), token_digest(credential.token)
        return Visitor(address, base_url, credential, headers.get(HEADER)), b""

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
            missing = limit.take(f"{limit.before}{key_id}{limit.after}")
            passed.append((limit, missing) if missing >= 0 else limit.admit(key_id))
        name = entry.route.name
        limit = self._endpoint_limit.limits.get(name)
        if limit is not None:
            missing = limit.take(f"{limit.before}{name}/{key_id}{limit.after}")
            passed.append((limit, missing) if missing >= 0 else limit.admit(f"{name}/{key_id}"))
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


def _around_token(before: bytes, behind: bytes) -> tuple[bool, bytes, bytes, bytes, bytes] | None:
    """Where a token in the usual spelling might stand in a head, by the two parts around the length: is it before the
    length, the bytes up to the header, those up to the length, those up to the end, and the token."""
    up_to, found, rest = before.partition(_AUTHORIZATION)
    if found:
        token, _, up_to_length = rest.partition(b"\r\n")
        return True, up_to, up_to_length, behind, token
    up_to, found, rest = behind.partition(_AUTHORIZATION)
    if found:
        token, _, up_to_end = rest.partition(b"\r\n")
        return False, up_to, before, up_to_end, token
    return None
