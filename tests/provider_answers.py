"""``aioresponses`` for tests in which only "the provider said this" matters: one answer, whole, without a socket.

Its newest release (0.7.9) makes responses as aiohttp had them before 3.14, without the ``stream_writer`` that they need
now (pnuckowski/aioresponses, issue 289). Until that is mended, the class it makes them of is this one.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import aiohttp
import aioresponses.core
from aioresponses import aioresponses as provider_answers

__all__ = ["provider_answers"]


class _Response(aiohttp.ClientResponse):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        named.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(*arguments, **named)


if "stream_writer" in inspect.signature(aiohttp.ClientResponse.__init__).parameters:
    vars(aioresponses.core)["ClientResponse"] = _Response
