"""A chat call whose answer passes straight through, without a turn of the event loop: bytes in, a plan out, and at the
end the outcome of the provider's bytes.

Straight is a call whose provider speaks the caller's format and whose conversation holds no links to pictures (those
may have to be fetched). Everything here is synchronous and looks into memory only. The functions are those of the way
that every call can take (``pipeline.py``, ``work.py``, ``attempts.py``), in its order, with its errors; what is not
straight is told by None and takes that way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from msgspec import UNSET, Struct

from bitmesh_proxy.billing.chat_tariff import ChatTariff
from bitmesh_proxy.billing.reservation import Outcome
from bitmesh_proxy.billing.usage import PLAIN_NAMES_BYTES, tokens_of
from bitmesh_proxy.calls import Call, ChatCall, Usage
from bitmesh_proxy.catalogue import routing
from bitmesh_proxy.catalogue.catalogue import Catalogue
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.context import Caller
from bitmesh_proxy.dialects.base import ChatDialect
from bitmesh_proxy.dialects.openai_usage import SMALL_BYTES
from bitmesh_proxy.dialects.reading_meter import characters_of
from bitmesh_proxy.endpoints.endpoint import Endpoint
from bitmesh_proxy.endpoints.json_bodies import parse_object
from bitmesh_proxy.endpoints.plain_chat import BLANK_OR_NOTHING
from bitmesh_proxy.errors import GatewayError, UpstreamBroken
from bitmesh_proxy.money import NanoUsd
from bitmesh_proxy.plain_chats import NOT_PLAIN, PLAIN_DEPTH, PlainWriter, read_plain_answer, read_plain_chat
from bitmesh_proxy.storage.names import NameOrNumber
from bitmesh_proxy.upstream.access import ProviderAccess
from bitmesh_proxy.upstream.answers import check_is_no_refusal
from bitmesh_proxy.upstream.outcomes import Outcomes
from bitmesh_proxy.upstream.progress import Progress
from bitmesh_proxy.upstream.requests import (
    HeadAroundLength,
    RequestBytes,
    Target,
    head_around_length,
    request_bytes,
)

_OPEN, _CLOSE = b"{}"
#: Of a plain conversation, whichever.
_SOME_MESSAGES: Final[Sequence[Mapping[str, Any]]] = ({"role": "user", "content": "Hello"},)


class StraightAttempt(Struct):
    """One offer of a provider, and the request to it as bytes, which a stream need not keep once they are sent
    (``forget_request``).

    ``drops_usage``: the chunk with the usage was asked for by us alone and does not reach the caller of the stream.
    """

    provider: str
    access: ProviderAccess
    dialect: ChatDialect
    target: Target
    head: bytes
    body: bytes
    drops_usage: bool
    _offer: Offer | _Ready

    @property
    def offer(self) -> Offer:
        """Few plain calls ask for it, so that those have it looked up."""
        return self._offer if isinstance(self._offer, Offer) else self._offer.offer

    @property
    def id(self) -> str:
        """The offer's."""
        return self.offer.id

    def forget_request(self) -> None:
        """Keep its bytes no longer: with them, an open stream would take four kilobytes more."""
        self.head = self.body = b""


class StraightPlan(Struct):
    """A call that is ready to be reserved and sent. ``others`` are the offers to try after the first, in their order.

    ``model`` and ``upstream_model`` are for the books, the latter of the first offer. ``tariff`` prices its answer, if
    that is a common one.
    """

    model: NameOrNumber
    upstream_model: NameOrNumber
    hold_nano_usd: NanoUsd
    first: StraightAttempt
    others: tuple[Offer, ...]
    stream: bool
    is_test: bool
    tariff: ChatTariff | None
    #: What the call is, or what it can be read from: the body of a plain conversation.
    _call: ChatCall | tuple[bytes, Endpoint, Caller]
    #: About as many tokens a model reads (``usage.usage_delivered``); known of a stream with a tariff.
    prompt_tokens: int | None = None

    @property
    def call(self) -> ChatCall:
        """The call itself. Few plain ones are ever asked for it, so that these are read as late as here."""
        if isinstance(self._call, tuple):
            raw, endpoint, caller = self._call
            call = endpoint.parse(parse_object(raw, max_depth=PLAIN_DEPTH), caller)
            assert isinstance(call, ChatCall), "endpoints for plain chats make nothing else"
            self._call = call
        return self._call


# No garbage collection for the two: nothing in them leads back.
class _Way(Struct, frozen=True, gc=False):
    """What plain calls have in common whose models are at one provider for one price: whole ones, or streams."""

    access: ProviderAccess
    dialect: ChatDialect
    target: Target
    #: The request's head, before and behind the length of its body.
    head_before: bytes
    head_after: bytes
    writer: PlainWriter
    tariff: ChatTariff
    provider: str
    catalogue: Catalogue


class _Ready(Struct, gc=False):
    """What the plain calls of a model with one offer have in common, whole ones or streams.

    With thousands of models nothing of a model is in the processor's caches when it is called, and each line of memory
    takes longer than a hundred instructions. So this is small, what models share is shared, and what is not here is not
    looked at: the names under which the books know it are numbers, once they have them.
    """

    way: _Way
    upstream_model: str
    #: Both, and that one again, as the books have them.
    model: NameOrNumber
    upstream: NameOrNumber

    @property
    def offer(self) -> Offer:
        """The one offer."""
        offer = self.way.catalogue.offer(f"{self.way.provider}:{self.upstream_model}")
        assert offer is not None, "this was made of it"
        return offer


class StraightChats:
    """Makes plans and outcomes. One per application; holds no state of a call."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        access: Mapping[str, ProviderAccess],
        health: routing.Health,
        outcomes: Outcomes,
        number_of: Callable[[str], int | None],
        max_attempts: int,
        max_json_depth: int,
    ) -> None:
        self._catalogue = catalogue
        self._access = access
        self._health = health
        self._outcomes = outcomes
        #: The books' number for a name; None as long as it has none.
        self._number_of = number_of
        self._max_attempts = max_attempts
        self._max_json_depth = max_json_depth
        #: By the offer's id, for whole answers and for streams.
        self._heads: tuple[dict[str, HeadAroundLength], dict[str, HeadAroundLength]] = ({}, {})
        #: By what a head is made of. Thousands of models at one provider have one head, which is then warm in caches.
        self._alike: dict[object, HeadAroundLength] = {}
        #: By what is in them. Most models share their prices with others.
        self._ways: dict[object, _Way] = {}
        #: By the model's name, for whole answers and for streams; as many as the catalogue has names.
        self._ready: tuple[dict[object, _Ready], dict[object, _Ready]] = ({}, {})
        #: Names of models, for streams or not, in a wire format, of which nothing can be kept ready.
        self._unready: set[tuple[str, bool, str | None]] = set()
        self._takes_plain_chats = max_json_depth >= PLAIN_DEPTH

    def parse(self, raw: bytes, endpoint: Endpoint, caller: Caller) -> Call:
        """The call that a body is. Raises InvalidRequest (ValidationFailed). A large body keeps the loop waiting."""
        return endpoint.parse(parse_object(raw, max_depth=self._max_json_depth), caller)

    def plan(self, call: Call, endpoint: Endpoint, caller: Caller) -> StraightPlan | None:
        """Where to send a call, what to reserve for it, and the first request; None where it is not straight.

        Raises what routing and pricing raise: ModelNotFound, InvalidRequest, Unavailable, InternalError.
        """
        if not isinstance(call, ChatCall):
            return None
        if _has_links(call):
            return None
        offers = self.route(call, caller)
        first = self.attempt(call, offers[0], endpoint)
        if first is None:
            return None
        if call.model not in self._ready[call.stream]:
            self._make_ready(call, first)
        hold = self._outcomes.hold_of(call, offers)
        model, upstream_model = offers[0].model_id, offers[0].upstream_model
        return StraightPlan(model, upstream_model, hold, first, offers[1:], call.stream, call.test, None, call)

    def glance(self, raw: bytes, endpoint: Endpoint, caller: Caller) -> StraightPlan | None:
        """What ``parse`` and ``plan`` would make of the body of a plain conversation; None where they have to be asked.

        Such a call has nothing that a rule or the offer could refuse, there is no order of offers, and its hold goes by
        sizes alone. One function for all, because it is the way of nearly every call: a sixth of what the two take.
        """
        if caller.allowed_models is not None or not endpoint.takes_plain_chats or not self._takes_plain_chats:
            return None
        try:
            chat = read_plain_chat(raw)
        except NOT_PLAIN:
            return None
        model: object = chat.model
        if caller.bound_model is not None:
            if model is not UNSET:
                return None
            model = caller.bound_model
        stream = chat.stream is True
        ready = self._ready[stream].get(model)
        if ready is None:
            ready = self._prepared(model, stream, endpoint, caller)
        if ready is None or chat.test is True:
            return None
        way = ready.way
        if way.dialect.wire_format != endpoint.chat_format:
            return None
        if ready.upstream is ready.upstream_model:  # no number yet
            self._look_up_numbers(ready)
        # What a model reads of it (``usage.plain_text_bytes``): names, roles and texts.
        messages = chat.messages
        text_bytes = PLAIN_NAMES_BYTES * len(messages)
        for message in messages:
            text = message.content
            if text < "!":  # nothing, or a blank
                return None
            text_bytes += len(message.role)
            if text.isascii():
                text_bytes += len(text)
            elif text[0] in BLANK_OR_NOTHING:
                return None
            else:
                text_bytes += len(text.encode())
        drops_usage = False
        if stream and endpoint.drops_unasked_usage and way.dialect.adds_usage_chunk:
            asked = chat.stream_options
            drops_usage = asked is UNSET or asked.include_usage is not True
        hold = way.tariff.hold_of_texts(len(messages), text_bytes, chat.max_completion_tokens, chat.max_tokens)
        body = way.writer.write(chat, ready.upstream_model)
        head = b"%b%d%b" % (way.head_before, len(body), way.head_after)
        first = StraightAttempt(way.provider, way.access, way.dialect, way.target, head, body, drops_usage, ready)
        prompt_tokens = 1 + len(messages) + tokens_of(text_bytes) if stream else None
        read_from = raw, endpoint, caller
        return StraightPlan(
            ready.model, ready.upstream, hold, first, (), stream, False, way.tariff, read_from, prompt_tokens
        )

    def _look_up_numbers(self, ready: _Ready) -> None:
        """Both or none: the books have them once the model's first call is over."""
        model, upstream_model = self._number_of(ready.offer.model_id), self._number_of(ready.upstream_model)
        if model is not None and upstream_model is not None:
            ready.model, ready.upstream = model, upstream_model

    def _prepared(self, name: object, stream: bool, endpoint: Endpoint, caller: Caller) -> _Ready | None:
        """What ``plan`` would note at a first plain call of this model; with thousands of models many calls are that.
        None where the steps have to be taken, every time."""
        model = self._catalogue.find(name) if isinstance(name, str) else None
        if model is None or len(model.offers) > 1 or name not in (model.id, *model.aliases):
            return None
        wanted = (name, stream, endpoint.chat_format)
        if wanted in self._unready:
            return None
        call = ChatCall(model=name, messages=_SOME_MESSAGES, stream=stream)
        first = None
        with suppress(GatewayError):  # the steps say it
            first = self.attempt(call, self.route(call, caller)[0], endpoint)
        if first is not None:
            self._make_ready(call, first)
        ready = self._ready[stream].get(name)
        if ready is None:
            self._unready.add(wanted)
        return ready

    def _make_ready(self, call: ChatCall, first: StraightAttempt) -> None:
        """Note what the next calls of this model will have in common, if it is known by this name and has one offer."""
        model, offer = self._catalogue.get(call.model), first.offer
        tariff, dialect = self._outcomes.tariff_of(offer), first.dialect
        if len(model.offers) > 1 or call.model not in (model.id, *model.aliases):  # names in other cases are many
            return
        if tariff is None or dialect.plain_writer is None:
            return
        writer, head = dialect.plain_writer(offer), self._heads[call.stream].get(offer.id)
        if writer is None or head is None:
            return
        alike = (offer.provider, head, writer, tariff)
        way = self._ways.get(alike)
        if way is None:
            around = head.target, head.before, head.after
            way = _Way(first.access, dialect, *around, writer, tariff, offer.provider, self._catalogue)
            self._ways[alike] = way
        # One object for what two say: the name that is looked for, and the one that is sent on.
        upstream_model = offer.upstream_model
        name = upstream_model if upstream_model == call.model else call.model
        self._ready[call.stream][name] = _Ready(way, upstream_model, offer.model_id, upstream_model)

    def route(self, call: Call, caller: Caller) -> tuple[Offer, ...]:
        """The offers that may be tried, best first. Raises as ``routing.route``."""
        offers = routing.route(
            self._catalogue,
            call,
            available=self._access.keys(),
            health=self._health,
            bound_model=caller.bound_model,
            allowed_models=caller.allowed_models,
        )
        return offers[: self._max_attempts]

    def attempt(self, call: ChatCall, offer: Offer, endpoint: Endpoint) -> StraightAttempt | None:
        """The request to one offer; None where its provider speaks another format. Raises InternalError."""
        access = self._access[offer.provider]
        dialect = access.provider.chat
        assert dialect is not None, "routing gives only offers whose provider can"
        if dialect.wire_format != endpoint.chat_format:
            return None
        drops = endpoint.drops_unasked_usage and drops_usage(call, dialect)
        target, head, body = self._request(call, offer, access, dialect)
        return StraightAttempt(offer.provider, access, dialect, target, head, body, drops, offer)

    def _request(self, call: ChatCall, offer: Offer, access: ProviderAccess, dialect: ChatDialect) -> RequestBytes:
        if dialect.body is None:
            return request_bytes(access, dialect.request(call, offer))
        head = self._heads[call.stream].get(offer.id)
        if head is not None:
            return head.with_body(dialect.body(call, offer))
        request = dialect.request(call, offer)
        assert request.body is not None, "it is what ``body`` makes"
        lines, query = tuple(request.headers.items()), tuple(request.query)
        alike = (offer.provider, request.method, request.root, request.path, query, lines)
        head = self._alike.get(alike)
        if head is None:
            head = self._alike[alike] = head_around_length(access, request)
        self._heads[call.stream][offer.id] = head
        return head.with_body(request.body)

    def outcome_of_whole(
        self, plan: StraightPlan, attempt: StraightAttempt, body: bytes, progress: Progress
    ) -> Outcome:
        """What a whole answer with a good status came to, its figures (and the offer, if need be) noted in
        ``progress``. Raises UpstreamBroken for what is no JSON, ProviderRefused for an error.
        """
        if plan.tariff is not None and 0 < len(body) <= SMALL_BYTES and body[0] == _OPEN and body[-1] == _CLOSE:
            try:
                answer = read_plain_answer(body)
            except NOT_PLAIN:
                pass
            else:
                bill = plan.tariff.bill_of(answer.usage, plan.hold_nano_usd)
                if bill is not None:
                    progress.usage, progress.provider_request_id = bill.usage, answer.id
                    provider, upstream_model = attempt.provider, plan.upstream_model
                    return Outcome(200, "completed", bill, provider, upstream_model, answer.id, progress.first_byte_s)
        check_looks_like_json(body)
        check_is_no_refusal(body)
        usage, request_id = attempt.dialect.read_usage(body)
        progress.offer = attempt.offer
        progress.usage, progress.provider_request_id = usage, request_id
        progress.output_characters = count_characters(attempt.dialect, body, usage)
        return self._outcomes.of(plan.call, plan, progress, status=200, outcome="completed")


def drops_usage(call: ChatCall, dialect: ChatDialect) -> bool:
    """Will the stream hold a chunk with usage that the caller has not asked for?"""
    if not call.stream or not dialect.adds_usage_chunk:
        return False
    options = call.options.get("stream_options")
    return not (isinstance(options, Mapping) and options.get("include_usage") is True)


def check_looks_like_json(body: bytes) -> None:
    """A whole body must look like one JSON object or list: an HTML page under a 200 is no answer.

    Raises UpstreamBroken.
    """
    if body.startswith(b"{") and body.endswith(b"}"):
        return
    stripped = body[:64].lstrip()[:1] + body[-64:].rstrip()[-1:]
    if stripped not in (b"{}", b"[]"):
        raise UpstreamBroken("The provider's answer is not JSON.")


def count_characters(dialect: ChatDialect, body: bytes, usage: Usage | None) -> int:
    """Characters of a whole answer, where its ``usage`` does not say how long it is; else 0. Its bytes where no
    usage is named and only a lenient reader finds an answer in it. Raises UpstreamBroken where nobody would: whoever
    asked could not read it either, and is not charged."""
    if usage is not None and usage.output_tokens:
        return 0
    try:
        return sum(map(characters_of, dialect.read_whole(body)))
    except UpstreamBroken:
        if usage is not None:
            return 0
        if _holds_choices_for_the_lenient(body):
            return len(body)
        raise


def _holds_choices_for_the_lenient(body: bytes) -> bool:
    """Many callers' readers take NaN, half a letter's escape, or bytes that are no UTF-8."""
    try:
        answer = json.loads(body.decode("utf-8", "replace"), strict=False)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and bool(answer.get("choices"))


def _has_links(call: ChatCall) -> bool:
    """Are there pictures in the conversation, which may have to be fetched or are results of ours?"""
    for message in call.messages:
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                if isinstance(part, Mapping) and part.get("type") == "image_url":
                    return True
    return False
