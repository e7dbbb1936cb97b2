"""What a request goes on from: earlier responses, items by reference, sealed summaries. All of it is the account's own.

The order is: the context (previous input, previous output, the same of what came before), then the new input. Earlier
instructions are not part of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from bitmesh_proxy.auth.sealing import Sealer
from bitmesh_proxy.calls import JsonObject
from bitmesh_proxy.endpoints.responses.compaction import expanded
from bitmesh_proxy.endpoints.responses.items import check_call_ids
from bitmesh_proxy.endpoints.responses.request import ResponseRequest
from bitmesh_proxy.errors import ContextLengthExceeded, InvalidRequest, PreviousResponseNotFound
from bitmesh_proxy.storage.responses import ContextTooLarge, ResponseStore, about_bytes


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """``context`` as it was said, ``request`` with its references resolved; ``shown_`` what a model reads of both."""

    request: ResponseRequest
    context: tuple[JsonObject, ...]
    shown_context: tuple[JsonObject, ...]
    shown_items: tuple[JsonObject, ...]


class Conversations:
    """Puts conversations together."""

    def __init__(self, store: ResponseStore, sealer: Sealer, *, max_context_bytes: int) -> None:
        self._store = store
        self._sealer = sealer
        self._max_context_bytes = max_context_bytes

    async def of(
        self,
        request: ResponseRequest,
        account_id: str,
        remembered: Mapping[str, Sequence[JsonObject]] | None = None,
    ) -> Conversation:
        """The conversation of a request. ``remembered`` are responses (id → all items) that no store has.

        Raises PreviousResponseNotFound, InvalidEncryptedContent, ContextLengthExceeded, or InvalidRequest for a
        reference or call that leads nowhere.
        """
        context = await self._context(request.previous_response_id, account_id, remembered or {})
        if any(item["type"] == "item_reference" for item in request.items):
            request = replace(request, items=await self._resolved(request, account_id))
        check_call_ids([*context, *request.items], param=request.input_name)
        return Conversation(
            request=request,
            context=tuple(context),
            shown_context=await self._all_shown(tuple(context), request, account_id),
            shown_items=await self._all_shown(request.items, request, account_id),
        )

    async def _context(
        self, response_id: str | None, account_id: str, remembered: Mapping[str, Sequence[JsonObject]]
    ) -> list[JsonObject]:
        if response_id is None:
            return []
        if response_id in remembered:
            items = remembered[response_id]
            self._check_size(sum(map(about_bytes, items)), "previous_response_id")
            return list(items)
        try:
            chain = await self._store.chain(account_id, response_id, max_bytes=self._max_context_bytes)
        except ContextTooLarge as exc:
            raise self._too_large("previous_response_id") from exc
        if chain is None:
            is_there = await self._store.get(account_id, response_id) is not None
            raise PreviousResponseNotFound(
                f"The previous response '{response_id[:64]}' "
                + ("goes on from one that is not stored any more." if is_there else "was not found."),
                param="previous_response_id",
            )
        if chain[-1].is_under_way:
            raise InvalidRequest("The previous response is still under way.", param="previous_response_id")
        return [item for response in chain for item in (*response.input_items, *response.output)]

    async def _resolved(self, request: ResponseRequest, account_id: str) -> tuple[JsonObject, ...]:
        """The items of the request, with those in the place of references that they name."""
        wanted = {item["id"] for item in request.items if item["type"] == "item_reference"}
        try:
            found = await self._store.find_items(account_id, wanted, max_bytes=self._max_context_bytes)
        except ContextTooLarge as exc:
            raise self._too_large(request.input_name) from exc
        items: list[JsonObject] = []
        size_bytes = 0
        for item in request.items:
            if item["type"] == "item_reference":
                if item["id"] not in found:
                    raise InvalidRequest(f"There is no item '{item['id'][:64]}'.", param=request.input_name)
                item = found[item["id"]]
                # Where an item is named ten thousand times, it is there ten thousand times.
                size_bytes += about_bytes(item)
                self._check_size(size_bytes, request.input_name)
            items.append(item)
        return tuple(items)

    async def _all_shown(
        self, items: tuple[JsonObject, ...], request: ResponseRequest, account_id: str
    ) -> tuple[JsonObject, ...]:
        if not any(item["type"] == "compaction" for item in items):
            return items
        shown: list[JsonObject] = []
        size_bytes = 0
        for item in items:
            if item["type"] == "compaction":
                content = await asyncio.to_thread(self._sealer.open, item["encrypted_content"], account_id)
                size_bytes += len(content)
                self._check_size(size_bytes, request.input_name)
                item = expanded(content.decode(), item["id"])
            shown.append(item)
        return tuple(shown)

    def _check_size(self, size_bytes: int, param: str) -> None:
        if size_bytes > self._max_context_bytes:
            raise self._too_large(param)

    def _too_large(self, param: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"The conversation so far is too large: {self._max_context_bytes} bytes are taken.", param=param
        )
