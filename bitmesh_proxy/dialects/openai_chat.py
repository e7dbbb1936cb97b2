"""OpenAI's chat completions, as OpenAI and many others speak it: what is sent, and what is read.

A provider's differences are arguments of ``dialect``. A field that neither this protocol nor the provider's ``extra``
names is dropped: no field of a caller's ever reaches a provider unseen. Source: OpenAI's published API description of
2026-08-21.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import orjson

from bitmesh_proxy.calls import ChatCall
from bitmesh_proxy.catalogue.offer import Offer
from bitmesh_proxy.dialects.base import ChatDialect, UpstreamRequest
from bitmesh_proxy.dialects.openai_chat_meter import CostReadingMeter, OpenAIChatMeter
from bitmesh_proxy.dialects.openai_chat_reader import OpenAIChatReader, read_whole
from bitmesh_proxy.dialects.openai_usage import parse_usage_with_cost, read_whole_usage
from bitmesh_proxy.plain_chats import PLAIN_OPTIONS, PlainWriter

WIRE_FORMAT: Final = "openai_chat"

#: The fields of OpenAI's request that a call does not hold by itself. Left out, because they change the price in ways
#: that no price of ours can say: ``service_tier``, ``web_search_options``, ``audio``, ``modalities``. An offer that is
#: priced for one of them names it in its option ``passes``.
FIELDS: Final = frozenset(
    {
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "stop",
        "store",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)

_ACCEPT_EVENTS: Final[Mapping[str, str]] = MappingProxyType({"Accept": "text/event-stream"})
_ACCEPT_JSON: Final[Mapping[str, str]] = MappingProxyType({"Accept": "application/json"})
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

Adapt = Callable[[dict[str, Any]], dict[str, Any]]


def dialect(
    *,
    rename: Mapping[str, str] = _NOTHING,
    drop: frozenset[str] = frozenset(),
    extra: frozenset[str] = frozenset(),
    stream_options: bool = True,
    adapt: Adapt | None = None,
    adapts_plain_chats: bool = True,
    reads_cost: bool = False,
) -> ChatDialect:
    """Make a provider's chat dialect.

    ``rename`` gives fields the provider's own names (a field sent under its own name wins), ``drop`` and ``extra`` are
    fields of the protocol that it lacks and further ones that it has. ``stream_options``: it has that switch, and
    without it streams no usage. ``adapt`` changes the finished body where a table cannot say it;
    ``adapts_plain_chats``: perhaps also that of a ``PlainChat``. ``reads_cost``: what a call cost is what its figures
    say, if they do.
    """
    known = (FIELDS | extra | frozenset(rename)) - drop
    changes_of_all = _plain_changes(known, rename)  # but for offers with fields of their own

    def body_of(call: ChatCall, offer: Offer) -> bytes:
        body = {
            "model": offer.upstream_model,
            "messages": list(call.messages),
            **_options(call, offer, known=known, rename=rename),
        }
        if call.stream:
            body["stream"] = True
            if stream_options:
                asked = call.options.get("stream_options")
                body["stream_options"] = {**(asked if isinstance(asked, dict) else {}), "include_usage": True}
        if adapt is not None:
            body = adapt(body)
        return orjson.dumps(body)

    def plain_writer(offer: Offer) -> PlainWriter | None:
        if offer.defaults or (adapt is not None and adapts_plain_chats):
            return None
        own = _known_to(offer, known)
        changes = changes_of_all if own is known else _plain_changes(own, rename)
        return None if changes is None else PlainWriter(changes, stream_options)

    def request(call: ChatCall, offer: Offer) -> UpstreamRequest:
        accept = _ACCEPT_EVENTS if call.stream else _ACCEPT_JSON
        return UpstreamRequest(path="/chat/completions", headers=accept, body=body_of(call, offer))

    return ChatDialect(
        wire_format=WIRE_FORMAT,
        request=request,
        read_usage=partial(read_whole_usage, parse=parse_usage_with_cost) if reads_cost else read_whole_usage,
        read_whole=partial(read_whole, parse=parse_usage_with_cost) if reads_cost else read_whole,
        meter=CostReadingMeter if reads_cost else OpenAIChatMeter,
        reader=partial(OpenAIChatReader, parse_usage_with_cost) if reads_cost else OpenAIChatReader,
        adds_usage_chunk=stream_options,
        body=body_of,
        plain_writer=plain_writer,
    )


def _options(call: ChatCall, offer: Offer, *, known: frozenset[str], rename: Mapping[str, str]) -> dict[str, Any]:
    """The caller's fields that the provider knows, under its names. Null means the same as absent and is left out.

    An offer's options ``passes`` and ``refuses`` add fields, or take away some, for one model.
    """
    known = _known_to(offer, known)
    body: dict[str, Any] = {}
    for name, value in call.options.items():
        if value is None or name not in known:
            continue
        if name not in rename:
            body[name] = value
        elif call.options.get(target := rename[name]) is None or target == name:
            body[target] = value
    for name, value in offer.defaults.items():
        body.setdefault(name, value)
    return body


def _known_to(offer: Offer, known: frozenset[str]) -> frozenset[str]:
    if "passes" in offer.options or "refuses" in offer.options:
        return (known | frozenset(offer.options.get("passes", ()))) - frozenset(offer.options.get("refuses", ()))
    return known


def _plain_changes(known: frozenset[str], rename: Mapping[str, str]) -> tuple[tuple[str, str | None], ...] | None:
    """What ``body_of`` does to the options of a plain conversation, option by option: those that are left out (None)
    or get another name. None where that cannot be said so."""
    targets = {name: rename.get(name, name) if name in known else None for name in PLAIN_OPTIONS}
    changes = tuple((name, target) for name, target in targets.items() if target != name)
    new_names = [target for _, target in changes if target is not None]
    # What could not be written one by one: names that are no plain ones, are changed themselves, or come twice.
    if not set(new_names) <= set(PLAIN_OPTIONS) - dict(changes).keys() or len(set(new_names)) < len(new_names):
        return None
    if "stream_options" in known:  # by ``passes``, as the caller sent it
        return None
    return changes
