from __future__ import annotations

from typing import Any

import pytest

from bitmesh_proxy.auth.sealing import Sealer
from bitmesh_proxy.errors import (
    ContextLengthExceeded,
    InvalidEncryptedContent,
    InvalidRequest,
    PreviousResponseNotFound,
)
from bitmesh_proxy.storage.database import Database
from bitmesh_proxy.storage.responses import ResponseStore, StoredResponse
from bitmesh_proxy.web.responses.conversation import Conversations
from tests.endpoints.responses.making import a_request
from tests.web.responses.examples import NOON_S, a_store

SEALER = Sealer(b"m" * 32, "compaction")


@pytest.fixture
def store(database: Database) -> ResponseStore:
    return a_store(database)


@pytest.fixture
def conversations(store: ResponseStore) -> Conversations:
    return Conversations(store, SEALER, max_context_bytes=100_000)


def said(item_id: str, text: str, role: str = "user") -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "message",
        "status": "completed",
        "role": role,
        "content": [{"type": "input_text" if role == "user" else "output_text", "text": text}],
    }


async def keep(store: ResponseStore, number: int, *, status: str = "completed", **more: Any) -> None:
    body = {"status": status, "output": [said(f"out_{number}", f"answer {number}", "assistant")]}
    fields: dict[str, Any] = {
        "id": f"resp_{number}",
        "account_id": "acct_1",
        "status": status,
        "body": body,
        "input_items": [said(f"in_{number}", f"question {number}")],
        "request_id": "req",
        "created_at_s": NOON_S,
        "instance": 1,
    }
    await store.save(StoredResponse(**{**fields, **more}))


def texts_of(items: Any) -> list[str]:
    return [part["text"] for item in items for part in item["content"]]


async def test_everything_that_was_said_comes_first(store: ResponseStore, conversations: Conversations) -> None:
    await keep(store, 1)
    await keep(store, 2, previous_id="resp_1")
    conversation = await conversations.of(a_request(input="now", previous_response_id="resp_2"), "acct_1")
    assert texts_of(conversation.context) == ["question 1", "answer 1", "question 2", "answer 2"]
    assert texts_of(conversation.shown_items) == ["now"]


async def test_what_a_connection_remembers_needs_no_store(conversations: Conversations) -> None:
    request = a_request(input="now", previous_response_id="resp_9")
    conversation = await conversations.of(request, "acct_1", {"resp_9": [said("in_9", "before")]})
    assert texts_of(conversation.context) == ["before"]


async def test_what_goes_on_from_something_forgotten_says_so(
    store: ResponseStore, conversations: Conversations
) -> None:
    """It can be looked at still, so that it being "not found" would be no help."""
    for number in (1, 2, 3):
        await keep(store, number, previous_id=f"resp_{number - 1}" if number > 1 else None)
    await store.delete("acct_1", "resp_1")
    with pytest.raises(PreviousResponseNotFound, match="'resp_3' goes on from one that is not stored any more"):
        await conversations.of(a_request(input="now", previous_response_id="resp_3"), "acct_1")
    with pytest.raises(PreviousResponseNotFound, match="'resp_1' was not found"):
        await conversations.of(a_request(input="now", previous_response_id="resp_1"), "acct_1")


@pytest.mark.parametrize("account_id", ["acct_1", "acct_2"])
async def test_what_is_not_there_is_not_found(
    store: ResponseStore, conversations: Conversations, account_id: str
) -> None:
    await keep(store, 1, account_id="acct_1")
    wanted = "resp_2" if account_id == "acct_1" else "resp_1"
    with pytest.raises(PreviousResponseNotFound):
        await conversations.of(a_request(previous_response_id=wanted), account_id)


async def test_what_is_under_way_cannot_be_gone_on_with(store: ResponseStore, conversations: Conversations) -> None:
    await keep(store, 1, status="in_progress")
    with pytest.raises(InvalidRequest) as raised:
        await conversations.of(a_request(previous_response_id="resp_1"), "acct_1")
    assert raised.value.param == "previous_response_id"


async def test_a_context_has_its_bound(store: ResponseStore) -> None:
    await keep(store, 1)
    with pytest.raises(ContextLengthExceeded):
        await Conversations(store, SEALER, max_context_bytes=10).of(a_request(previous_response_id="resp_1"), "acct_1")


async def test_what_is_remembered_referred_to_or_sealed_has_the_same_bound(store: ResponseStore) -> None:
    conversations = Conversations(store, SEALER, max_context_bytes=3_000)
    await keep(store, 1, input_items=[said("in_1", "a" * 1_000)])
    reference, sealed = {"id": "in_1"}, {"type": "compaction", "encrypted_content": SEALER.seal(b"a" * 1_000, "acct_1")}
    for items in ([reference] * 2, [sealed] * 2):
        assert len((await conversations.of(a_request(input=items), "acct_1")).shown_items) == 2
        with pytest.raises(ContextLengthExceeded) as raised:
            await conversations.of(a_request(input=items * 2), "acct_1")
        assert raised.value.param == "input"
    remembered = {"resp_2": [said("in_2", "a" * 1_000)] * 2, "resp_3": [said("in_3", "a" * 1_000)] * 4}
    assert (await conversations.of(a_request(previous_response_id="resp_2"), "acct_1", remembered)).context
    with pytest.raises(ContextLengthExceeded) as raised:
        await conversations.of(a_request(previous_response_id="resp_3"), "acct_1", remembered)
    assert raised.value.param == "previous_response_id"


async def test_references_become_what_they_name(store: ResponseStore, conversations: Conversations) -> None:
    await keep(store, 1)
    conversation = await conversations.of(a_request(input=[{"id": "out_1"}]), "acct_1")
    assert texts_of(conversation.request.items) == ["answer 1"]
    with pytest.raises(InvalidRequest) as raised:
        await conversations.of(a_request(input=[{"id": "out_1"}]), "acct_2")
    assert raised.value.param == "input"


async def test_seals_are_read_by_the_model_and_kept_as_they_are(conversations: Conversations) -> None:
    sealed = {"type": "compaction", "encrypted_content": SEALER.seal(b"Ada asked.", "acct_1")}
    conversation = await conversations.of(a_request(input=[sealed]), "acct_1")
    assert conversation.request.items[0]["type"] == "compaction"
    assert texts_of(conversation.shown_items)[0].endswith("Ada asked.")
    with pytest.raises(InvalidEncryptedContent):
        await conversations.of(a_request(input=[sealed]), "acct_2")


async def test_an_output_without_its_call_is_refused(conversations: Conversations) -> None:
    orphan = {"type": "function_call_output", "call_id": "c", "output": "x"}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_1"}
    with pytest.raises(InvalidRequest):
        await conversations.of(a_request(input=[orphan]), "acct_1")
    request = a_request(input=[orphan], previous_response_id="resp_1")
    conversation = await conversations.of(request, "acct_1", {"resp_1": [call]})
    assert len(conversation.shown_items) == 1
