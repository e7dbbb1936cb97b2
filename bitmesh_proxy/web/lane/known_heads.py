"""The heads of requests that were taken, so that neither the parser nor anybody else has to read them again.

Callers send the same head again and again, but for the length of the body. So heads are remembered as they came, in two
parts, with the length in decimal digits between them. A head that consists of the same parts and of the length of what
is behind it says the same: no byte of it is looked at but by comparison. Where there are many keys, most heads are new
only in their token; so what stands around that is remembered too, and the head itself once its token has come again. Of
signed requests each head is new in its signature: see ``signed_heads.py``.
"""

from __future__ import annotations

from typing import Final

from aiohttp.http_parser import RawRequestMessage
from msgspec import Struct

from bitmesh_proxy.auth.bearer import OAuthCredential, plain_token_digest
from bitmesh_proxy.web.lane.entry import Entry, Visitor
from bitmesh_proxy.web.lane.heads import HEAD_END, around_length, has_one_credential
from bitmesh_proxy.web.lane.signed_heads import SignedHeads

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

_AUTHORIZATION: Final = b"Authorization: Bearer "


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
    #: All that is between token and body, by how long it is with the body.
    endings: dict[int, bytes]
    token_at: int
    #: With a token of the same length as the one that came last in another head.
    token_end: int

    def note(self, token: bytes) -> None:
        """The token that came last."""
        self.token_end = self.token_at + len(token)


class KnownHeads:
    """What was remembered, by whom it came from. ``max_body_bytes``: a request with more is not for the lane."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        #: By the peer, and by the parts of the head before and behind the body's length.
        self._known: dict[tuple[str | None, bytes, bytes], Entry] = {}
        #: The same in three parts, without length and token; in another order where the token stands behind the length.
        self._around: dict[tuple[str | None, bool, bytes, bytes, bytes], _Around] = {}
        #: Of the head that came last with a token before the length: most of them come from the same few programs.
        self._last: _Around | None = None
        self._known_bytes = 0
        self._signed: SignedHeads[Entry] = SignedHeads()
        self._marks = bytearray(_MARKS_MASK + 1)

    def remember(self, entry: Entry, message: RawRequestMessage, data: bytes, length: int, *, peer: str | None) -> None:
        """That the parser, between two messages, has made of ``data`` this request, with a body of so many bytes, and
        nothing else (``left_of`` was 0)."""
        visitor, end = entry.visitor, len(data) - length
        if visitor.signed is not None:
            if end <= MAX_KNOWN_HEAD_BYTES:
                anyone = Visitor(visitor.address, visitor.public_base_url)
                template = Entry(entry.route, anyone, entry.address_bucket, None)
                self._signed.remember(message, data[:end], length, peer=peer, what=template)
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
                    template = Entry(entry.route, visitor, entry.address_bucket, entry.passage)
                    around = _Around(peer, *parts, template, {}, {}, len(parts[0]), 0)
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

    def recall(self, data: bytes, peer: str | None) -> tuple[Entry, bytes, bytes] | None:
        """What the parser, between two messages, would make of ``data``, and its body; None if that is not known. The
        last is a newcomer's token's digest; then the entry is of no token, and others may be given it too.

        Then it is one whole request, with a head that consists of the same bytes as one that was remembered, but for
        the length of its body, which is that of what is behind the head.
        """
        last = self._last
        if last is not None and data[: last.token_at] == last.up_to_token and peer == last.peer:
            # Nearly always, and a third of what follows. Nothing is searched: a token is mostly as long as the last.
            token_end = last.token_end
            left = len(data) - token_end
            ending = last.endings.get(left) or self._ending(last, left)
            end = token_end + len(ending)
            if ending and data[token_end:end] == ending:
                token = data[last.token_at : token_end]
                entry = last.entries.get(token)
                if entry is not None:
                    return entry, data[end:], b""
                found = self._newcomer(last, token)
                if found is not None:
                    return found[0], data[end:], found[1]
        end = data.find(HEAD_END) + len(HEAD_END)
        length = len(data) - end
        if not 0 < length <= self._max_body_bytes:
            return None
        before, _, behind = data[:end].partition(b": %d\r\n" % length)
        entry = self._known.get((peer, before, behind))
        if entry is not None:
            return entry, data[end:], b""
        found = self._with_new_token(before, behind, peer) or self._with_new_signature(data[:end], length, peer)
        return None if found is None else (found[0], data[end:], found[1])

    def _ending(self, around: _Around, left: int) -> bytes:
        """What stands between a head's token and the body, where so many bytes are left of both together; nothing where
        no length says that."""
        most, up_to_length, up_to_end = self._max_body_bytes, around.up_to_length, around.up_to_end
        for digits in range(1, len(str(most)) + 1):
            length = left - len(up_to_length) - len(up_to_end) - digits
            if 0 < length <= most and len(str(length)) == digits:
                if len(around.endings) >= MAX_ENDINGS:
                    around.endings.clear()
                around.endings[left] = ending = b"%b%d%b" % (up_to_length, length, up_to_end)
                return ending
        return b""

    def _with_new_token(self, before: bytes, behind: bytes, peer: str | None) -> tuple[Entry, bytes] | None:
        """Of a head of which all but the token is remembered."""
        found = _around_token(before, behind)
        around = None if found is None else self._around.get((peer, *found[:4]))
        if found is None or around is None:
            return None
        if found[0]:
            around.note(found[4])
            self._last = around
        entry = around.entries.get(found[4])
        if entry is None:
            return self._newcomer(around, found[4])
        self._keep(entry, before, behind, peer)
        return entry, b""

    def _newcomer(self, around: _Around, token: bytes) -> tuple[Entry, bytes] | None:
        """A request with a token that is not known, and its digest; it is known once it has come again. None for one
        that is not plain."""
        digest = plain_token_digest(token)
        if digest is None:
            return None
        # Of the tokens that came last, each has left one byte in one of these places: it may be wrong, seldom, as a
        # later one takes the place of an earlier one, and then a head is kept too early or too late.
        marks, place, mark = self._marks, hash(digest) & _MARKS_MASK, digest[0]
        if marks[place] != mark:
            marks[place] = mark
            return around.entry, digest
        self._make_room(len(token) + KNOWN_BYTES)
        around.entries[token] = entry = around.entry.with_token(digest)
        return entry, b""

    def _with_new_signature(self, head: bytes, length: int, peer: str | None) -> tuple[Entry, bytes] | None:
        """Of a signed head of which the rest is remembered."""
        found = self._signed.recall(head, length, peer)
        if found is None:
            return None
        around, header, payload_signature = found
        visitor = Visitor(
            around.visitor.address,
            around.visitor.public_base_url,
            signed=OAuthCredential(consumer_key=header.consumer_key, header=header),
            payload_signature=payload_signature,
        )
        return Entry(around.route, visitor, around.address_bucket, None), b""


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
