"""A model as callers know it, with the offers that serve it."""

from __future__ import annotations

import msgspec

from bitmesh_proxy.calls import Operation
from bitmesh_proxy.catalogue.offer import Offer


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """``id`` is what callers send (``owner/name`` or a bare name); ``aliases`` resolve to it everywhere.

    ``inputs`` and ``outputs`` are modalities: ``text``, ``image``, ``video``, ``audio``, ``embedding``.
    ``context_tokens`` bounds input and output together. ``released_on`` and ``retires_on`` are ISO dates.
    """

    id: str
    operation: Operation
    offers: tuple[Offer, ...]
    title: str = ""
    owner: str = ""
    aliases: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ("text",)
    outputs: tuple[str, ...] = ("text",)
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    released_on: str | None = None
    retires_on: str | None = None
